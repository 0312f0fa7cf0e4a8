"""A source of records: where names, labels and bytes come from, behind one small class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tacit.data.picture import Picture
from tacit.errors import UsageError


class Store(Protocol):
    """What holds the bytes. It is pickled into every worker, so it holds paths and maps, not lists."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> bytes | np.ndarray:
        """The encoded image or its pixels. Raises `BadRecord`."""
        ...


@dataclass
class Source:
    """Records by number: `source[i]` is `{"image": Picture, "name": str, "label": int}`; raises `BadRecord`.

    store:       holds names and bytes
    channels:    channels of every picture
    labels:      [N] int64, or None where there are none
    classes:     the names of the labels
    fingerprint: changes when names or labels do
    skipped:     (name, reason) of files that were refused when the folder was listed; counted as bad
    duplicates:  how many files were left out because a link names a file twice
    weights:     of the parts of a mixture, which start at `starts` and hold `lengths` records
    """

    store: Store
    channels: int
    labels: np.ndarray | None
    classes: list[str] | None
    fingerprint: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    weights: tuple[float, ...] | None = None
    starts: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        return self.store.name(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = {"image": Picture(self.store.read(index), self.channels), "name": self.name(index)}
        if self.labels is not None:
            record["label"] = int(self.labels[index])
        return record

    def select(self, rows: np.ndarray) -> Source:
        """The records with these numbers as a source of their own."""
        return Source(
            store=_Chosen(self.store, rows),
            channels=self.channels,
            labels=None if self.labels is None else self.labels[rows],
            classes=self.classes,
            fingerprint=f"{self.fingerprint}[{hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()}]",
        )


@dataclass
class _Chosen:
    store: Store
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.store.name(int(self.rows[index]))

    def read(self, index: int) -> bytes | np.ndarray:
        return self.store.read(int(self.rows[index]))


@dataclass
class _Joined:
    stores: list[Store]
    starts: np.ndarray

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _locate(self, index: int) -> tuple[Store, int]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.stores[part], index - int(self.starts[part])

    def name(self, index: int) -> str:
        store, local = self._locate(index)
        return store.name(local)

    def read(self, index: int) -> bytes | np.ndarray:
        store, local = self._locate(index)
        return store.read(local)


def mix(sources: Sequence[Source], weights: Sequence[float] | None = None) -> Source:
    """Several sources as one. With weights, every epoch draws from each in proportion; without, each record once."""
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise UsageError(f"--data weights {list(weights)}: one positive number for each of {len(sources)} data sets.")
    if len(sources) == 1:
        return sources[0]
    starts = np.cumsum([0, *map(len, sources)])
    same = all(s.labels is not None and s.classes == sources[0].classes for s in sources)
    return Source(
        store=_Joined([s.store for s in sources], starts),
        channels=sources[0].channels,
        labels=np.concatenate([s.labels for s in sources]) if same else None,
        classes=sources[0].classes if same else None,
        fingerprint="+".join(s.fingerprint for s in sources),
        skipped=[item for s in sources for item in s.skipped],
        duplicates=sum(s.duplicates for s in sources),
        weights=tuple(weights) if weights is not None else None,
        starts=tuple(int(s) for s in starts[:-1]),
        lengths=tuple(len(s) for s in sources),
    )
