"""Weighted k-nearest-neighbour classification on the sphere (Wu et al. 2018, section 3.4; as in DINO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def knn_predict(
    bank: Tensor,
    labels: Tensor,
    query: Tensor,
    *,
    k: int = 20,
    classes: int,
    temperature: float = 0.07,
    block: int = 1024,
) -> Tensor:
    """Each query's class by the vote of its k nearest of the bank, weighted by exp(cosine / temperature).

    Args:
        bank: [N, D]; labels: [N] int64; query: [M, D]. Rows need not be normalised.
        block: queries compared at once, so that no more than block x N similarities are ever held.

    Returns:
        [M] int64.
    """
    bank = F.normalize(bank.float(), dim=1)
    k = min(k, len(bank))
    predicted = []
    for part in query.split(block):
        similarity, nearest = (F.normalize(part.float(), dim=1) @ bank.T).topk(k, dim=1)  # [m, k]
        weight = (
            (similarity - similarity[:, :1]) / temperature
        ).exp()  # the shift changes no winner, and cannot overflow
        votes = weight.new_zeros(len(part), classes).scatter_add_(1, labels[nearest], weight)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)
