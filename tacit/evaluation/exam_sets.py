"""Exams with a label each: read, matched with their table, and split with no exam and no patient on both sides."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tacit.data import Source, open_source
from tacit.data.exams import PREFIX, Options, open_exams
from tacit.errors import DataError, Unknown
from tacit.evaluation.groups import check_groups, grouped_split

ID_NAMES = ("id", "exam", "exam_id", "case", "study", "name", "path")


@dataclass(frozen=True)
class ExamSet:
    """E exams with labels [E] of 0 and 1; `rows[plane][i]` are the numbers of exam i's slices in `sources[plane]`.

    groups: [E] patients, or the exams themselves. `train` and `test` are numbers of exams; `split` says how they were
    told apart. Left out, by name: `missing` of the table without a series, `unlabelled` series without a label,
    `incomplete` exams that lack a plane, `skipped` series that cannot be used, with the reason.
    """

    ids: list[str]
    labels: np.ndarray
    groups: np.ndarray
    patients: bool
    train: np.ndarray
    test: np.ndarray
    split: str
    sources: dict[str, Source]
    rows: dict[str, list[np.ndarray]]
    missing: list[str]
    unlabelled: list[str]
    incomplete: list[str]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """What a table says of an exam."""

    label: int
    patient: str = ""
    split: str = ""


def read_labels(path: Path, column: str | None = None) -> dict[str, Row]:
    """Exams by name from a .csv: with a heading (`id`, a label, perhaps `patient` and `split`), or without (MRNet).

    Args:
        column: the label among several; by default `label`, or the only other one.

    Raises:
        DataError: no such table, labels other than 0 and 1, or two rows of an exam. Unknown: no such column.
    """
    try:
        lines = [line for line in csv.reader(path.read_text("utf-8-sig").splitlines()) if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({str(error)[:200]}).") from error
    if not lines or any(len(line) != len(lines[0]) or len(line) < 2 for line in lines):
        raise DataError(f"{path}: an exam a row, in columns of its name and its label, as many in each row.")
    head = [cell.strip() for cell in lines[0]]
    if len(head) == 2 and head[1] in ("0", "1"):
        head = ["id", "label"]
    else:
        lines = lines[1:]
    lower = [name.lower() for name in head]
    name_at = next((lower.index(name) for name in ID_NAMES if name in lower), 0)
    others = [i for i in range(len(head)) if i != name_at and lower[i] not in ("patient", "split")]
    if column is not None and column not in head:
        raise Unknown(f"column of {path}", column, head)
    if column is None and "label" not in lower and len(others) != 1:
        raise DataError(f"{path} has several columns ({', '.join(head)}); say which is the label, by --column.")
    label_at = head.index(column) if column is not None else lower.index("label") if "label" in lower else others[0]
    more = {name: lower.index(name) for name in ("patient", "split") if name in lower}
    found: dict[str, Row] = {}
    for line in lines:
        name, label = line[name_at].strip(), line[label_at].strip()
        if label not in ("0", "1", "0.0", "1.0"):
            raise DataError(f"{path}: the label of {name} is {label!r}; labels are 0 and 1. Leave unknown exams out.")
        if name in found:
            raise DataError(f"{path} has two rows of the exam {name}. An exam has one.")
        found[name] = Row(int(float(label)), **{field: line[at].strip() for field, at in more.items()})
    return found


def labels_of(root: Path, label: str, parts: Sequence[str], column: str | None = None) -> dict[tuple[str, str], Row]:
    """By (part or "", exam): of a .csv, or of MRNet's `train-LABEL.csv` and `valid-LABEL.csv` in the folder.

    Raises:
        DataError: neither is there.
    """
    for file in (Path(label), root / label):
        if file.suffix.lower() == ".csv" and file.is_file():
            return {("", name): row for name, row in read_labels(file, column).items()}
    found = {}
    for part in sorted(set(parts) - {""}):
        if (file := root / f"{part}-{label}.csv").is_file():
            found |= {(part, name): row for name, row in read_labels(file, column).items()}
    if not found:
        inside = ", ".join(sorted(p.name for p in root.glob("*.csv"))[:6]) or "no .csv"
        raise DataError(
            f"--label {label}: there is no such file, and no {root / f'train-{label}.csv'} either; in {root} there is "
            f"{inside}."
        )
    return found


def read_exams(
    data: str | Path, label: str, *, planes: Sequence[str] | None = None, column: str | None = None, channels: int = 3,
    max_exams: int | None = None, seed: int = 0,
) -> ExamSet:  # fmt: skip
    """Exams of a folder (see `tacit.data.exams`) with the labels of a table.

    Learnt from is the part train where the data has parts, and tested on valid, or test where that is there too; else
    what the table's column `split` says; else a fifth of every class is held out, patients kept whole.

    Args:
        planes: those that all exams must have; by default all that there are.
        max_exams: of the exams to learn from, so many, each class in proportion, drawn by `seed`.

    Raises:
        DataError: labels and exams that do not match, a patient or exam in both parts, or a part without both classes.
    """
    root = Path(str(data).removeprefix(PREFIX))
    if not root.is_dir():
        raise DataError(f"{root} is no folder. Give the one that the exams lie in.")
    if not planes:
        planes = sorted(set(open_exams(root, Options("all", "all"))[0].column("plane").tolist()))
    sources = {
        plane: open_source(f"{PREFIX}{root}:part=all{f',plane={plane}' if plane else ''}", channels=channels)
        for plane in planes
    }
    where: dict[str, dict[str, np.ndarray]] = {}
    parts: dict[str, str] = {}
    known: dict[str, str] = {}
    for plane, source in sources.items():
        store = source.store
        names = store.column("exam").tolist()
        first = store.ends - np.diff(store.ends, prepend=0)
        where[plane] = {n: np.arange(a, b) for n, a, b in zip(names, first.tolist(), store.ends.tolist(), strict=True)}
        parts |= dict(zip(names, store.column("part").tolist(), strict=True))
        known |= {n: p for n, p in zip(names, store.column("patient").tolist(), strict=True) if p}
    table, unknown = _matched(labels_of(root, label, list(parts.values()), column), parts, label)
    complete = [n for n in sorted(parts) if n in table and all(n in found for found in where.values())]
    incomplete = [n for n in sorted(parts) if n in table and n not in complete]
    if len(complete) < 4:
        raise DataError(
            f"{len(complete)} exams have a label and all of {', '.join(planes) or 'a series'}; that is too few."
        )
    patients = [table[n].patient or known.get(n, "") for n in complete]
    some = any(patients)
    groups = np.array([p or f"exam {n}" for p, n in zip(patients, complete, strict=True)])
    labels = np.array([table[n].label for n in complete])
    train, test, how = _split([parts[n] for n in complete], [table[n].split for n in complete], groups, labels, seed)
    check_groups(groups[train], groups[test])
    train = _fewer(train, labels, max_exams, seed)
    for side, name in ((train, "learn from"), (test, "test on")):
        if len(set(labels[side].tolist())) < 2:
            raise DataError(f"The {len(side)} exams to {name} are all of one class. Split otherwise, or label more.")
    return ExamSet(
        complete, labels, groups, some, train, test, how, sources,
        {plane: [found[n] for n in complete] for plane, found in where.items()}, unknown,
        [n for n in sorted(parts) if n not in table], incomplete,
        [item for source in sources.values() for item in source.skipped],
    )  # fmt: skip


def _matched(told: dict[tuple[str, str], Row], parts: dict[str, str], label: str) -> tuple[dict[str, Row], list[str]]:
    """Rows by the exams' own names, and the rows without an exam. A table may have lost a number's zeros (7 for 0007),
    and may name the folder that an exam's only series is in."""
    folders: dict[str, list[str]] = {}
    for name in parts:
        folders.setdefault(name.split("/")[0], []).append(name)
    found: dict[str, Row] = {}
    missing = []
    for (part, name), row in told.items():
        inside = folders.get(name, [])
        exam = next((n for n in (name, name.zfill(4)) if n in parts), inside[0] if len(inside) == 1 else None)
        if exam is None:
            missing.append(name)
            continue
        if part and parts[exam] != part:
            raise DataError(f"{part}-{label}.csv names the exam {name}, which lies in {parts[exam] or 'no part'}.")
        if exam in found:
            raise DataError(f"--label {label}: two rows are of the exam {exam}.")
        found[exam] = row
    if not found:
        raise DataError(
            f"--label {label} names none of the exams: it has {missing[0]!r}, and the data {min(parts)!r}. The first "
            "column must hold the names of files or folders, without their endings."
        )
    return found, missing


def _split(parts, told, groups, labels, seed) -> tuple[np.ndarray, np.ndarray, str]:
    parts, told = np.array(parts), np.array(told)
    tested = next((part for part in ("test", "valid") if part in parts), None)
    if "train" in parts and tested:
        return np.flatnonzero(parts == "train"), np.flatnonzero(parts == tested), f"train and {tested}, as they lie"
    if {"train", "test"} <= set(told.tolist()):
        return np.flatnonzero(told == "train"), np.flatnonzero(told == "test"), "as the table says"
    return *grouped_split(groups, labels, 0.2, seed), "a fifth of every class held out"


def _fewer(train: np.ndarray, labels: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    if most is None or most >= len(train):
        return train
    rng, positive = np.random.default_rng(seed), labels[train] == 1
    ones = min(max(round(most * positive.mean()), 1), most - 1)
    drawn = [rng.permutation(train[side])[:n] for side, n in ((positive, ones), (~positive, most - ones))]
    return np.sort(np.concatenate(drawn))
