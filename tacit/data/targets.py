"""What is known of records beyond a class folder: columns of a table as classes, numbers or several labels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tacit.data.labels import as_numbers
from tacit.errors import DataError, Unknown

UNKNOWN = (None, "", "nan", "NaN", "NA", "null")
SEPARATOR = ";"  # between the labels of one cell


@dataclass(frozen=True)
class Targets:
    """kind: "class", "numbers" or "multi"; values: [N] int64, [N, T] float64 (NaN where unknown), or [N, C] int8 of 1,
    0 and -1 (unknown); names: of the classes, of the columns, or of the labels."""

    kind: str
    values: np.ndarray
    names: list[str]

    def select(self, rows: np.ndarray) -> Targets:
        return Targets(self.kind, self.values[rows], self.names)


def read_targets(columns: dict[str, Sequence[Any]], where: str, kind: str | None = None) -> Targets:
    """Columns as what they look like, or as `kind`.

    One column: lists, or texts with `;`, are several labels at once; numbers with a fraction are numbers; anything else
    is a class. Several columns: labels if all hold nothing but 1, 0, -1 and gaps, else numbers.

    Raises:
        DataError: gaps among classes, one class only, or values that are no numbers.
    """
    if kind not in (None, "class", "numbers", "multi"):
        raise Unknown("kind of label", kind, ("class", "numbers", "multi"))
    if len(columns) > 1:
        if kind == "class":
            raise DataError(f"{where}: {len(columns)} columns cannot be one class; give one.")
        table = np.stack([_floats(values, f"{where}, column {name!r}") for name, values in columns.items()], axis=1)
        names = list(columns)
        labels = np.isin(table[~np.isnan(table)], (-1, 0, 1)).all()
        if kind == "multi" and not labels:
            raise DataError(f"{where}: several labels are columns of 1, 0 and -1 (unknown); these hold other numbers.")
        if labels and kind != "numbers":
            return Targets("multi", np.where(np.isnan(table), -1, table).astype(np.int8), names)
        return Targets("numbers", table, names)
    ((name, values),) = columns.items()
    where = f"{where}, column {name!r}"
    listed = any(isinstance(v, list | tuple | np.ndarray) or (isinstance(v, str) and SEPARATOR in v) for v in values)
    if kind == "multi" or (listed and kind is None):
        return _several(values, where)
    known = [v for v in values if not _unknown(v)]
    if not known:
        raise DataError(f"{where}: holds no value.")
    fractions = all(_is_number(v) for v in known) and any(float(v) != int(float(v)) for v in known)
    if kind == "numbers" or (fractions and kind is None):
        return Targets("numbers", _floats(values, where)[:, None], [name])
    if gaps := len(values) - len(known):
        row = next(i for i, v in enumerate(values) if _unknown(v))
        raise DataError(f"{where}: {gaps:,} labels are missing, the first in record {row + 1}.")
    found = as_numbers([_text(v) for v in values])
    if found is None:
        raise DataError(f"{where}: holds one class only ({_text(values[0])}); there is nothing to tell apart.")
    return Targets("class", *found)


def match_targets(targets: Targets, like: Targets, where: str) -> Targets:
    """The same with the columns or labels of `like`, by name; labels that do not occur here count as absent.

    Raises:
        DataError: another kind, or names that `like` has not.
    """
    if targets.kind != like.kind:
        raise DataError(f"{where} holds {WORDS[targets.kind]}, and the training data {WORDS[like.kind]}.")
    if unknown := [name for name in targets.names if name not in like.names]:
        raise DataError(f"{where} has labels that the training data has not: {', '.join(unknown[:5])}.")
    values = np.zeros((len(targets.values), len(like.names)), targets.values.dtype)
    for i, name in enumerate(like.names):
        if name in targets.names:
            values[:, i] = targets.values[:, targets.names.index(name)]
    return Targets(like.kind, values, like.names)


WORDS = {"class": "one class a record", "numbers": "numbers", "multi": "several labels a record", "none": "no labels"}


def _several(values: Sequence[Any], where: str) -> Targets:
    cells = [cell.split(SEPARATOR) if isinstance(cell, str) else [] if cell is None else list(cell) for cell in values]
    cells = [[label for v in cell if (label := _text(v))] for cell in cells]
    names = sorted({label for cell in cells for label in cell})
    if not names:
        raise DataError(f"{where}: holds no label.")
    number = {label: i for i, label in enumerate(names)}
    found = np.zeros((len(cells), len(names)), np.int8)
    for row, cell in enumerate(cells):
        found[row, [number[label] for label in cell]] = 1
    return Targets("multi", found, names)


def _floats(values: Sequence[Any], where: str) -> np.ndarray:
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if not _unknown(value):
            if not _is_number(value):
                raise DataError(f"{where}: {str(value)[:40]!r} in record {row + 1} is no number.")
            found[row] = float(value)
    return found


def _unknown(value: Any) -> bool:
    return value in UNKNOWN or (isinstance(value, float) and np.isnan(value))


def _is_number(value: Any) -> bool:
    try:
        return np.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _text(value: Any) -> str:
    """`3` for 3.0, as a table gives it that had a gap."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
