"""Images and sounds in rows: Parquet and Arrow files and hub names through `datasets`, and NumPy arrays."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.kinds import WORDS
from tacit.data.labels import LABEL_NAMES
from tacit.errors import BadRecord, DataError, MissingExtra

NAMES = {
    "image": ("image", "img", "jpg", "png", "picture", "pixels"),
    "audio": ("audio", "sound", "wav", "flac", "mp3", "ogg", "recording"),
}


@dataclass
class Rows:
    """Rows of a `datasets.Dataset`, which stays memory-mapped; images and sounds are read as stored, undecoded."""

    rows: Any
    column: str
    title: str
    fields: tuple[str, ...] = ("image",)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.title}#{index}"

    def read(self, index: int) -> bytes | Path | np.ndarray:
        value = self.rows[int(index)][self.column]
        if isinstance(value, dict):
            if value.get("bytes") is not None:
                return value["bytes"]
            if not value.get("path"):
                raise BadRecord(f"no {WORDS[self.fields[0]][0]} in this row")
            if self.fields == ("audio",):
                return Path(value["path"])
            try:
                return Path(value["path"]).read_bytes()
            except OSError as error:
                raise BadRecord(f"cannot be read ({error.strerror})") from error
        if value is None:
            raise BadRecord(f"no {WORDS[self.fields[0]][0]} in this row")
        return value if isinstance(value, bytes) else np.asarray(value)

    def stamp(self) -> str:
        return self.rows._fingerprint  # of the files, by their sizes and times, and of what was done with them


@dataclass
class Pixels:
    """An array of images [N, H, W] or [N, H, W, C]; from a file it is memory-mapped, and pickled as its path."""

    array: np.ndarray
    title: str
    path: str | None = None

    def __getstate__(self) -> dict:
        return {"array": None if self.path else self.array, "title": self.title, "path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.path:
            self.array = np.load(self.path, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"{self.title}#{index}"

    def read(self, index: int) -> np.ndarray:
        return np.array(self.array[index])

    def stamp(self) -> str:
        if self.path:
            stat = os.stat(self.path)
            return f"{stat.st_size} {stat.st_mtime_ns}"
        return hashlib.blake2b(np.ascontiguousarray(self.array), digest_size=16).hexdigest()


def load_rows(files: list[str] | None, kind: str, hub: str | None = None, split: str | None = None) -> Any:
    """A `datasets.Dataset` from Parquet or Arrow files, or from a hub name."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("reading Parquet, Arrow and hub data sets", "datasets", "datasets") from error
    datasets.disable_progress_bars()
    try:
        if hub is not None:
            return datasets.load_dataset(hub, split=split or "train")
        return datasets.load_dataset(kind, data_files=files, split="train")
    except Exception as error:  # whatever `datasets` and its back ends raise, the user needs its words and our place
        raise DataError(f"{hub or files[0]} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error


def from_rows(rows: Any, title: str, kind: str | None = None) -> tuple[Rows, np.ndarray | None, list[str] | None, str]:
    """Store, labels, classes and fingerprint of a `datasets.Dataset`; the column of images or sounds by its type or
    name, of images where there are both and `kind` does not say otherwise."""
    import datasets

    features = rows.features
    types = {"image": datasets.Image, "audio": datasets.Audio}
    found = {k: next((n for n, f in features.items() if isinstance(f, t)), None) for k, t in types.items()}
    if not any(found.values()):
        found = {k: next((n for n in NAMES[k] if n in features), None) for k in types}
    if not any(found.values()):
        raise DataError(
            f"{title} has no column of images or sounds (columns: {', '.join(features)}); name it `image` or `audio`."
        )
    kind = kind if kind and found[kind] else "image" if found["image"] else "audio"
    column = found[kind]
    if isinstance(features[column], types[kind]):
        rows = rows.cast_column(column, types[kind](decode=False))
    label = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    label = label or next((n for n in LABEL_NAMES if n in features), None)
    labels = classes = None
    if label is not None:
        labels, classes = _labels(rows[label][:], features[label], f"{title}, column {label!r}")
    digest = hashlib.blake2b(f"{title} {len(rows)} {rows._fingerprint}".encode(), digest_size=16).hexdigest()
    return Rows(rows.select_columns([column]), column, title, (kind,)), labels, classes, digest


def _labels(values: list, feature: Any, where: str) -> tuple[np.ndarray, list[str]]:
    if any(v is None for v in values):
        raise DataError(f"{where}: {sum(v is None for v in values)} labels are missing.")
    names = getattr(feature, "names", None)
    if names:
        return np.asarray(values, dtype=np.int64), list(names)
    distinct = sorted(set(values))
    number = {value: i for i, value in enumerate(distinct)}
    return np.array([number[v] for v in values], dtype=np.int64), [str(v) for v in distinct]


def from_array(array: np.ndarray, title: str, path: str | None = None) -> tuple[Pixels, str]:
    """Store and fingerprint of an array of images."""
    if array.ndim not in (3, 4) or not len(array):
        raise DataError(f"{title}: an array of images is [N, H, W] or [N, H, W, C]; this one is {list(array.shape)}.")
    head = np.ascontiguousarray(array[:: max(len(array) // 64, 1)])
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode() + head.tobytes(), digest_size=16).hexdigest()
    return Pixels(array, title, path), digest
