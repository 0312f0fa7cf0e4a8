"""Segmentation without training: each patch asks its nearest patches of a bank what they are made of.

As in Balazevic et al. 2023 (Hummingbird, section 3) with the votes of Wu et al. 2018, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import DataError
from tacit.evaluation.dense.masks import IGNORE
from tacit.settings import setting


@dataclass(frozen=True)
class PatchKnn:
    """How patches vote."""

    size: int | None = setting(None, "Side in pixels that whole images are resized to; empty is the encoder's.", low=1)
    levels: str = setting("last", "The last level, or all at the finest grid.", choices=("last", "all"))
    k: int = setting(30, "Neighbours that vote.", low=1)
    temperature: float = setting(0.07, "A vote weighs exp(cosine / temperature).", low=1e-4)
    bank: int = setting(100_000, "Patches in the bank, drawn by the seed where there are more.", low=1)


def patch_labels(y: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Labelled pixels of each class in each patch: masks [N, H, W] -> counts [N, h, w, K]; `IGNORE` is not counted."""
    n, height, width = y.shape
    rows = torch.arange(height) * grid[0] // height
    columns = torch.arange(width) * grid[1] // width
    cell = rows[:, None] * grid[1] + columns  # [H, W]
    cell = torch.arange(n).view(-1, 1, 1) * (grid[0] * grid[1]) + cell
    known = y != IGNORE
    index = cell[known] * classes + y[known].long()
    return torch.bincount(index, minlength=n * grid[0] * grid[1] * classes).view(n, *grid, classes)


def build_bank(x: Tensor, y: Tensor, classes: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit patch tokens [M, D] and their label distributions [M, K], of features [N, D, h, w] and masks [N, S, S].

    Patches without a labelled pixel are left out, and `size` are drawn where there are more.
    Raises `DataError` when none is labelled.
    """
    counts = patch_labels(y, tuple(x.shape[2:]), classes).flatten(0, 2)
    labelled = (counts.sum(1) > 0).nonzero()[:, 0]
    if not len(labelled):
        raise DataError("None of the training masks has a labelled pixel.")
    if len(labelled) > size:
        labelled = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))[:size]]
    tokens = x.permute(0, 2, 3, 1).flatten(0, 2)[labelled]
    counts = counts[labelled].float()
    return F.normalize(tokens.float(), dim=1), counts / counts.sum(1, keepdim=True)


@torch.no_grad()
def vote(bank: Tensor, labels: Tensor, x: Tensor, *, k: int, temperature: float, block: int = 1024) -> Tensor:
    """Class probabilities [B, K, h, w] of features [B, D, h, w] by a bank [M, D] with distributions [M, K].

    A patch gets the mean of its k nearest distributions, weighted by exp(cosine / temperature). `block` patches are
    compared at once.
    """
    k = min(k, len(bank))
    tokens = F.normalize(x.permute(0, 2, 3, 1).flatten(0, 2).float(), dim=1)
    found = []
    for part in tokens.split(block):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        weight = torch.softmax(similarity / temperature, dim=1)  # [m, k]
        found.append(torch.einsum("mk,mkc->mc", weight, labels[nearest]))
    return torch.cat(found).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
