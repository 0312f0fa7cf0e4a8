"""A source of records: where names, labels and bytes come from, behind one small class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tacit.data.film import Film
from tacit.data.kinds import MODALITIES, WORDS
from tacit.data.picture import Picture
from tacit.data.recording import Recording
from tacit.data.targets import Targets
from tacit.data.transcript import Transcript
from tacit.errors import BadRecord, DataError, UsageError


class Place(NamedTuple):
    """Where one modality of a record is: a file (or the words themselves), and from when to when in it, in seconds.

    rate: of a folder's frames; seconds: how long the record is
    """

    what: Path | str
    start: float = 0.0
    end: float | None = None
    rate: float | None = None
    seconds: float = 0.0

    def film(self) -> Film:
        return Film(self.what, self.rate, self.start, self.end)

    def sound(self) -> Recording:
        return Recording(self.what, start=self.start, end=self.end)

    def transcript(self) -> Transcript:
        return Transcript(self.what, self.start, self.end, self.seconds or None)


class Store(Protocol):
    """What holds the bytes. It is pickled into every worker, so it holds paths and maps, not lists."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> bytes | Path | np.ndarray:
        """The encoded image or its pixels, or the encoded sound or its place. Raises `BadRecord`.

        A store of other records than one picture each names what they have in `fields`, and takes such a name, of all
        but the first, as a second argument. One of records of several modalities has `seconds(index)`, and gives a
        `Place` of each, or None where a record lacks it.
        """
        ...

    def stamp(self) -> str:
        """What changes when a record does: sizes and times of files, or the fingerprint of a table."""
        ...


@dataclass
class Source:
    """Records by number: `source[i]` is `{"image": Picture, "name": str, "label": int}`; raises `BadRecord`.

    Of sounds it is `{"audio": Recording, …}`. Some have more pictures than one (see `fields`): `source.record(i,
    fields)` reads those that are named. Of several modalities it is `{"video": Film, "audio": Recording, "text":
    Transcript, "seconds": float, …}`, with None for what a record lacks, and how long it is (0 where nothing has a
    time).

    store:       holds names and bytes
    channels:    channels of every picture
    labels:      [N] int64, or None where there are none
    classes:     the names of the labels
    fingerprint: changes when names or labels do
    title:       what the user called it
    skipped:     (name, reason) of files that were refused when the folder was listed; counted as bad
    notes:       what a user should know of how the data was read
    targets:     what a table says of the records beyond their class, or None
    groups:      [N] of names that belong together (a patient, an exam), or None
    sided:       [N] bool, records whose mirror image is another thing (a sagittal slice), which no view flips; or None
    weights:     of the parts of a mixture, which start at `starts` and hold `lengths` records; of exams each is a part,
                 so that long ones are not seen more often
    """

    store: Store
    channels: int
    labels: np.ndarray | None
    classes: list[str] | None
    fingerprint: str
    title: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    targets: Targets | None = None
    groups: np.ndarray | None = None
    sided: np.ndarray | None = None
    weights: tuple[float, ...] | None = None
    starts: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        return self.store.name(index)

    @property
    def fields(self) -> tuple[str, ...]:
        """What a record has, by name: `image`, and of episodes `previous` and `next`; or `audio`; or those of `video`,
        `audio` and `text` that any record has; or `sequences`."""
        return _fields(self.store)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.record(index)

    def record(self, index: int, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """A record with these of its pictures or its sound, the first of `fields` if none is named; no other is
        read."""
        record: dict[str, Any] = {}
        first = self.fields[0]
        for name in (first,) if fields is None else fields:
            data = self.store.read(index, *(() if name == first else (name,)))
            record[name] = _made(name, data, self.channels)
        if (seconds := getattr(self.store, "seconds", None)) is not None:
            record["seconds"] = seconds(index)
        record["name"] = self.name(index)
        if self.labels is not None:
            record["label"] = int(self.labels[index])
        return record

    def check(self, index: int) -> None:
        """Raises `BadRecord` if the first picture or the sound of a record cannot be read; of several modalities, the
        first that it has."""
        for name in self.fields if _partial(self.store) else self.fields[:1]:
            found = self.record(index, (name,))[name]
            if found is not None:
                return found.check()
        raise BadRecord("nothing in it")

    def stamp(self) -> str:
        """Changes when the fingerprint or any record does; looks at every file, and reads none."""
        return f"{self.fingerprint} {self.store.stamp()}"

    def select(self, rows: np.ndarray) -> Source:
        """The records with these numbers as a source of their own."""
        return Source(
            store=_Chosen(self.store, rows),
            channels=self.channels,
            labels=None if self.labels is None else self.labels[rows],
            classes=self.classes,
            title=self.title,
            targets=None if self.targets is None else self.targets.select(rows),
            groups=None if self.groups is None else self.groups[rows],
            sided=None if self.sided is None else self.sided[rows],
            fingerprint=f"{self.fingerprint}[{hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()}]",
        )


def _fields(store: Store) -> tuple[str, ...]:
    return getattr(store, "fields", ("image",))


def _partial(store: Store) -> bool:
    """Whether records may lack some of the fields."""
    return getattr(store, "seconds", None) is not None


def _made(name: str, data: Any, channels: int) -> Picture | Recording | Film | Transcript | None:
    if data is None or name == "sequences":  # which are read as they are
        return data
    if isinstance(data, Place):
        return {"video": data.film, "audio": data.sound, "text": data.transcript}[name]()
    return Recording(data) if name == "audio" else Picture(data, channels)


@dataclass
class _Chosen:
    store: Store
    rows: np.ndarray

    @property
    def fields(self) -> tuple[str, ...]:
        return _fields(self.store)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.store.name(int(self.rows[index]))

    def read(self, index: int, *field: str) -> bytes | np.ndarray:
        return self.store.read(int(self.rows[index]), *field)

    @property
    def row_numbers(self) -> np.ndarray | None:
        numbers = getattr(self.store, "row_numbers", None)
        return None if numbers is None else numbers[self.rows]

    @property
    def seconds(self) -> Any:
        of = getattr(self.store, "seconds", None)
        return None if of is None else lambda index: of(int(self.rows[index]))

    def stamp(self) -> str:
        return self.store.stamp()


@dataclass
class _Joined:
    """Stores end to end. A name says which store it is of, since two may use the same ones."""

    stores: list[Store]
    titles: list[str]
    starts: np.ndarray

    @property
    def fields(self) -> tuple[str, ...]:
        """What all of them have; of several modalities, what any has."""
        if all(map(_partial, self.stores)):
            return tuple(f for f in MODALITIES if any(f in _fields(store) for store in self.stores))
        return tuple(f for f in _fields(self.stores[0]) if all(f in _fields(store) for store in self.stores))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return part, index - int(self.starts[part])

    def name(self, index: int) -> str:
        part, local = self._locate(index)
        return f"{self.titles[part]}/{self.stores[part].name(local)}"

    def read(self, index: int, *field: str) -> bytes | np.ndarray:
        part, local = self._locate(index)
        store = self.stores[part]
        if not _partial(store):
            return store.read(local, *field)
        wanted = field[0] if field else self.fields[0]
        if wanted not in _fields(store):
            return None
        return store.read(local, *(() if wanted == _fields(store)[0] else (wanted,)))

    @property
    def seconds(self) -> Any:
        if not all(map(_partial, self.stores)):
            return None

        def of(index: int) -> float:
            part, local = self._locate(index)
            return self.stores[part].seconds(local)

        return of

    def stamp(self) -> str:
        return " ".join(store.stamp() for store in self.stores)


def mix(sources: Sequence[Source], weights: Sequence[float] | None = None) -> Source:
    """Several sources as one. With weights, every epoch draws from each in proportion; without, each record once."""
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise UsageError(f"--data weights {list(weights)}: one positive number for each of {len(sources)} data sets.")
    if len(sources) == 1:
        return sources[0]
    if len({s.fields[0] for s in sources}) > 1 and not all(_partial(s.store) for s in sources):
        said = ", ".join(f"{s.title}: {WORDS[s.fields[0]][1]}" for s in sources)
        raise DataError(f"Data of different kinds cannot be mixed ({said}). Give those of one kind.")
    starts = np.cumsum([0, *map(len, sources)])
    titles = [s.title.rstrip("/") for s in sources]
    titles = [t if titles.count(t) == 1 else f"{t}({i + 1})" for i, t in enumerate(titles)]
    same = all(s.labels is not None and s.classes == sources[0].classes for s in sources)
    grouped = all(s.groups is not None for s in sources)
    sided = any(s.sided is not None for s in sources)
    parts = _parts(sources, weights, starts)
    return Source(
        store=_Joined([s.store for s in sources], titles, starts),
        channels=sources[0].channels,
        labels=np.concatenate([s.labels for s in sources]) if same else None,
        classes=sources[0].classes if same else None,
        fingerprint="+".join(s.fingerprint for s in sources),
        skipped=[(f"{t}/{name}", reason) for t, s in zip(titles, sources, strict=True) for name, reason in s.skipped],
        notes=list(dict.fromkeys(note for s in sources for note in s.notes)),
        groups=np.concatenate([np.char.add(f"{t}/", s.groups) for t, s in zip(titles, sources, strict=True)])
        if grouped
        else None,
        sided=np.concatenate([np.zeros(len(s), bool) if s.sided is None else s.sided for s in sources])
        if sided
        else None,
        **parts,
    )


def _parts(sources: Sequence[Source], weights: Sequence[float] | None, starts: np.ndarray) -> dict[str, tuple]:
    """Weights, starts and lengths of the parts of all, where any source has parts of its own, or there are weights."""
    if weights is None and all(s.weights is None for s in sources):
        return {
            "weights": None,
            "starts": tuple(int(s) for s in starts[:-1]),
            "lengths": tuple(len(s) for s in sources),
        }
    found: list[tuple[float, int, int]] = []
    for source, weight, first in zip(sources, weights or [len(s) for s in sources], starts[:-1].tolist(), strict=True):
        if source.weights is None:
            found.append((weight, first, len(source)))
        else:
            share = weight / sum(source.weights)
            own = zip(source.weights, source.starts, source.lengths, strict=True)
            found += [(share * w, first + start, length) for w, start, length in own]
    return dict(zip(("weights", "starts", "lengths"), zip(*found, strict=True), strict=True))
