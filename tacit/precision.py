"""Which precision a device multiplies in: what it can do quickly, and torch's autocast for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import Unknown

CHOICES = ("auto", "32", "bf16")


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether the hardware itself multiplies bf16: tensor cores, AMX or AVX-512 BF16; False elsewhere."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def resolved(asked: str, device: torch.device | str) -> str:
    """ "bf16" or "32": `auto` is bf16 where that is fast. Raises `Unknown` for what is none of `CHOICES`."""
    if asked not in CHOICES:
        raise Unknown("precision", asked, CHOICES)
    if asked == "auto":
        return "bf16" if bf16_is_fast(device) else "32"
    return asked


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """A context in which convolutions and products of matrices are in bf16, or in which nothing changes for "32".

    Weights, their gradients, the optimiser and the statistics of norms stay in fp32; cast outputs with `.float()`
    before a loss.
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


def unfuse_attention(module: nn.Module, device: torch.device | str, precision: str) -> None:
    """Have timm's attention multiply its matrices one after another, in place, where that is faster.

    That is so in bf16 on a CPU: PyTorch's fused attention takes two to three times as long there, and three to seven
    times with its backward pass. Its scores stay in fp32, and the others are rounded to bf16, as in other autocast
    products. In fp32 there is no difference in time, and the fused one needs less memory.
    """
    if torch.device(device).type == "cpu" and precision == "bf16":
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention of [..., Q, D] to [..., K, D], without a mask: fused but in bf16 on a CPU (see `unfuse_attention`)."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
    return scores.softmax(-1).to(v.dtype) @ v
