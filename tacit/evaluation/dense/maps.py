"""Features of an encoder on grids: its tokens, or the maps of its stages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import UsageError

LEVELS = ("last", "all")


def stages(encoder: Encoder, x: Tensor) -> list[Tensor]:
    """`encoder.stages`, and in plain words what size cannot be."""
    if "stages" not in encoder.can:
        raise UsageError(f"{encoder.name} gives no maps of its stages. Take a ViT, a Swin or a convolutional encoder.")
    try:
        return encoder.stages(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise encoders.refused(encoder, x, error) from error


def maps(encoder: Encoder, x: Tensor, levels: str = "last") -> Tensor:
    """Features on a grid [B, D, h, w].

    Args:
        x: prepared images whose sides are multiples of `step(encoder)`.
        levels: "last": the tokens after the last norm (ViT, Swin), or the last stage. "all": the stages of a
            hierarchical trunk, brought to the finest by bilinear upsampling, one above the other; the last four blocks
            of a plain ViT.
    """
    if levels == "all":
        found = stages(encoder, x)
        found = found[-4:] if isinstance(encoder.trunk, VisionTransformer) else found
        size = found[0].shape[2:]
        return torch.cat([found[0], *(F.interpolate(f, size=size, mode="bilinear") for f in found[1:])], dim=1)
    if not isinstance(encoder.trunk, VisionTransformer | SwinTransformer | SwinTransformerV2):
        return stages(encoder, x)[-1]
    return encoders.token_grid(encoder, x).permute(0, 3, 1, 2)


def without_norm(encoder: Encoder) -> Encoder:
    """`encoder` without the last norm, which no map of its stages passes; changed in place."""
    if isinstance(getattr(encoder.trunk, "norm", None), nn.Module):
        encoder.trunk.norm = nn.Identity()
    return encoder
