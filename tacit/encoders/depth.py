"""Which layer of a trunk a parameter belongs to, for rates that fall with depth (Bao et al. 2021, BEiT)."""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer

from tacit.encoders.encoder import Encoder
from tacit.encoders.vatt import Trunk


def depth_of(name: str, encoder: Encoder) -> tuple[int, int]:
    """The layer a parameter of the trunk belongs to, from 0 (patch embedding), and the number of the last (BEiT)."""
    trunk = encoder.trunk
    if isinstance(trunk, VisionTransformer):
        blocks = len(trunk.blocks)
        inside = name.split(".")
        if inside[0] == "blocks":
            return int(inside[1]) + 1, blocks + 1
        return (blocks + 1 if name.startswith(("norm.", "fc_norm.")) else 0), blocks + 1
    if isinstance(trunk, SwinTransformer | SwinTransformerV2):
        sizes = [len(stage.blocks) for stage in trunk.layers]
        inside = name.split(".")
        if inside[0] == "layers":
            before = sum(sizes[: int(inside[1])])
            return before + (int(inside[3]) if inside[2] == "blocks" else 0) + 1, sum(sizes) + 1
        return (sum(sizes) + 1 if name.startswith("norm.") else 0), sum(sizes) + 1
    if isinstance(trunk, Trunk):
        blocks, inside = len(trunk.stack.blocks), name.split(".")
        if inside[:2] == ["stack", "blocks"]:
            return int(inside[2]) + 1, blocks + 1
        return (blocks + 1 if inside[0] in ("stack", "after") else 0), blocks + 1
    return 0, 1
