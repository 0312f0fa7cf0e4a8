"""95 % intervals: by the bootstrap over test records, and by Student's t over a few draws or seeds."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


def bootstrap(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [N], records drawn again with replacement."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = [values[rng.integers(n, size=n)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_draws(values: np.ndarray) -> tuple[float, float]:
    """Student's interval of the mean of a few independent values; the value itself when there is one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean - half, mean + half
