"""Fixed positions of a ViT: sines and cosines of where a patch lies (Vaswani et al. 2017, section 3.5), in two axes."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tacit.encoders.encoder import Encoder
from tacit.errors import UsageError

AXES = ("row", "column")
BASE = 10_000.0


def sincos_2d(width: int, rows: int, columns: int, first: str = "column") -> Tensor:
    """Positions of a grid of patches, row by row: float32 [rows * columns, width], values in [-1, 1].

    With `omega_j = 10000^(-j / (width / 4))`, the first half of the channels is `[sin(a omega), cos(a omega)]` of one
    axis' index a, counted from 0, the second half the same of the other axis.

    Args:
        first: the axis in the first half: "column" in MAE, "row" in MoCo v3.

    Raises:
        UsageError: a width that is no multiple of 4, or another axis.
    """
    if width % 4 or width < 4:
        raise UsageError(f"width = {width}: sine-cosine positions in two axes need a multiple of 4.")
    if first not in AXES:
        raise UsageError(f"first = {first!r}: choose one of {', '.join(AXES)}.")
    omega = BASE ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    axes = (row, column) if first == "row" else (column, row)
    angles = [axis.reshape(-1, 1) * omega for axis in axes]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


@torch.no_grad()
def sincos_positions_(encoder: Encoder, first: str = "column") -> Encoder:
    """Set a ViT's position embeddings to `sincos_2d`, zeros for the class token, and freeze them. Returns the encoder.

    Raises:
        UsageError: no ViT, or one without position embeddings, or of a width that is no multiple of 4.
    """
    trunk = encoder.trunk
    table = getattr(trunk, "pos_embed", None)
    if not isinstance(trunk, VisionTransformer) or table is None:
        raise UsageError(f"{encoder.name} has no table of positions to fill. Take a ViT, such as vit_mini.")
    rows, columns = trunk.patch_embed.grid_size
    patches = sincos_2d(table.shape[-1], rows, columns, first)
    table.zero_()
    table[0, table.shape[1] - len(patches) :] = patches
    table.requires_grad_(False)
    encoder.start = (*encoder.start, f"sincos_{first}")
    return encoder
