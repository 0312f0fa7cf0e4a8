"""Spreading: features of a batch keep away from one another, so that they fill the sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo(x: Tensor, eps: float = 1e-8) -> Tensor:
    """The Kozachenko-Leonenko estimate of differential entropy, negated (Sablayrolles et al. 2019, eq. 3).

    Args:
        x: [B, D], of any length, normalised here, of this rank alone. Give the views of a record one by one, or they
            are driven apart.
        eps: added to every coordinate of a difference and to every distance, so that equal rows have a gradient.

    Returns:
        The mean over B of `-log(distance to the nearest other row)`, in float32; gradients reach both ends of each
        distance. Zero, with a gradient of zero, for fewer than two rows.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = F.normalize(x.float(), dim=1, eps=eps)
        if len(x) < 2:
            return 0.0 * x.sum()
        with torch.no_grad():
            nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
        return -(F.pairwise_distance(x, x[nearest], eps=eps) + eps).log().mean()
