"""Training, validation and test parts that share no speaker, no town, no patient, each with every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tacit.errors import DataError
from tacit.evaluation.groups import grouped_split

PARTS = ("training", "validation", "test")


def parted(
    groups: Sequence | None, labels: np.ndarray, classes: Sequence[str], shares: Sequence[float], seed: int
) -> list[np.ndarray]:
    """Row numbers of several parts: what is left, then one part with each of `shares`; no group is in two of them.

    Where every group holds one class (a town lies in one region), shares are of the groups of each class, at least one
    to a part. Where groups hold several (a speaker says all digits), they are of records, as in `grouped_split`.

    Args:
        groups: [N] names, or None where every record stands alone. labels: [N] int64, numbers of `classes`, or several
            labels a record [N, C], 1 where they are there.
        shares: of the second part and on, each over 0, together under 1.

    Raises:
        DataError: a class that has fewer groups than there are parts, or is missing from a part; it is named. Of
            several labels a record nothing is asked here: see `check_taught`.
    """
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if labels.ndim == 2:
        return _of_all(groups, labels, shares, seed)
    names, codes = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([codes, labels], axis=1), axis=0)
    nested = len(pairs) == len(names)
    found = _of_each_class(pairs, codes, shares, classes, seed) if nested else _of_all(groups, labels, shares, seed)
    for part, rows in zip(PARTS, found, strict=False):
        if missing := sorted(set(range(len(classes))) - set(labels[rows].tolist())):
            raise DataError(
                f"No group with {_named(missing, classes)} is in the {part} part, so nothing could be said of it. Give "
                "more groups with these classes, or leave them out of the table."
            )
    return found


def check_taught(parts: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Raises `DataError` unless, of several labels a record [N, C], each is there in the first of `parts`, and some in
    all others."""
    if missing := np.flatnonzero(~(parts[0] == 1).any(0)).tolist():
        raise DataError(
            f"No record of the {PARTS[0]} part has {_named(missing, classes)}, so it cannot be learned. Leave it out "
            "of the table, or give more records that have it."
        )
    for part, labels in zip(PARTS[1:], parts[1:], strict=False):
        if not (labels == 1).any():
            raise DataError(f"No record of the {part} part has any label, so nothing could be said. Give more records.")


def _of_each_class(
    pairs: np.ndarray, codes: np.ndarray, shares: Sequence[float], classes: Sequence[str], seed: int
) -> list[np.ndarray]:
    counts = np.bincount(pairs[:, 1], minlength=len(classes))
    if few := np.flatnonzero(counts <= len(shares)).tolist():
        raise DataError(
            f"{_named(few, classes)}: fewer than {len(shares) + 1} groups, and each of {len(shares) + 1} parts needs "
            "one of its own. Leave these classes out of the table, or record more groups."
        )
    rng = np.random.default_rng(seed)
    part = np.zeros(len(pairs), dtype=np.int64)  # of each group
    for label, count in enumerate(counts):
        order = rng.permutation(pairs[pairs[:, 1] == label, 0])
        taken = 0
        for number, share in enumerate(shares, 1):
            left = count - taken - (len(shares) - number) - 1  # one must stay for each part to come, and the first
            size = min(max(round(share * count), 1), left)
            part[order[taken : taken + size]] = number
            taken += size
    return [np.flatnonzero(part[codes] == number) for number in range(len(shares) + 1)]


def _of_all(groups: np.ndarray, labels: np.ndarray, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    rest, found, left = np.arange(len(labels)), [], 1.0
    for share in reversed(shares):
        keep, taken = grouped_split(groups[rest], labels[rest], share / left, seed)
        found.append(rest[taken])
        rest, left = rest[keep], left - share
    return [rest, *reversed(found)]


def _named(numbers: Sequence[int], classes: Sequence[str]) -> str:
    return ", ".join(str(classes[n]) for n in numbers[:8]) + (", …" if len(numbers) > 8 else "")
