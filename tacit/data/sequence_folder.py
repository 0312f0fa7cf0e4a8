"""Folders of arrays as feature sequences: ID/audio.npy and so on, or ID.npz, and a table of labels beside them."""

from __future__ import annotations

import csv
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import sequences
from tacit.errors import BadRecord, DataError

TABLES = {"labels.csv": ",", "labels.tsv": "\t"}
COLUMNS = {
    "id": ("id", "name", "record", "clip", "segment"),
    "group": ("group", "video", "speaker"),
    "part": ("split", "part", "set"),
    "sentiment": ("sentiment",),
}
PARTS = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
         "test": "test"}  # fmt: skip


@dataclass
class FolderReader:
    root: Path
    files: np.ndarray  # the folder of a record's .npy files, or its .npz, below the root
    parts: list[str]

    def read(self, row: int) -> dict[str, tuple[Any, Any]]:
        path = self.root / str(self.files[row])
        try:
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as held:
                    arrays = {name: held[name] for name in held.files}
            else:
                arrays = {f.stem: np.load(f, allow_pickle=False) for f in sorted(path.glob("*.npy"))}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BadRecord(f"no arrays of numbers or text ({str(error)[:80]})") from error
        return {m: (arrays[m], arrays.get(f"{m}_times")) for m in sequences.MODALITIES if m in arrays}

    def stamp(self) -> str:
        files = []
        for name in self.files.tolist():
            path = self.root / name
            files += [path] if path.suffix == ".npz" else sorted(path.glob("*.npy"))
        return sequences.stamp_of([*files, *(self.root / table for table in TABLES)])


def list_folder(root: Path) -> sequences.Listing:
    """Every record below `root`, by its path. First-level folders train, valid and test are parts.

    labels.csv has a column `id` (the path without .npz), and any of `video` or `group`, `split`, `sentiment`; all
    other columns of numbers are emotions, an empty cell is unknown.

    Raises:
        DataError: no record, or a table that does not fit.
    """
    names, files = [], []
    for folder, below, found in os.walk(root):
        below[:] = sorted(b for b in below if not b.startswith("."))
        at = os.path.relpath(folder, root)
        at = "" if at == "." else at
        if at and {f"{m}.npy" for m in sequences.MODALITIES} & set(found):
            names.append(at)
            files.append(at)
        for file in sorted(f for f in found if f.endswith(".npz") and not f.startswith(".")):
            files.append(os.path.join(at, file))
            names.append(files[-1][:-4])
    if not names:
        raise DataError(
            f"{root} holds no sequences. A record is a folder with audio.npy, vision.npy or text.npy in it, or a .npz "
            "with arrays of these names; of CMU-MultimodalSDK give the folder of .csd files, of a pickle the file."
        )
    first = [name.replace("\\", "/").split("/")[0].lower() if os.sep in name else "" for name in names]
    parts = [PARTS.get(f, "") for f in first]
    told = read_table(root, names)
    groups = [
        told.groups.get(name) or sequences.video_of(name.split(os.sep, 1)[1] if part else name)
        for name, part in zip(names, parts, strict=True)
    ]
    parts = [told.parts.get(name, part) for name, part in zip(names, parts, strict=True)]
    reader = FolderReader(root, np.array(files), parts)
    emotions, sentiment = told.scores(names)
    return sequences.Listing(reader, names, groups, parts, emotions, sentiment, told.notes, told.skipped)


@dataclass
class Table:
    """What labels.csv says of records, by their ids."""

    groups: dict[str, str]
    parts: dict[str, str]
    sentiment: dict[str, float] | None
    emotions: dict[str, dict[str, float]]
    notes: list[str]
    skipped: list[tuple[str, str]]

    def scores(self, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Of the records `names`, NaN where the table says nothing."""
        emotions = {e: np.array([v.get(n, np.nan) for n in names]) for e, v in self.emotions.items()}
        sentiment = self.sentiment
        return emotions, None if sentiment is None else np.array([sentiment.get(n, np.nan) for n in names])


def read_table(root: Path, names: list[str], *, missing: bool = True) -> Table:
    """labels.csv or labels.tsv of `root`, if there is one. `missing`: rows without a record are listed as skipped."""
    path = next((root / table for table in TABLES if (root / table).is_file()), None)
    if path is None:
        return Table({}, {}, None, {}, [], [])
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=TABLES[path.name]))
    if not rows:
        raise DataError(f"{path} has no rows.")
    known = {name.lower().strip(): name for name in rows[0] if name}
    found = {what: next((known[c] for c in choices if c in known), None) for what, choices in COLUMNS.items()}
    if found["id"] is None:
        raise DataError(f"{path} has no column of records; call it id. It has {', '.join(known.values())}.")
    ids = [_cell(row, found["id"]) for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{path}: {twice} has more rows than one.")
    groups, parts = ({} if found[w] is None else dict(zip(ids, (_cell(r, found[w]) for r in rows), strict=True))
                     for w in ("group", "part"))  # fmt: skip
    for name, part in parts.items():
        if part.lower() not in PARTS and part:
            raise DataError(f"{path}: {name} is of part {part!r}; parts are train, valid and test.")
    parts = {name: PARTS.get(part.lower(), "") for name, part in parts.items()}
    columns, notes = {}, []
    for column in known.values():
        if column in [c for what, c in found.items() if what != "sentiment"]:
            continue
        try:
            columns[column] = {n: _number(_cell(row, column)) for n, row in zip(ids, rows, strict=True)}
        except ValueError:
            notes.append(f"The column {column} of {path.name} holds no numbers and is left out.")
    there = set(names)
    skipped = [(name, f"{path.name} names it, and it is not there") for name in ids if missing and name not in there]
    if missing and len(skipped) == len(ids):
        raise DataError(
            f"{path}: none of its {len(ids):,} records is there; the first is {ids[0]}. There is {names[0]}."
        )
    return Table(groups, parts, columns.pop(found["sentiment"], None), columns, notes, skipped)


def _cell(row: dict[str, str], column: str) -> str:
    return (row.get(column) or "").strip()


def _number(cell: str) -> float:
    return float(cell) if cell else float("nan")
