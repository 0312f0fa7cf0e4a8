"""Contrastive objectives: pull two views of a record together, push other records away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with a shared bank of negatives (van den Oord et al. 2018, eq. 4; He et al. 2020, eq. 1).

    Args:
        query: [B, D], L2-normalised.
        key: [B, D], L2-normalised; row n is the positive of query n.
        negatives: [D, K], L2-normalised columns, the same for every query.
        temperature: divides every similarity.

    Returns:
        The mean over B of `-log(exp(q·k/t) / (exp(q·k/t) + Σ_j exp(q·n_j/t)))`, in float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, negatives = query.float(), key.float(), negatives.float()
        positive = (query * key).sum(1, keepdim=True)  # [B, 1]
        logits = torch.cat([positive, query @ negatives], dim=1) / temperature  # [B, 1 + K]
        target = torch.zeros(len(query), dtype=torch.long, device=query.device)
        return F.cross_entropy(logits, target)
