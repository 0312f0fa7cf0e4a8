"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers (Chen et al. 2021, arXiv 2104.02057).

Momentum contrast without a queue: a query's negatives are the other keys of the batch. A ViT is trained with its random
patch projection frozen, since that is where its instability begins (section 4.2). The engine watches for it: gradient
norms by layer, their spikes, and dips of the k-NN curve. With `accumulate` the negatives are those of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.schedules import cosine
from tacit.heads import mlp
from tacit.objectives import batch_info_nce
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Crop, unlike_pair


@dataclass(frozen=True)
class Settings(Recipe):
    # AdamW without clipping, decaying everything that is trained: biases, norms and the class token too.
    encoder: str = again(Recipe, "encoder", "vit_small_12h")
    batch_size: int = again(Recipe, "batch_size", 4096)
    lr: float = again(Recipe, "lr", 1.5e-4)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 40.0)
    weight_decay: float = again(Recipe, "weight_decay", 0.1)
    decay_vectors: bool = again(Recipe, "decay_vectors", True)

    temperature: float = setting(0.2, "divides the similarities; the loss is multiplied by twice that", low=1e-3)
    momentum: float = setting(0.99, "of the key branch at the first step; rises to 1 by a cosine", low=0, high=1)
    freeze_patch: bool = setting(True, "the patch projection of a ViT or Swin keeps its random weights")
    positions: str = setting("sincos", "of a ViT: fixed sines and cosines, or learned", choices=("sincos", "learned"))
    norm_before_mlp: str = setting("ln", "norm before each MLP of the encoders", choices=("ln", "bn"))
    hidden: int = setting(4096, "hidden width of projector and predictor", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)
    projector_layers: int = setting(3, "linear layers of the projector", low=1)
    predictor_layers: int = setting(2, "linear layers of the predictor; 0 for none", low=0)
    predictor_norm: bool = setting(True, "a BatchNorm ends the predictor, as it ends the projector")
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)


class MoCoV3(Method):
    title = "MoCo v3"
    paper = "Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers, arXiv 2104.02057"
    modality = "image"
    family = "contrastive"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # 100 epochs; for 300 lr=0.3, for 1000 lr=0.3, weight_decay=1.5e-6 and momentum=0.996.
        "resnet50": Settings(
            encoder="resnet50", epochs=100, optimizer="lars", lr=0.6, weight_decay=1e-6, decay_vectors=False,
            warmup_epochs=10, temperature=1.0, freeze_patch=False, projector_layers=2, predictor_norm=False,
            min_area=0.2,
        ),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Far fewer steps than the paper's:
        # batches of a 64th for more of them, hence 63 negatives a query; a short warm-up, a rate of two fifths of the
        # paper's at its batch, which AdamW bears at this width. Heads of an eighth and a half for a narrow encoder.
        # Inputs of a seventh: half the blur, and larger crops.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=4e-3, hidden=512, out=128,
            blur_sigma=(0.1, 1.0), min_area=0.2,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16}

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window,
            norm_before_mlp=s.norm_before_mlp,
        )  # fmt: skip
        trunk = self.encoder.trunk
        if "drop_tokens" in self.encoder.can:  # a plain ViT
            encoders.xavier_(self.encoder, split_qkv=True)
            nn.init.normal_(trunk.cls_token, std=1e-6)
            if s.positions == "sincos":
                encoders.sincos_positions_(self.encoder, first="row")
        if s.freeze_patch and hasattr(trunk, "patch_embed"):
            trunk.patch_embed.proj.requires_grad_(False)  # no gradient, hence no decay either
        plain = {"bias": False, "last_norm": "bn_plain"}
        self.projector = mlp(self.encoder.width, s.hidden, s.out, s.projector_layers, **plain)
        if not s.predictor_norm:
            plain["last_norm"] = "none"
        self.predictor = mlp(s.out, s.hidden, s.out, s.predictor_layers, **plain)
        # The key branch stays in train mode: it normalises by its own batches and keeps its own running statistics.
        self.key_encoder = momentum_copy(self.encoder)
        self.key_projector = momentum_copy(self.projector)

    def views(self) -> list[Crop]:
        """T1 always blurs and never solarises, T2 blurs one in ten and solarises one in five; all else is shared."""
        pair = {"min_area": self.s.min_area, "blur_sigma": self.s.blur_sigma}
        return unlike_pair(self.encoder.inputs, names=("T1", "T2"), **pair)

    def after_init(self) -> None:
        ema_update(self.key_encoder, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return cosine(progress.step, progress.steps, self.s.momentum, 1.0)

    def before_step(self, progress: Progress) -> None:
        # Before the key forward and before this step's update: the keys see the online weights the queries see.
        m = self.momentum(progress)
        ema_update(self.key_encoder, self.encoder, m)
        ema_update(self.key_projector, self.projector, m)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 2 x [B, C, H, W]
        features = encoders.view_by_view(self.encoder, images)  # 2 x [B, D]
        q1, q2 = (self.predictor(self.projector(x)) for x in features)
        with torch.no_grad():
            k1, k2 = (self.key_projector(x) for x in encoders.view_by_view(self.key_encoder, images))
        t = self.s.temperature
        terms = {"q1k2": batch_info_nce(q1, k2, t), "q2k1": batch_info_nce(q2, k1, t)}
        signals = {
            "features": features[0].detach(),
            "embeddings": F.normalize(torch.cat([q1, q2]).detach().float(), dim=1),
            "positives": F.normalize(torch.cat([k2, k1]).float(), dim=1),
            "momentum": torch.tensor(self.momentum(progress)),
        }
        return Step(terms, signals)
