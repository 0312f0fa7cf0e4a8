"""How good features look without a label. Pure functions, cheap enough to watch during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
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


@dataclass(frozen=True)
class RankCorrelation:
    """How well a measure orders n runs: correlations from -1 to 1, and two-sided permutation p values."""

    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float
    n: int


def rank_correlation(
    quality: dict[str, Sequence[float]], probe: Sequence[float], *, draws: int = 9999, seed: int = 0
) -> dict[str, RankCorrelation]:
    """Spearman's rho and Kendall's tau-b of each label-free measure [n] with a probe's scores [n] of the same runs.

    P values are shares of orders of the runs with a correlation as far from 0: of all orders for up to 7 runs, of
    `draws` and the observed one beyond. A measure that is best at a value (alpha-ReQ at 1) goes in as -|a - 1|.

    Raises:
        DataError: fewer than 4 runs, lengths that differ, values that are no numbers or all the same; it is named.
    """
    for name, values in {"probe": probe, **quality}.items():
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(probe),) or len(probe) < 4:
            raise DataError(f"{name!r} has {values.shape} values for {len(probe)} runs; take 4 runs, one value each.")
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            raise DataError(f"{name!r} orders no runs: its values are not all numbers, or all the same.")
    n = len(probe)
    if n <= 7:
        orders = np.array(list(permutations(range(n))))
    else:
        rng = np.random.default_rng(seed)
        orders = np.concatenate([np.arange(n)[None], rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)])
    ranks = np.array([_unit(stats.rankdata(v) - (n + 1) / 2) for v in (probe, *quality.values())])
    signs = np.array([_unit(np.sign(np.subtract.outer(v, v))) for v in map(np.asarray, (probe, *quality.values()))])
    rho = ranks[0][orders] @ ranks[1:].T  # [orders, measures], the observed order first
    tau = np.concatenate([_pairs(signs, part) for part in np.array_split(orders, len(orders) * n * n // 2**22 + 1)])
    p_rho, p_tau = ((np.abs(c) >= np.abs(c[0]) - 1e-9).mean(0) for c in (rho, tau))  # equal ones differ by rounding
    columns = zip(rho[0], p_rho, tau[0], p_tau, strict=True)
    return {name: RankCorrelation(*map(float, row), n) for name, row in zip(quality, columns, strict=True)}


def _pairs(signs: np.ndarray, orders: np.ndarray) -> np.ndarray:
    moved = signs[0][orders[:, :, None], orders[:, None, :]]
    return moved.reshape(len(orders), -1) @ signs[1:].reshape(len(signs) - 1, -1).T


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)
