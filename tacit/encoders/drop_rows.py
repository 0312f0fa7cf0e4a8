"""Stochastic depth of one rate in all blocks, which at high rates leaves rows of the batch out (DINOv2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor

from tacit.encoders.encoder import Encoder, blocks_with_drop_path
from tacit.encoders.skip_rows import PLAIN_BLOCKS

WORTH = 0.1  # above this rate the time saved is more than that of picking the rows (Oquab et al. 2023, section 5)


def uniform_drop_path(encoder: Encoder, rate: float) -> Encoder:
    """Drop every residual branch of every block alike, in place. Returns the encoder.

    Rates above a tenth in a ViT: a branch is computed for int(B (1 - rate)) rows of the batch, at least one, drawn anew
    each time, and what it adds to them is scaled by B over their number; the others pass it by. Otherwise each row is
    dropped by itself.
    """
    for block in blocks_with_drop_path(encoder):
        if rate > WORTH and type(block) in PLAIN_BLOCKS:
            block.__class__ = _SomeRows
            block.rate = rate
            continue
        for slot in ("drop_path1", "drop_path2"):
            if rate and hasattr(block, slot):
                setattr(block, slot, DropPath(rate))
    return encoder


class _SomeRows(Block):
    rate: float

    def forward(self, x: Tensor) -> Tensor:
        x = self._add(x, lambda rows: self.ls1(self.attn(self.norm1(rows))))
        return self._add(x, lambda rows: self.ls2(self.mlp(self.norm2(rows))))

    def _add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.training:
            return x + branch(x)
        kept = max(int(len(x) * (1 - self.rate)), 1)
        rows = torch.randperm(len(x), device=x.device)[:kept]
        return x.index_add(0, rows, branch(x[rows]).to(x.dtype), alpha=len(x) / kept)
