"""Feature sequences of talking people: text, audio and vision, at rates of their own; any may be missing.

What a record is, and what those who read files say of all records; `sequence_sets` opens what a user has.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import BadRecord, Unknown

PREFIX = "sequences:"
MODALITIES = ("text", "audio", "vision")
PARTS = ("train", "valid", "test")
TARGETS = ("emotions", "sentiment")
UNKNOWN = 1  # the id of a word that the vocabulary has not; 0 is padding
NO_WORDS = ("", "sp")  # sp: a pause, in CMU-MultimodalSDK's words
OF_VIDEO = re.compile(r"^(.+?)(?:\[\d+\]|\$_\$.*)$")  # VIDEO[3] and VIDEO$_$3 are clips of VIDEO


@dataclass(frozen=True)
class Options:
    """part: train (by default where the data has parts), valid, test or all. target: emotions or sentiment, what the
    labels are. text, audio, vision: no leaves it out; of .csd files the name of one chooses it among several."""

    part: str | None = None
    target: str = "emotions"
    text: str | None = None
    audio: str | None = None
    vision: str | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[Path, Options]:
        """`PATH` or `PATH:name=value,…`. Raises `UsageError`."""
        path, colon, rest = text.rpartition(":")
        if not colon or "=" not in rest:
            return Path(text), cls()
        given = {}
        for item in rest.split(","):
            name, _, value = item.partition("=")
            if name not in cls.__dataclass_fields__:
                raise Unknown("option of sequences", name, cls.__dataclass_fields__)
            given[name] = value
        if given.get("part", "all") not in (*PARTS, "all"):
            raise Unknown("part of sequences", given["part"], (*PARTS, "all"))
        if given.get("target", "emotions") not in TARGETS:
            raise Unknown("target of sequences", given["target"], TARGETS)
        return Path(path), cls(**given)


@dataclass(frozen=True)
class Track:
    """One modality of a record.

    values: float32 [T, D], or [T] of words (text) or of their ids (int64)
    valid:  [T] bool, where there is anything: no padding, no face that was not found, no pause
    times:  [T, 2] seconds, begin and end, where they are known
    """

    values: np.ndarray
    valid: np.ndarray
    times: np.ndarray | None = None

    def part(self, first: int, last: int) -> Track:
        times = None if self.times is None else self.times[first:last]
        return Track(self.values[first:last], self.valid[first:last], times)


@dataclass(frozen=True)
class Clip:
    """The modalities of one record, by name; those that it lacks are not there."""

    tracks: Mapping[str, Track]

    @property
    def extent(self) -> tuple[Clip]:
        """What a view is told before it draws: where there is something to hide."""
        return (self,)

    def check(self) -> None:
        """Raises `BadRecord` where no modality has anything."""
        if not self.tracks:
            raise BadRecord("no modality has a frame that is more than zeros")

    def crops(self, packings: Sequence[Packing]) -> list[np.ndarray]:
        self.check()
        return [packing.pack(self) for packing in packings]


@dataclass(frozen=True)
class Packing:
    """How all modalities of a record become one row of numbers [1, n]: text, audio, vision, each position by position.

    Positions that a record has not, or that hold nothing, are NaN. A sequence longer than its length is cut.

    lengths: positions of text, audio and vision; dims: numbers of a position, 0 for a modality that is not read
    ids:     a position of text is the id of a word: of `words` from UNKNOWN + 1 on, or as the data has it
    """

    lengths: tuple[int, int, int]
    dims: tuple[int, int, int]
    ids: bool = False
    words: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(length * dim for length, dim in zip(self.lengths, self.dims, strict=True))

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, UNKNOWN + 1)}

    def pack(self, clip: Clip) -> np.ndarray:
        """float32 [1, n]. Raises `BadRecord` where dimensions are not those that are read."""
        row, start = np.full((1, self.size), np.nan, np.float32), 0
        for modality, length, dim in zip(MODALITIES, self.lengths, self.dims, strict=True):
            track = clip.tracks.get(modality)
            if track is not None and dim:
                values = self._numbers(modality, track, dim)[:length]
                out = row[0, start : start + len(values) * dim].reshape(-1, dim)
                out[track.valid[:length]] = values[track.valid[:length]]
            start += length * dim
        return row

    def _numbers(self, modality: str, track: Track, dim: int) -> np.ndarray:
        values = track.values
        if values.dtype.kind == "U":
            if not (self.ids and modality == "text"):
                raise BadRecord("text is words, and vectors are read")
            values = np.array([self.numbers.get(word, UNKNOWN) for word in values.tolist()], np.float32)
        elif (values.ndim == 1) != (self.ids and modality == "text"):
            found = ("ids", "vectors") if values.ndim == 1 else ("vectors", "ids")
            raise BadRecord(f"{modality} is {found[0]}, and {found[1]} are read")
        values = values.reshape(len(values), -1).astype(np.float32, copy=False)
        if values.shape[1] != dim:
            raise BadRecord(f"{modality} has {values.shape[1]} numbers a position, and {dim} are read")
        return values


def track(modality: str, values: Any, times: Any = None) -> Track | None:
    """An array as a modality; None for an empty one.

    Of a frame, single numbers that are infinite or none (-inf of an audio toolkit's logarithms) become 0, as MulT's
    reader has it; a frame of nothing else than these and zeros is padding, or a face that was not found, and no frame.

    Raises:
        BadRecord: neither numbers nor words, or times that do not fit.
    """
    values = np.asarray(values)
    if values.dtype.kind == "O" and all(isinstance(v, str | bytes) for v in values.flat):
        values = np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.flat], dtype=str)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "U" or (values.dtype.kind in "iu" and modality == "text"):
        if modality != "text" or values.size != len(values):
            raise BadRecord(f"{modality} is {list(values.shape)} of {values.dtype}, and not frames of numbers")
        values = values.reshape(-1)
        if values.dtype.kind == "U":
            values = np.char.lower(np.char.strip(values))
            valid = ~np.isin(values, NO_WORDS)
        else:
            values, valid = values.astype(np.int64), values > 0
    elif values.dtype.kind in "fiub" and values.ndim in (1, 2):
        values = values.reshape(len(values), -1).astype(np.float32)
        values[~np.isfinite(values)] = 0
        valid = values.any(1)
    else:
        raise BadRecord(f"{modality} is {list(values.shape)} of {values.dtype}, and not frames of numbers")
    if times is not None:
        times = np.asarray(times, np.float64)
        if times.ndim == 1:
            times = np.stack([times, np.append(times[1:], times[-1:])], 1)
        if times.shape != (len(values), 2):
            raise BadRecord(f"{modality} has {len(values)} positions, and its times are {list(times.shape)}")
    return Track(values, valid, times) if valid.any() else None


def clip(raw: Mapping[str, tuple[Any, Any]]) -> Clip:
    """(values, times) of some modalities as a clip, without the padding before and behind.

    Modalities of equal length without times are aligned: what is padding in all of them goes.
    """
    found = {name: one for name, (values, times) in raw.items() if (one := track(name, values, times)) is not None}
    aligned = len({len(one.valid) for one in found.values()}) == 1 and all(t.times is None for t in found.values())
    if aligned and found:
        first, last = _ends(np.any([one.valid for one in found.values()], 0))
        return Clip({name: one.part(first, last) for name, one in found.items()})
    return Clip({name: one.part(*_ends(one.valid)) for name, one in found.items()})


def _ends(valid: np.ndarray) -> tuple[int, int]:
    there = np.flatnonzero(valid)
    return int(there[0]), int(there[-1]) + 1


@dataclass
class Listing:
    """What a layout's files say of all records: names [N], groups [N] and parts [N] ("" where there are none), scores
    of emotions [N, E] by their names and sentiment [N], NaN where unknown."""

    reader: Any
    names: list[str]
    groups: list[str]
    parts: list[str]
    emotions: dict[str, np.ndarray]
    sentiment: np.ndarray | None
    notes: list[str]
    skipped: list[tuple[str, str]]


def scored(scores: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Columns of labels [N, C] as emotions and sentiment, by how many there are: CMU-MOSEI's seven (the first the
    sentiment) or six, one of sentiment alone; others are numbered."""
    emotions = ("happy", "sad", "anger", "surprise", "disgust", "fear")  # CMU-MOSEI's order
    count = scores.shape[1]
    if count == 1:
        return {}, scores[:, 0]
    if count == 7:
        return dict(zip(emotions, scores.T[1:], strict=True)), scores[:, 0]
    names = emotions if count == 6 else [f"label_{i + 1}" for i in range(count)]
    return dict(zip(names, scores.T, strict=True)), None


def video_of(name: str) -> str:
    """The video that a clip of this name is of; the folder it lies in, or the clip itself, where the name says none."""
    if found := OF_VIDEO.match(name):
        return found.group(1)
    return os.path.dirname(name) or name


def stamp_of(files: Sequence[Path]) -> str:
    """Changes when any of the files does."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            stat = os.stat(file)
            digest.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
        except OSError:
            digest.update(b"gone ")
    return digest.hexdigest()
