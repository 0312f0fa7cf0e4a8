"""Recordings whose events are known: a table of file, onset, offset and label beside them, as DESED's."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tacit.data import Source
from tacit.errors import DataError
from tacit.evaluation.event_scores import Event

COLUMNS = ("filename", "onset", "offset", "event_label")
TABLES = (".tsv", ".csv")
NEEDS = (
    "train/ and test/, or --data and --test, each a folder of recordings with events.tsv (filename, onset, offset, "
    "event_label), or such a table"
)


@dataclass(frozen=True)
class EventSet:
    """Recordings, the events of each, and the names of the classes."""

    source: Source
    events: list[list[Event]]
    classes: list[str]


@dataclass(frozen=True)
class _Paths:
    paths: tuple[str, ...]
    names: tuple[str, ...]

    fields = ("audio",)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Path:
        return Path(self.paths[index])

    def stamp(self) -> str:
        return ""


def open_events(where: Path) -> EventSet:
    """The recordings that a table names, and what is in them; the table, or the folder that it lies in.

    Files are looked for in the folder of the table, then in `audio/` there. A row without onset, offset and label is a
    recording without events.

    Raises:
        DataError: no table or several, columns, files or times that are missing, an offset before its onset.
    """
    table = _table(where)
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",")
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{table} has no column {' and no column '.join(missing)}. Its first line must name "
                f"{', '.join(COLUMNS)}, with {'tabs' if table.suffix == '.tsv' else 'commas'} between them."
            )
        rows = [(line, [(row[name] or "").strip() for name in COLUMNS]) for line, row in enumerate(reader, 2)]
    classes = sorted({label for _, (_, _, _, label) in rows if label})
    if not classes:
        raise DataError(f"{table} names no event. Each needs a row with its file, onset, offset and label.")
    found: dict[str, list[Event]] = {}
    for line, (name, onset, offset, label) in rows:
        events = found.setdefault(name, [])
        if onset or offset or label:
            events.append(_event(f"{table}, line {line}", onset, offset, label, classes))
    names = sorted(found)
    paths = tuple(str(_file(table, name)) for name in names)
    digest = hashlib.blake2b(repr([(n, found[n]) for n in names] + classes).encode(), digest_size=8).hexdigest()
    source = Source(_Paths(paths, tuple(names)), 1, None, None, digest, title=str(where))
    return EventSet(source, [found[name] for name in names], classes)


def matched(part: EventSet, classes: Sequence[str]) -> EventSet:
    """The same with the classes in this order; raises `DataError` for classes that are not among them."""
    if unknown := [name for name in part.classes if name not in classes]:
        raise DataError(
            f"{part.source.title} has events that training has not: {', '.join(unknown[:5])}. Add recordings with them "
            "to training, or leave their rows out."
        )
    at = [list(classes).index(name) for name in part.classes]
    events = [[e._replace(label=at[e.label]) for e in some] for some in part.events]
    return replace(part, events=events, classes=list(classes))


def active(events: Sequence[Event], frames: int, seconds: float, classes: int) -> np.ndarray:
    """[frames, classes] int8: 1 where the middle of a frame of `seconds` lies in an event of the class."""
    middle = (np.arange(frames) + 0.5) * seconds
    found = np.zeros((frames, classes), np.int8)
    for onset, offset, label in events:
        found[(middle >= onset) & (middle < offset), label] = 1
    return found


def events_in(there: np.ndarray, seconds: float) -> list[Event]:
    """Runs of frames in which a class is there, of [frames, classes] bool, as events."""
    edges = np.diff(np.pad(there.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    return [
        Event(float(a * seconds), float(b * seconds), label)
        for label in range(there.shape[1])
        for a, b in zip(*(np.flatnonzero(edges[:, label] == way) for way in (1, -1)), strict=True)
    ]


def _table(where: Path) -> Path:
    if where.is_file() and where.suffix in TABLES:
        return where
    if not where.is_dir():
        raise DataError(f"{where} is no folder and no table of events (.tsv, .csv). events needs {NEEDS}.")
    found = [path for path in sorted(where.iterdir()) if path.suffix in TABLES]
    named = [path for path in found if path.stem == "events"] or found
    if len(named) != 1:
        said = f"{len(named)} tables ({', '.join(p.name for p in named[:5])})" if named else "no table"
        raise DataError(f"{where} holds {said}. events needs {NEEDS}.")
    return named[0]


def _event(where: str, onset: str, offset: str, label: str, classes: list[str]) -> Event:
    try:
        begin, end = float(onset), float(offset)
    except ValueError:
        raise DataError(f"{where}: onset {onset!r} and offset {offset!r} must be seconds, such as 1.25.") from None
    if not 0 <= begin < end < float("inf"):
        raise DataError(f"{where}: onset {onset} and offset {offset} must be seconds, the onset first.")
    if not label:
        raise DataError(f"{where}: an event without a label. Name it, or leave onset and offset out as well.")
    return Event(begin, end, classes.index(label))


def _file(table: Path, name: str) -> Path:
    for path in (table.parent / name, table.parent / "audio" / name):
        if path.is_file():
            return path
    raise DataError(f"{table} names {name!r}, which is neither in {table.parent} nor in {table.parent / 'audio'}.")
