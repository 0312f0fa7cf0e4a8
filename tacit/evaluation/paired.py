"""Two encoders, or many, on the same test records: differences with intervals, tests, and ranks over data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import bdtr, chdtrc

from tacit.errors import DataError
from tacit.evaluation.groups import bootstrap_groups

EXACT = 16  # differences up to which all 2^n signs are tried


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups: Sequence | None = None,
    target: np.ndarray | None = None,
    statistic: Callable[[np.ndarray, np.ndarray], float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much better a is than b, and its 95 % interval, both on the same resamples of records or `groups`.

    Args:
        a, b: [N] what each encoder got on each record (right or wrong, an error): the difference of means; or, with
            `statistic` (such as `clinical.auroc`), scores [N, ...] that enter `statistic(scores, target)`.
    """
    a, b = _pair(a, b)
    if statistic is None:
        return bootstrap_groups(a.astype(np.float64) - b, groups, resamples=resamples, seed=seed)
    if target is None or len(target) != len(a):
        raise DataError(f"A statistic compares {len(a):,} scores with as many targets; give `target`.")

    def gain(x: np.ndarray, y: np.ndarray, t: np.ndarray) -> float:
        return statistic(x, t) - statistic(y, t)

    return bootstrap_groups((a, b, np.asarray(target)), groups, gain, resamples=resamples, seed=seed)


def mcnemar(a_right: np.ndarray, b_right: np.ndarray, *, exact: bool = True) -> tuple[float, int, int]:
    """Two-sided p value that a and b are right equally often, and the records only a, and only b, has right.

    `exact`: binomial over the records on which they differ; otherwise chi-square with one degree of freedom of
    (|only a - only b| - 1)² / (only a + only b) (McNemar 1947; correction by Edwards 1948). 1 when they never differ.
    Records must be independent: with groups, compare by `paired_bootstrap`.
    """
    a, b = _pair(a_right, b_right)
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise DataError("McNemar's test takes right (1) or wrong (0) of each record.")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    differ = only_a + only_b
    if differ == 0:
        return 1.0, 0, 0
    if exact:
        p = min(1.0, 2 * bdtr(min(only_a, only_b), differ, 0.5))
    else:
        p = chdtrc(1, max(abs(only_a - only_b) - 1, 0) ** 2 / differ)
    return float(p), only_a, only_b


def sign_flip_test(a: np.ndarray, b: np.ndarray, *, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided paired permutation test of equal means of [N] and [N]: the share of sign flips at least as far apart.

    All 2^N of them for up to 16 pairs; otherwise `draws` and the observed one.
    """
    a, b = _pair(a, b)
    d = a.astype(np.float64) - b
    if len(d) <= EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
        sums, extra = signs @ d, 0
    else:
        rng = np.random.default_rng(seed)
        sums, extra = np.array([rng.choice((-1, 1), len(d)) @ d for _ in range(draws)]), 1
    as_far = np.abs(sums) >= abs(d.sum()) - 1e-9 * np.abs(d).sum()  # equal sums may differ in their last digit
    return float((as_far.sum() + extra) / (len(sums) + extra))


def holm(p: Sequence[float]) -> np.ndarray:
    """P values [K] adjusted for K comparisons, in the order given (Holm 1979): reject where at most the level."""
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or len(p) == 0 or not ((p >= 0) & (p <= 1)).all():
        raise DataError("Holm's correction takes one or more p values between 0 and 1.")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1)
    return adjusted


def average_ranks(scores: np.ndarray, *, higher_is_better: bool = True) -> np.ndarray:
    """Mean rank [methods] over data sets of scores [data sets, methods]; 1 is best, equals share the mean rank."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape or not np.isfinite(scores).all():
        raise DataError("Ranks take a full table [data sets, methods] of numbers; leave out what was not measured.")
    from scipy.stats import rankdata  # takes a second to load, which no training should wait for

    return rankdata(-scores if higher_is_better else scores, axis=1).mean(0)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or len(a) == 0:
        raise DataError(f"Results {list(a.shape)} and {list(b.shape)} are not of the same records, in the same order.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("Some results are not numbers; leave those records out of both.")
    return a, b
