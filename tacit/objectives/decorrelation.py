"""Variance-invariance-covariance regularisation (Bardes, Ponce and LeCun 2022, arXiv 2105.04906).

VICReg adds, with coefficients, `invariance(x, y)`, `(variance(x) + variance(y)) / 2` and
`covariance(x) + covariance(y)`. Statistics over all ranks are those of `gather_with_grad(x)`. All in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import UsageError


def invariance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of two views' embeddings, over B and D: 2 x [B, D] -> scalar (eq. 5, divided by D)."""
    with torch.autocast(x.device.type, enabled=False):
        return F.mse_loss(x.float(), y.float())


def variance(x: Tensor, gamma: float = 1.0, eps: float = 1e-4) -> Tensor:
    """How far the dimensions' standard deviations fall short of `gamma` (eq. 1 and 2).

    The mean over D of `max(0, gamma - sqrt(Var(x_d) + eps))` with the unbiased variance over B: [B, D] -> scalar.

    Raises:
        UsageError: fewer than two rows.
    """
    _needs_two(x)
    with torch.autocast(x.device.type, enabled=False):
        return F.relu(gamma - (x.float().var(0) + eps).sqrt()).mean()


def covariance(x: Tensor) -> Tensor:
    """The sum of the squared off-diagonal entries of the unbiased covariance, over D: [B, D] -> scalar (eq. 3 and 4).

    Raises:
        UsageError: fewer than two rows.
    """
    _needs_two(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        x = x - x.mean(0)
        c = x.T @ x / (len(x) - 1)  # [D, D]
        return (c - c.diagonal().diag()).square().sum() / x.shape[1]


def _needs_two(x: Tensor) -> None:
    if len(x) < 2:
        raise UsageError(f"{len(x)} rows have no variance: give a batch of at least 2 on each rank.")
