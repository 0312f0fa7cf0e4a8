"""Projectors and predictors."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(width: int, hidden: int, out: int, layers: int) -> nn.Sequential:
    """[Linear, BatchNorm, ReLU] x (layers - 1), then a Linear; every Linear has a bias: [B, width] -> [B, out].

    One layer is a single Linear, none the identity (then the output keeps `width`). The MLP of BYOL and MoBY
    (official `MoBYMLP`). `SyncBatchNorm` takes the place of the BatchNorm when the engine distributes the run.
    """
    if layers == 0:
        return nn.Sequential()
    widths = [width, *[hidden] * (layers - 1)]
    blocks = [
        part
        for before, after in pairwise(widths)
        for part in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True))
    ]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], out))
