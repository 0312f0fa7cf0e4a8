"""Stochastic depth that does not compute what it throws away: on a CPU a branch runs on the rows it is kept for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def skip_dropped_rows(block: nn.Module) -> None:
    """Have a ViT's or a Swin's block leave out rows, in place; others, and those with a BatchNorm, stay as they are."""
    if any(isinstance(part, _BatchNorm) for part in block.modules()):
        return  # whose statistics are of all rows
    if type(block) is Block:
        block.__class__ = SkippingBlock
    elif type(block) is SwinTransformerBlock:
        block.__class__ = SkippingSwinBlock


class SkippingBlock(Block):
    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None:  # which may have rows of its own
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        x = add_branch(x, self.drop_path1, lambda rows: self.ls1(self.attn(self.norm1(rows), is_causal=is_causal)))
        return add_branch(x, self.drop_path2, lambda rows: self.ls2(self.mlp(self.norm2(rows))))


class SkippingSwinBlock(SwinTransformerBlock):
    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = add_branch(x, self.drop_path1, lambda rows: self._attn(self.norm1(rows)))
        return add_branch(x, self.drop_path2, lambda rows: self.mlp(self.norm2(rows)))


PLAIN_BLOCKS = (Block, SkippingBlock)


def add_branch(x: Tensor, drop: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """x + drop(branch(x)) [B, …], to rounding, with the same draws; what `drop` would make zero is not computed.

    Only in training on a CPU: elsewhere the host would have to wait for the device to know the rows.
    """
    rate = drop.drop_prob if isinstance(drop, DropPath) and drop.training else 0.0
    if not rate or not drop.scale_by_keep or x.device.type != "cpu" or torch.compiler.is_compiling():
        return x + drop(branch(x))
    kept = x.new_empty(len(x)).bernoulli_(1 - rate)
    rows = kept.nonzero().flatten()
    if len(rows) in (0, len(x)):  # of none, weights still get their gradient, which is zero
        return x + branch(x) * (kept / (1 - rate)).view(-1, *(1,) * (x.ndim - 1))
    return x.index_add(0, rows, branch(x[rows]).to(x.dtype), alpha=1 / (1 - rate))
