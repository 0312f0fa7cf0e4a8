"""Regression of one embedding onto another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalised_mse(p: Tensor, z: Tensor, *, stop_gradient: bool = True) -> Tensor:
    """Squared distance of unit vectors, `2 - 2 cos(p, z)` (Grill et al. 2020, eq. 2), in float32.

    Args:
        p: [B, D], predictions, of any length.
        z: [B, D], targets, of any length.
        stop_gradient: no gradient reaches the targets; without, it passes through both sides alike.

    Returns:
        The mean over B, in [0, 4].
    """
    with torch.autocast(p.device.type, enabled=False):
        z = z.detach() if stop_gradient else z
        p, z = F.normalize(p.float(), dim=1), F.normalize(z.float(), dim=1)
        return (2 - 2 * (p * z).sum(1)).mean()


def cosine_distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean of 1 - cosine over all vectors: both [..., D]; from 0, the same direction, to 2. In float32 (CAE v2)."""
    return 1 - F.cosine_similarity(predictions.float(), targets.float(), dim=-1).mean()
