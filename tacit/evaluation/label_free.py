"""How good features look without a label. Pure functions, in float32, cheap enough to watch during training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rankme(x: Tensor, eps: float = 1e-7) -> Tensor:
    """Effective rank: the exponential of the entropy of the singular values (Garrido et al. 2023, eq. 1).

    Args:
        x: [N, D] features, as they are.

    Returns:
        A scalar between 1 (all rows along one direction) and min(N, D).
    """
    s = torch.linalg.svdvals(x.float())
    p = s / s.sum().clamp_min(eps) + eps
    return torch.exp(-(p * p.log()).sum())


def feature_std(x: Tensor) -> Tensor:
    """How far L2-normalised rows [N, D] spread: mean per-dimension std times √D (Chen & He 2021, section 4.1).

    About 1 when directions are uniform, 0 when all rows are the same.
    """
    x = F.normalize(x.float(), dim=1)
    return x.std(0, correction=0).mean() * x.shape[1] ** 0.5


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of L2-normalised positives [N, D] (Wang & Isola 2020, section 4.1.1); 0 to 4."""
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential over pairs of L2-normalised rows [N, D] (Wang & Isola 2020, section 4.1.2).

    0 when all rows are the same, about -2t when they are all but orthogonal; lower is more uniform.
    """
    return torch.pdist(F.normalize(x.float(), dim=1)).square().mul(-t).exp().mean().log()
