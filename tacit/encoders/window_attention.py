"""Swin's attention in bf16 on a CPU, in fewer passes over its scores, with timm's weights and masks."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CLOSED = -1e4  # in the place of timm's -100, of which exp is a denormal number: those make a softmax take three times


def attend_in_fewer_passes(trunk: nn.Module) -> None:
    """Have a Swin's windows attend by `attend_windows` where autocast is to bf16 on a CPU, in place; Swin V2's do not.

    Elsewhere, in other precisions and with dropout of the scores, timm's own forward pass is taken.
    """
    for part in trunk.modules():
        if type(part) is WindowAttention:
            part.__class__ = FewerPasses


class FewerPasses(WindowAttention):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, C] of B windows, and 0 or -100 as [W, N, N] of an image's -> [B, N, C]."""
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        dropped = self.training and self.attn_drop.p > 0
        if not bf16 or x.device.type != "cpu" or self.fused_attn or dropped or torch.compiler.is_compiling():
            return super().forward(x, mask)
        bias = self._get_rel_pos_bias()  # [1, heads, N, N]
        if mask is not None:
            bias = bias + mask.masked_fill(mask <= -100, CLOSED)[:, None]
        return self.proj_drop(self.proj(attend_windows(self.qkv(x), bias, self.scale)))


def attend_windows(qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention inside windows, without dropout: bf16 [B, N, 3 x heads x D] -> bf16 [B, N, heads x D].

    Scores are rounded to bf16 once, with their bias; their softmax is computed in fp32, and rounded.

    Args:
        bias: fp32 [W, heads, N, N], added to the scaled scores; of the windows of an image in turn, or W = 1 for all.
    """
    return _Attention.apply(qkv, bias, scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
        (windows, heads), (batch, tokens) = bias.shape[:2], qkv.shape[:2]
        qkv = qkv.view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)  # [3, B heads, N, D]
        q, k, v = qkv
        scores = bias.to(q.dtype).repeat(batch // windows, 1, 1, 1).flatten(0, 1).baddbmm_(q, k.mT, alpha=scale)
        weights = scores.float().softmax(-1).to(q.dtype)  # PyTorch's own softmax of bf16 is slower for so few keys
        ctx.save_for_backward(qkv, weights)
        ctx.windows, ctx.heads, ctx.scale = windows, heads, scale
        return (weights @ v).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, weights = ctx.saved_tensors
        q, k, v = qkv
        grad = grad.unflatten(2, (ctx.heads, -1)).transpose(1, 2).flatten(0, 1)
        of_scores = torch._softmax_backward_data(grad @ v.mT, weights, -1, weights.dtype)
        of_bias = of_scores.view(-1, ctx.windows, ctx.heads, *of_scores.shape[1:]).sum(0, dtype=torch.float32)
        found = torch.empty_like(qkv)
        torch.bmm(of_scores, k, out=found[0])
        torch.bmm(of_scores.mT, q, out=found[1])
        torch.bmm(weights.mT, grad, out=found[2])
        found[:2] *= ctx.scale
        found = found.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4)
        return found.flatten(2), of_bias, None
