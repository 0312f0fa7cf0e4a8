"""Every published system, named in one table. A method's file is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tacit.errors import Unknown

if TYPE_CHECKING:
    from tacit.engine import Method

METHODS = {
    "moby": "tacit.methods.image.moby:MoBY",
    "dino": "tacit.methods.image.dino:DINO",
    "simclr_v2": "tacit.methods.image.simclr_v2:SimCLRv2",
    "simclr_v2_distil": "tacit.methods.image.simclr_v2_distil:SimCLRv2Distillation",
    "dinov2": "tacit.methods.image.dinov2:DINOv2",
    "esvit": "tacit.methods.image.esvit:EsViT",
    "moco_v2": "tacit.methods.image.moco_v2:MoCoV2",
    "moco_v3": "tacit.methods.image.moco_v3:MoCoV3",
    "byol": "tacit.methods.image.byol:BYOL",
    "tov_vicreg": "tacit.methods.image.tov_vicreg:TOVVICReg",
    "swav": "tacit.methods.image.swav:SwAV",
    "simmim": "tacit.methods.image.simmim:SimMIM",
    "vicreg": "tacit.methods.image.vicreg:VICReg",
    "mae": "tacit.methods.image.mae:MAE",
    "mixed_ae": "tacit.methods.image.mixed_ae:MixedAE",
    "cae": "tacit.methods.image.cae:CAE",
    "dvae": "tacit.methods.image.dvae:DiscreteVAE",
    "gmml": "tacit.methods.image.gmml:GMML",
    "sit": "tacit.methods.image.sit:SiT",
    "sb_ssl": "tacit.methods.image.sb_ssl:SBSSL",
    "asit": "tacit.methods.audio.asit:ASiT",
    "atst_clip": "tacit.methods.audio.atst_clip:ATSTClip",
    "atst_frame": "tacit.methods.audio.atst_frame:ATSTFrame",
    "vatt": "tacit.methods.multimodal.vatt:VATT",
    "emotion_xmodal": "tacit.methods.multimodal.emotion_xmodal:EmotionXModal",
    "lowshot_mim_cluster": "tacit.methods.image.lowshot_mim_cluster:LowShotMIMCluster",
}


def find(name: str) -> type[Method]:
    """The class of a method. Raises `Unknown` with the nearest names."""
    if name not in METHODS:
        raise Unknown("method", name, METHODS, "See: tacit methods")
    module, cls = METHODS[name].split(":")
    return getattr(import_module(module), cls)
