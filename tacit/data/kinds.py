"""Pictures or sounds: what a pile of files is taken for, by the endings of their names."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tacit.data import picture, recording
from tacit.errors import Unknown

KINDS = {"image": picture.EXTENSIONS, "audio": recording.EXTENSIONS}
KIND_OF = {ending: kind for kind, endings in KINDS.items() for ending in endings}
FILES = frozenset(KIND_OF)
TIMED = ("video", "text")  # kinds that clips alone have
WORDS = {
    "image": ("image", "images"),
    "audio": ("sound", "sounds"),
    "video": ("film", "films"),
    "text": ("text", "texts"),
    "sequences": ("record of feature sequences", "feature sequences"),
}
MODALITIES = ("video", "audio", "text")  # what a clip may have, in this order
LACKING = {"video": "video", "audio": "sound", "text": "text"}  # what one is said to lack
KNOWN = "; ".join(f"{WORDS[kind][1]} are: {' '.join(sorted(endings))}" for kind, endings in KINDS.items()).capitalize()


def check_kind(kind: str | None) -> None:
    """Raises `Unknown` unless it is one of `WORDS`, or None."""
    if kind not in (None, *WORDS):
        raise Unknown("kind of record", str(kind), WORDS)


def kind_of(name: str) -> str | None:
    """ "image" or "audio", by the ending of a name."""
    return KIND_OF.get(os.path.splitext(name)[1].lower())


def choose(names: Sequence[str], wanted: str | None) -> tuple[str, list[int], list[str]]:
    """Which of two kinds of files are the records: those `wanted`, if there are any, else those there are more of.

    Returns:
        The kind, the rows of its names, and a note if there are others.
    """
    kinds = [kind_of(name) for name in names]
    counts = {kind: kinds.count(kind) for kind in KINDS}
    kind = wanted if wanted and counts[wanted] else max(counts, key=counts.__getitem__)
    (other,) = KINDS.keys() - {kind}
    if not counts[other]:
        return kind, [i for i, of in enumerate(kinds) if of == kind], []
    said = [f"{counts[k]:,} {WORDS[k][counts[k] > 1]}" for k in (other, kind)]
    note = f"The data holds {said[0]} beside {said[1]}; the {WORDS[kind][1]} are used."
    return kind, [i for i, of in enumerate(kinds) if of == kind], [note]


def check_readers(kind: str, names: pa.ChunkedArray | None = None) -> None:
    """Raises `MissingExtra` for sounds that what is installed cannot read, before any is."""
    if kind == "audio":
        recording.soundfile()
        lower = None if names is None else pc.utf8_lower(names)
        if lower and any(pc.any(pc.ends_with(lower, pattern=ending)).as_py() for ending in recording.BY_AV):
            recording.pyav()
