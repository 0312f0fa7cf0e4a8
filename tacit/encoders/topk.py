"""Attention to the most similar alone, with the weights of an ordinary one (Chen et al. 2023, MixedAE, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def topk_attention(attention: nn.Module, x: Tensor, keys: int, prefix: int = 1) -> tuple[Tensor, Tensor]:
    """timm's `Attention`, where every query of a patch meets its most similar keys only: [B, P + N, D] -> the same.

    The softmax is over the chosen. The first `prefix` tokens are open to all: their queries meet every key, and every
    query meets their keys, which are not counted.

    Args:
        keys: K, how many patches a patch attends to, in every head; at most N.

    Returns:
        What the attention gives, and the numbers of the patches that were chosen, int64 [B, heads, N, K].
    """
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, d]
    q, k = attention.q_norm(q), attention.k_norm(k)
    with torch.no_grad():  # which are chosen has no gradient; the scale does not change the order
        chosen = (q[:, :, prefix:] @ k[:, :, prefix:].mT).topk(keys, dim=-1).indices
        open_ = torch.ones(*q.shape[:3], q.shape[2], dtype=torch.bool, device=x.device)
        among = torch.zeros_like(open_[:, :, prefix:, prefix:]).scatter_(-1, chosen, True)
        open_[:, :, prefix:, prefix:] = among
    dropped = attention.attn_drop.p if attention.training else 0.0
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=open_, dropout_p=dropped, scale=attention.scale)
    found = attention.norm(found.transpose(1, 2).flatten(2))
    return attention.proj_drop(attention.proj(found)), chosen
