"""Sets of feature sequences, opened: a folder of CMU-MultimodalSDK's `.csd` files, a research pickle, or arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.csd import list_csd
from tacit.data.sequence_folder import list_folder
from tacit.data.sequence_pickle import list_pickle
from tacit.data.sequences import MODALITIES, PARTS, PREFIX, Clip, Listing, Options, clip
from tacit.data.targets import Targets
from tacit.errors import BadRecord, DataError, UsageError


@dataclass
class Sequences:
    """Records by number; a reader knows the files. `rows` are the reader's."""

    reader: Any
    names: np.ndarray
    rows: np.ndarray
    without: tuple[str, ...] = ()

    fields = ("sequences",)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return str(self.names[self.rows[index]])

    def read(self, index: int) -> Clip:
        try:
            raw = self.reader.read(int(self.rows[index]))
            return clip({name: one for name, one in raw.items() if name not in self.without})
        except OSError as error:
            raise BadRecord.of(error) from error

    def stamp(self) -> str:
        return self.reader.stamp()


@dataclass(frozen=True)
class Opened:
    store: Sequences
    targets: Targets | None
    groups: np.ndarray
    notes: list[str]
    skipped: list[tuple[str, str]]
    fingerprint: str


def open_sequences(path: Path, options: Options) -> Opened:
    """The records of one of three layouts.

    - A folder of .csd files (`csd.list_csd`), those of words or word vectors, of audio and of vision by their names.
    - A pickle {train, valid, test} -> {vision, audio, text, labels, id} (`sequence_pickle.list_pickle`), of which
      nothing is run: see `plain_pickle`.
    - Else a folder of ID/audio.npy, ID/vision.npy, ID/text.npy (and ID/audio_times.npy …) or ID.npz with the same
      names, and labels.csv (`sequence_folder.list_folder`).

    Emotions are labels of which several may be there: where their score is above 0. Records of a video (or another
    group) are never on both sides of a split.

    Raises:
        DataError: nothing there, or not readable as any of these. UsageError: a part that is not there. MissingExtra:
            .csd files, and h5py is not installed.
    """
    path = path.resolve()
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    if path.is_file():
        found = list_pickle(path)
    elif files := sorted(path.glob("*.csd")):
        found = list_csd(path, files, options)
    else:
        found = list_folder(path)
    parts = np.array(found.parts)
    there = sorted(set(found.parts) - {""}, key=PARTS.index)
    part = options.part or ("train" if "train" in there else "all")
    if part != "all" and part not in there:
        raise UsageError(f"{PREFIX}{path} has no part {part}; it has {', '.join(there) or 'none'}.")
    rows = np.arange(len(parts)) if part == "all" else np.flatnonzero(parts == part)
    groups = np.array(found.groups)
    notes = list(found.notes)
    sides = {p: set(groups[parts == p].tolist()) for p in there}
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if both := sorted(sides.get(first, set()) & sides.get(second, set())):
            raise DataError(
                f"{path}: {len(both):,} videos or groups lie in {first} and in {second}, the first is {both[0]}. Clips "
                "of one must not be on both sides of a split: mend the column of parts."
            )
    if len(there) > 1 and part != "all":
        notes.append(f"Of the data, {part} is used and {' and '.join(p for p in there if p != part)} left out.")
    targets = _targets(found, options, rows)
    digest = hashlib.blake2b(digest_size=16)
    for name in np.array(found.names)[rows].tolist():
        digest.update(name.encode() + b"\n")
    digest.update(repr((options, None if targets is None else targets.names)).encode())
    if targets is not None:
        digest.update(np.ascontiguousarray(targets.values))
    without = tuple(name for name in MODALITIES if getattr(options, name) == "no")
    store = Sequences(found.reader, np.array(found.names), rows, without)
    return Opened(store, targets, groups[rows], notes, found.skipped, digest.hexdigest())


def both_parts(path: Path, options: Options) -> bool:
    """Whether the data has a part to train on and one to test on, and none is asked for."""
    if options.part is not None or not path.exists():
        return False
    return {"train", "test"} <= set(open_sequences(path, replace(options, part="all")).store.reader.parts)


def _targets(found: Listing, options: Options, rows: np.ndarray) -> Targets | None:
    if options.target == "sentiment" or not found.emotions:
        if found.sentiment is None:
            if options.target == "sentiment":
                raise DataError("There is no sentiment among the labels. Leave target=sentiment out.")
            return None
        return Targets("numbers", found.sentiment[rows, None].astype(np.float64), ["sentiment"])
    scores = np.stack(list(found.emotions.values()), 1)[rows].astype(np.float64)
    return Targets("multi", np.where(np.isnan(scores), -1, scores > 0).astype(np.int8), list(found.emotions))
