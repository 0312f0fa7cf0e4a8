"""Computational sequences of CMU-MultimodalSDK: HDF5 files, NAME/data/SEGMENT/{features (T, D), intervals (T, 2)}."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import sequences
from tacit.data.sequence_folder import read_table
from tacit.errors import BadRecord, DataError, MissingExtra, Unknown, UsageError

# Which modality a file is of, by a word in its name; the first that it has.
WORDS = {
    "labels": ("label",),
    "text": ("word", "glove", "text", "bert"),
    "audio": ("covarep", "opensmile", "openear", "audio", "acoustic"),
    "vision": ("facet", "openface", "vision", "visual", "face"),
}


def h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtra("Reading .csd files", "h5py", "sequences") from None
    return h5py


@dataclass
class CsdReader:
    """Files stay open, in each process for itself."""

    files: dict[str, Path]  # by modality
    segments: list[str]
    spans: list[tuple[float, float] | None]  # seconds of a video; None for all of a segment
    parts: list[str]
    _open: dict[tuple[int, str], Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def read(self, row: int) -> dict[str, tuple[Any, Any]]:
        name, span, found = self.segments[row], self.spans[row], {}
        for modality in self.files:
            data = self._data(modality)
            if name in data:
                one = data[name]
            elif (video := sequences.video_of(name)) in data and span is not None:
                one = data[video]
            else:
                continue
            try:
                values, times = one["features"][()], np.asarray(one["intervals"][()], np.float64)
            except (KeyError, OSError, ValueError) as error:
                raise BadRecord(f"{modality} has no features with intervals") from error
            if len(times) != len(values):
                raise BadRecord(f"{modality} has {len(values)} features and {len(times)} intervals")
            if span is not None and name not in data:
                middle = times.mean(1)
                inside = (middle >= span[0]) & (middle < span[1])
                values, times = values[inside], times[inside] - span[0]
            if len(values):
                found[modality] = (values, times)
        return found

    def _data(self, modality: str) -> Any:
        key = os.getpid(), modality  # a file that a parent opened is not read in its child
        if key not in self._open:
            self._open[key] = _data(_opened(self.files[modality]), self.files[modality])
        return self._open[key]

    def stamp(self) -> str:
        return sequences.stamp_of(list(self.files.values()))


def list_csd(root: Path, files: Sequence[Path], options: sequences.Options) -> sequences.Listing:
    """A record for each labelled interval of a video, `VIDEO[0]` and on, or where there are no labels for each segment.

    Of a video's features a record has those whose middle lies in its interval. Labels are CMU-MOSEI's seven numbers or
    six, or one of sentiment. labels.csv may say `split` and `group` of videos or of clips, by `id`.

    Raises:
        DataError: files that are no such sequences. UsageError: several files of a modality. MissingExtra: no h5py.
    """
    chosen = _choose(files, options)
    labels = chosen.pop("labels", None)
    if not chosen:
        raise DataError(f"{root} holds no .csd file of text, audio or vision. Say which is which: …:audio=NAME.csd")
    names: list[str] = []
    spans: list[tuple[float, float] | None] = []
    scores = []
    if labels is not None:
        with _opened(labels) as file:
            data = _data(file, labels)
            for video in sorted(data):
                values, times = np.asarray(data[video]["features"][()], float), data[video]["intervals"][()]
                for at, (value, (start, end)) in enumerate(zip(values, times, strict=True)):
                    names.append(video if len(values) == 1 and video.endswith("]") else f"{video}[{at}]")
                    spans.append((float(start), float(end)))
                    scores.append(value)
    else:
        for path in chosen.values():
            with _opened(path) as file:
                names += _data(file, path)
        names = sorted(set(names))
        spans = [None] * len(names)
    if not names:
        raise DataError(f"{root}: the .csd files hold no segment.")
    videos = [sequences.video_of(name) for name in names]
    told = read_table(root, names, missing=False)
    groups = [told.groups.get(n) or told.groups.get(v) or v for n, v in zip(names, videos, strict=True)]
    parts = [told.parts.get(n) or told.parts.get(v, "") for n, v in zip(names, videos, strict=True)]
    emotions, sentiment = sequences.scored(np.stack(scores)) if scores else told.scores(names)
    notes = [f"Of {root.name}, {m} is read from {path.name}." for m, path in chosen.items()]
    reader = CsdReader(chosen, names, spans, parts)
    return sequences.Listing(reader, names, groups, parts, emotions, sentiment, [*notes, *told.notes], [])


def _choose(files: Sequence[Path], options: sequences.Options) -> dict[str, Path]:
    """The file of each modality, and of the labels, if any."""
    by_name = {f.name: f for f in files} | {f.stem: f for f in files}
    kinds = {f: next((k for k, words in WORDS.items() if any(w in f.stem.lower() for w in words)), None) for f in files}
    chosen: dict[str, Path] = {}
    for kind in WORDS:
        asked = getattr(options, kind, None)
        if asked == "no":
            continue
        if asked is not None:
            if asked not in by_name:
                raise Unknown(f"file of {kind}", asked, sorted(f.name for f in files))
            chosen[kind] = by_name[asked]
            continue
        found = [f for f in files if kinds[f] == kind]
        if kind == "text" and len(found) > 1:  # words before vectors of them
            found = [f for f in found if "word" in f.stem.lower() and "vec" not in f.stem.lower()][:1] or found
        if len(found) > 1:
            raise UsageError(
                f"{files[0].parent} has several files of {kind}: {', '.join(f.name for f in found)}. Choose one: "
                f"{sequences.PREFIX}{files[0].parent}:{kind}={found[0].name}"
            )
        if found:
            chosen[kind] = found[0]
    return chosen


def _opened(path: Path) -> Any:
    try:
        return h5py().File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is no HDF5 file, or a damaged one. Copy it again.") from error


def _data(file: Any, path: Path) -> Any:
    """The group of segments of a file."""
    for name in file:
        if hasattr(file[name], "keys") and "data" in file[name]:
            return file[name]["data"]
    raise DataError(f"{path} is no computational sequence: it has no group NAME/data.")
