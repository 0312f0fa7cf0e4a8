"""How good features look without a label, and how well such a look would have ordered runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from tacit.errors import DataError
from tacit.objectives.spectra import alignment, alpha_req, feature_std, lidar, rankme, uniformity

__all__ = [
    "RankCorrelation",
    "alignment",
    "alpha_req",
    "feature_std",
    "lidar",
    "rank_correlation",
    "rankme",
    "uniformity",
]


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
    from scipy.stats import rankdata  # takes a second to load, which no training should wait for

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
    ranks = np.array([_unit(rankdata(v) - (n + 1) / 2) for v in (probe, *quality.values())])
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
