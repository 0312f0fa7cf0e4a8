"""Scores of a whole test set that are no mean over its images (mIoU, AP): paired differences of two encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tacit.evaluation.intervals import LEVEL

CHUNK = 256  # drawn sets at once


def paired_pooled(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    images: int,
    *,
    resamples: int = 2000,
    draws: int = 1999,
    seed: int = 0,
) -> tuple[float, float, float, float]:
    """How much better a is than b, its 95 % interval, and the p value of no difference.

    Interval: percentiles over images drawn again with replacement, the same for both; draws that leave a score
    undefined are left out. P value: two-sided, over exchanges of the two encoders' results on each image by a coin, all
    2^images of them where these are at most `draws` + 1, otherwise `draws` and the observed one (Efron & Tibshirani
    1993, chapter 15, for pairs). Both pool before they score, as the score itself does.

    Args:
        score: of whole numbers (a [R, images], b [R, images]): the scores [R] of R sets in which the result of encoder
            a on image i counts a[:, i] times and that of encoder b b[:, i] times.
    """
    one, none = np.ones((1, images), np.int64), np.zeros((1, images), np.int64)
    observed = float((score(one, none) - score(none, one))[0])
    gains = [score(w, np.zeros_like(w)) - score(np.zeros_like(w), w) for w in _resampled(images, resamples, seed)]
    low = high = float("nan")
    if (defined := np.concatenate([np.zeros(0), *gains])).size and np.isfinite(defined).any():
        low, high = np.nanquantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    exact = 2**images <= draws + 1
    exchanged = np.concatenate([score(1 - s, s) - score(s, 1 - s) for s in _swapped(images, draws, exact, seed)])
    as_far = np.abs(exchanged) >= abs(observed) - 1e-9  # equal ones may differ in their last digit
    p = (as_far.sum() + (not exact)) / (len(exchanged) + (not exact))
    return observed, float(low), float(high), float(p)


def _resampled(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        yield rng.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))


def _swapped(images: int, draws: int, exact: bool, seed: int) -> Iterator[np.ndarray]:
    """Zeros and ones [R, images]: where the two encoders' results change places."""
    rng = np.random.default_rng([seed, 1])
    count = 2**images if exact else draws
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        yield rows[:, None] >> np.arange(images) & 1 if exact else rng.integers(2, size=(len(rows), images))
