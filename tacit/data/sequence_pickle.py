"""Research pickles of feature sequences, {train, valid, test} -> {vision, audio, text, labels, id}, read safely."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import sequences
from tacit.data.plain_pickle import read_arrays
from tacit.errors import BadRecord, DataError

NAMES = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
LABELS = ("labels", "regression_labels")  # of MulT's, and of MMSA's pickles
IEMOCAP = ("neutral", "happy", "sad", "angry")  # MulT's order, of labels that are pairs (no, yes)


@dataclass
class PickleReader:
    """What the file holds is in memory, once in each process; a process that is given this reads it again."""

    path: Path
    parts: list[str]
    places: list[tuple[str, int]]  # the file's name of the part, and the place in it
    _held: dict[str, Any] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_held": None}

    def read(self, row: int) -> dict[str, tuple[Any, None]]:
        if self._held is None:
            try:
                self._held = _whole(self.path, self.stamp())
            except DataError as error:
                raise BadRecord(str(error)) from error
        part, at = self.places[row]
        held, found = self._held[part], {}
        for modality in sequences.MODALITIES:
            if modality in held and len(held[modality]):
                values, lengths = held[modality][at], held.get(f"{modality}_lengths")
                found[modality] = (values if lengths is None else values[: int(lengths[at])], None)
        return found

    def stamp(self) -> str:
        return sequences.stamp_of([self.path])


@lru_cache(maxsize=1)
def _whole(path: Path, stamp: str) -> Any:
    """What the file holds, once for all parts that are opened of it."""
    return read_arrays(path)


def list_pickle(path: Path) -> sequences.Listing:
    """Every record of every part. A clip's video is its id up to `[3]` or `$_$3`, or the first of several.

    Labels [N, …] are CMU-MOSEI's seven or six numbers, one of sentiment, or pairs (no, yes) of IEMOCAP's four.

    Raises:
        DataError: the file names what is neither array nor plain value, or holds other things than such parts.
    """
    try:
        held = _whole(path, sequences.stamp_of([path]))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except DataError as error:
        raise DataError(
            f"{path} is not read: {error}. Read are pickles of dicts, lists, numbers, texts and arrays of these; "
            "nothing that a file names is run."
        ) from error
    if not isinstance(held, dict) or not (found := [p for p in held if NAMES.get(p) and isinstance(held[p], dict)]):
        raise DataError(f"{path} is no pickle of {{train, valid, test}}; it holds {_said(held)}.")
    names, groups, parts, places, scores, notes = [], [], [], [], [], []
    for part in found:
        count = _count(path, part, held[part])
        ids = _ids(held[part].get("id"), part, count)
        names += [name for name, _ in ids]
        groups += [group for _, group in ids]
        parts += [NAMES[part]] * count
        places += [(part, at) for at in range(count)]
        scores.append(_labels(path, part, held[part], count))
    known = [s for s in scores if s is not None]
    emotions, sentiment = {}, None
    if known and len(known) == len(scores):
        if len({s.shape[1:] for s in known}) > 1:
            raise DataError(f"{path}: labels have {' and '.join(str(list(s.shape)) for s in known)}.")
        both = np.concatenate(known)
        if both.ndim == 3:
            yes = both[..., 1] > both[..., 0]
            emotions = {n: yes[:, i].astype(float) for i, n in enumerate(_emotions(yes.shape[1]))}
        else:
            emotions, sentiment = sequences.scored(both)
    reader = PickleReader(path, parts, places, held)
    return sequences.Listing(reader, names, groups, parts, emotions, sentiment, notes, [])


def _emotions(count: int) -> tuple[str, ...]:
    return IEMOCAP if count == len(IEMOCAP) else tuple(f"label_{i + 1}" for i in range(count))


def _count(path: Path, part: str, held: dict[str, Any]) -> int:
    sizes = {name: len(held[name]) for name in sequences.MODALITIES if name in held and len(held[name])}
    if not sizes:
        raise DataError(f"{path}, part {part}: has none of {', '.join(sequences.MODALITIES)}; it has {_said(held)}.")
    if len(set(sizes.values())) > 1:
        raise DataError(f"{path}, part {part}: modalities are of different length ({sizes}).")
    return next(iter(sizes.values()))


def _ids(ids: Any, part: str, count: int) -> list[tuple[str, str]]:
    """Name and group of every record; by number, each a group of its own, where the file has no ids."""
    if ids is None or len(ids) != count:
        return [(f"{part}/{at}", f"{part}/{at}") for at in range(count)]
    found = []
    for at, one in enumerate(ids):
        several = [_text(v) for v in (one if isinstance(one, list | np.ndarray) and np.ndim(one) else [one])]
        group = several[0] if len(several) > 1 else sequences.video_of(several[0])
        found.append((f"{part}/{at}/{'-'.join(several)}", group))
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _labels(path: Path, part: str, held: dict[str, Any], count: int) -> np.ndarray | None:
    """[N, C], or [N, C, 2] of pairs; None where there are none."""
    name = next((n for n in LABELS if n in held), None)
    if name is None:
        return None
    values = np.asarray(held[name], np.float64)
    if len(values) != count:
        raise DataError(f"{path}, part {part}: {count} records and {len(values)} labels.")
    if values.ndim == 3 and values.shape[2] == 2:
        return values
    return values.reshape(count, -1)


def _said(held: Any) -> str:
    return ", ".join(map(str, list(held)[:8])) if isinstance(held, dict) else f"a {type(held).__name__}"
