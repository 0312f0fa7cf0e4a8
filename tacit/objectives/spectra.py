"""What features [N, D] are like without a label: how many directions they use, how they spread. Pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import DataError


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


def lidar(x: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """Effective rank of the LDA matrix, records as classes, views as their samples (Thilak et al. 2023, section 4).

    Args:
        x: [n, q, D], features of q views of each of n records; the paper's n is 1,000 and its q 50.
        delta: added to the diagonal of the scatter within records; it bounds what directions without any can count.

    Returns:
        A scalar between 1 (all records at one place, or along one direction) and min(n - 1, D), in float64.

    Raises:
        DataError: not [n, q, D] with two records and two views at the least.
    """
    if x.ndim != 3 or x.shape[0] < 2 or x.shape[1] < 2 or not torch.isfinite(x).all():
        raise DataError(
            f"LiDAR takes [records, views, width] of numbers, with two records and two views; got {list(x.shape)}."
        )
    x = x.double()  # squared differences of small scatters; the inverse does not forgive float32
    centre = x.mean(1)
    between = centre - centre.mean(0)
    within = (x - centre[:, None]).flatten(0, 1)
    scatter = within.T @ within / len(within)
    # with S_w = L L^T, S_w^-1/2 S_b S_w^-1/2 has the squared singular values of the class means over L
    root = torch.linalg.cholesky(scatter + delta * torch.eye(len(scatter), dtype=x.dtype, device=x.device))
    s = torch.linalg.svdvals(torch.linalg.solve_triangular(root, between.T, upper=False) / len(x) ** 0.5).square()
    p = s / s.sum().clamp_min(eps) + eps
    return torch.exp(-(p * p.log()).sum())


def alpha_req(x: Tensor, first: int = 3, last: int = 100) -> Tensor:
    """Exponent a of the power law i^-a that the covariance eigenvalues follow (Agrawal et al. 2022, section 3).

    Args:
        x: [N, D] features.
        first, last: the eigenvalues, counted from 1 at the largest, through which log value against log i is fitted by
            least squares. Those that are no more than the rounding of `x` end the range earlier.

    Returns:
        A scalar. Large when few directions carry the variance, 0 when all carry the same; the paper finds about 1 best.

    Raises:
        DataError: fewer than three eigenvalues in the range that are not zero.
    """
    if x.ndim != 2 or not torch.isfinite(x).all():
        raise DataError(f"alpha-ReQ takes features [records, width] that are all numbers; got {list(x.shape)}.")
    rounding = torch.finfo(x.dtype).eps * x.abs().max().double() * sum(n**0.5 for n in x.shape)
    x = x.double()
    singular = torch.linalg.svdvals(x - x.mean(0))
    values = singular[singular > rounding][:last].square() / len(x)
    values = values[first - 1 :]
    if len(values) < 3:
        raise DataError(
            f"alpha-ReQ fits three eigenvalues or more from number {first} on; these {len(x):,} features have "
            f"{len(values)} that are not zero. Take more records, or a smaller `first`."
        )
    position = torch.arange(first, first + len(values), dtype=torch.float64, device=x.device).log()
    position, level = position - position.mean(), values.log() - values.log().mean()
    return -(position * level).sum() / position.square().sum()
