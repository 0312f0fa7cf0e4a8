"""k-means (Lloyd 1982), for codes of patches."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 8192  # rows compared with the centres at once


@torch.no_grad()
def kmeans(x: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Centres [count, D] of rows [N, D], from `count` different ones of them, drawn by torch's generator.

    Ends early when no row changes its centre. A centre that no row is nearest to takes the place of the row that lies
    farthest from its own.
    """
    different = x.unique(dim=0)
    centres = different[torch.randperm(len(different))[:count]].clone()
    before = None
    for _ in range(rounds):
        nearest, distance = _nearest(x, centres)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centres)
        empty = (sizes == 0).nonzero().flatten()
        centres[empty] = x[distance.argsort(descending=True)[: len(empty)]]
    return centres


def _nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Of every row the number of its nearest centre, and the squared distance to it."""
    squares, found = centres.square().sum(1), []
    for part in x.split(CHUNK):
        found.append((squares - 2 * part @ centres.T).min(1))
    number = torch.cat([f.indices for f in found])
    return number, (torch.cat([f.values for f in found]) + x.square().sum(1)).clamp_min(0)
