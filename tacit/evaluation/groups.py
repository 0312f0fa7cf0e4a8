"""Records that belong together (a patient's slices, an exam's frames): split, checked and resampled as wholes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tacit.errors import DataError, UsageError
from tacit.evaluation.intervals import LEVEL

UNDEFINED = 0.1  # an interval from fewer than nine tenths of the resamples would hold only for the lucky ones
BLOCK = 2**22  # draws held at once


def grouped_split(
    groups: Sequence, labels: np.ndarray | None, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the records (row numbers), the second with about `share` of each class, no group in both.

    Args:
        groups: [N] names or numbers of patients, exams, videos, ...
        labels: [N] classes, [N, C] multi-hot (other than 1 is not counted), or None to balance records alone.
        share: between 0 and 1. Shares are met as far as whole groups allow; a class that one group holds stays whole.

    Raises:
        DataError: fewer than two groups, or lengths that do not match. UsageError: a share that leaves a part empty.
    """
    if not 0 < share < 1:
        raise UsageError(f"A share of {share} leaves one part empty; it lies between 0 and 1, as in 0.2.")
    part = _assign(groups, labels, np.array([1 - share, share]), seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def grouped_folds(
    groups: Sequence, labels: np.ndarray | None, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`folds` pairs (training rows, test rows) as in `grouped_split`; every record is tested once."""
    if folds < 2:
        raise UsageError(f"{folds} folds leave nothing to train on; there must be two or more.")
    part = _assign(groups, labels, np.full(folds, 1 / folds), seed)
    return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(folds)]


def _assign(groups: Sequence, labels: np.ndarray | None, shares: np.ndarray, seed: int) -> np.ndarray:
    """The part [N] of each record. Groups go where the sum over parts and classes of (count - expected)² /
    (share * total²) grows least: the large before the small, in the order of `seed` where sizes are of one octave."""
    codes, sizes = _codes(groups, len(groups))
    if len(sizes) < len(shares):
        raise DataError(f"{len(sizes)} groups cannot fill {len(shares)} parts, each of which needs one of its own.")
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    total, content = _classes(labels, len(groups))
    off = -shares[:, None] * total  # count - expected [parts, C]
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-np.frexp(sizes[order])[1], kind="stable")]
    part, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(len(shares), dtype=np.int64)
    for done, group in enumerate(order):
        classes, add = content(members[group])
        cost = (add * (2 * off[:, classes] + add) / (shares[:, None] * total[classes] ** 2)).sum(1)
        if len(sizes) - done <= (filled == 0).sum():  # the groups that remain are just enough for the empty parts
            cost[filled > 0] = np.inf
        part[group] = cost.argmin()
        filled[part[group]] += 1
        off[part[group], classes] += add
    return part[codes]


def _classes(labels: np.ndarray | None, n: int) -> tuple[np.ndarray, Callable]:
    """Records of each class [C], and a function from row numbers to the classes among them and their counts."""
    labels = np.zeros(n) if labels is None else np.asarray(labels)
    if len(labels) != n:
        raise DataError(f"There are {n:,} groups of records but {len(labels):,} labels: one of each a record.")
    if labels.ndim == 2:  # records are balanced as one class more
        there = np.concatenate([labels == 1, np.ones((n, 1), dtype=bool)], axis=1)
        return there.sum(0).astype(np.float64), lambda rows: _nonzero(there[rows].sum(0))
    _, index = np.unique(labels, return_inverse=True)
    return np.bincount(index).astype(np.float64), lambda rows: np.unique(index[rows], return_counts=True)


def _nonzero(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(counts), counts[counts > 0]


def _codes(groups: Sequence, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Each record's group as a number from 0 [N], and the groups' sizes [G]."""
    if len(groups) != n:
        raise DataError(f"There are {n:,} records but groups for {len(groups):,}: every record has one.")
    if n == 0:
        raise DataError("There are no records.")
    _, codes, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return codes, sizes


def check_groups(train_groups: Sequence, test_groups: Sequence) -> None:
    """Raises `DataError`, naming the groups, when any has records in both parts."""
    both = sorted(set(np.asarray(train_groups).tolist()) & set(np.asarray(test_groups).tolist()), key=str)
    if both:
        shown = ", ".join(map(str, both[:8])) + (", …" if len(both) > 8 else "")
        raise DataError(
            f"{len(both):,} group{'s have' if len(both) > 1 else ' has'} records in both training and test data: "
            f"{shown}. Scores would be too high; split by group (grouped_split)."
        )


def bootstrap_groups(
    values: np.ndarray | tuple[np.ndarray, ...],
    groups: Sequence | None,
    statistic: str | Callable[..., float | np.ndarray] = "mean",
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple:
    """A statistic and its 95 % percentile interval, groups drawn again with replacement, each with all its records.

    Args:
        values: [N, ...], or a tuple of such arrays with a row a record.
        groups: [N]; None makes every record its own group.
        statistic: "mean" over records (fast), or a function of the resampled arrays, `statistic(*values)`, that gives
            a number or an array [K]; NaN where a resample leaves it undefined.

    Returns:
        (value, low, high): floats, or arrays of the statistic's shape.

    Raises:
        DataError: fewer than two groups, or a statistic undefined on all records or on a tenth of the resamples.
    """
    arrays = tuple(np.asarray(v) for v in (values if isinstance(values, tuple) else (values,)))
    n = len(arrays[0])
    if any(len(a) != n for a in arrays):
        raise DataError(f"The arrays to resample have {', '.join(f'{len(a):,}' for a in arrays)} rows, not the same.")
    codes, sizes = _codes(np.arange(n) if groups is None else groups, n)
    if len(sizes) < 2:
        raise DataError("All records belong to one group; an interval over groups needs two at the least.")
    if isinstance(statistic, str) and statistic != "mean":
        raise UsageError(f"There is no statistic {statistic!r}; give 'mean' or a function of the records.")
    rng = np.random.default_rng(seed)
    if isinstance(statistic, str):
        if not np.isfinite(arrays[0]).all():
            raise DataError("Some values to resample are not numbers; leave those records out first.")
        value, draws = arrays[0].mean(0, dtype=np.float64), _means(arrays[0], codes, sizes, resamples, rng)
    else:
        value, draws = np.asarray(statistic(*arrays), dtype=np.float64), []
        if np.isnan(value).any():
            raise _undefined("on these records", len(sizes))
        order, starts = np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes
        for _ in range(resamples):
            picked = rng.integers(len(sizes), size=len(sizes))
            length = sizes[picked]
            first = np.repeat(starts[picked] - (np.cumsum(length) - length), length)
            rows = order[first + np.arange(len(first))]
            draws.append(statistic(*(a[rows] for a in arrays)))
        draws = np.asarray(draws, dtype=np.float64)
    return _interval(value, draws, len(sizes))


def _means(x: np.ndarray, codes: np.ndarray, sizes: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means [resamples, ...] over records, from each group's sums alone."""
    flat, count = x.reshape(len(x), -1).astype(np.float64), len(sizes)
    sums = np.stack([np.bincount(codes, column, count) for column in flat.T] + [sizes.astype(np.float64)], axis=1)
    means = []
    block = max(BLOCK // count, 1)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picked = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        drawn = np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count) @ sums
        means.append(drawn[:, :-1] / drawn[:, -1:])
    return np.concatenate(means).reshape(resamples, *x.shape[1:])


def _interval(value: np.ndarray, draws: np.ndarray, groups: int) -> tuple:
    undefined = float(np.isnan(draws).mean(0).max())
    if undefined > UNDEFINED:
        raise _undefined(f"in {undefined:.0%} of the resamples", groups)
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return (float(value), float(low), float(high)) if value.ndim == 0 else (value, low, high)


def _undefined(where: str, groups: int) -> DataError:
    return DataError(
        f"The statistic is undefined {where}: too few of the {groups:,} groups hold one of the classes. "
        "Test on more groups of that class."
    )
