"""Feature sequences of clips, written as `sequence_folder` reads them: ID.npz for a clip, and labels.csv.

A record's .npz also holds `made_of`, a digest of the clip's files (sizes and times) and of its part of them, by which
it is known again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import clips, kinds, recording, transcript
from tacit.data.clip_lists import RATE_NAMES, TEXT_NAMES, VIDEO_NAMES
from tacit.data.containers import FILMS
from tacit.data.labels import LABEL_NAMES, parts_of
from tacit.data.listing import SOUND_NAMES, read_listing
from tacit.data.sequence_folder import COLUMNS, PARTS
from tacit.data.sequences import MODALITIES, video_of
from tacit.data.source import Source
from tacit.data.targets import SEPARATOR
from tacit.run import atomic

MOST_CLASSES = 64  # of a column; of more it is no label
ENDINGS = FILMS | recording.EXTENSIONS


def ids_of(source: Source) -> list[str]:
    """A path [N] for each clip, below any folder and no two the same: its name without the ending of the film, which
    stays where two differ by it alone; rows of a table with one name are numbered."""
    names = [source.name(i) for i in range(len(source))]
    plain = [_path(_without_ending(name)) for name in names]
    often = Counter(plain)
    ids = [p if often[p] == 1 else _path(name) for p, name in zip(plain, names, strict=True)]
    seen: Counter[str] = Counter()
    for i, one in enumerate(ids):
        seen[one] += 1
        ids[i] = one if seen[one] == 1 else f"{one}~{seen[one]}"
    return ids


def _without_ending(name: str) -> str:
    """`a/x` of a/x.mp4, and `a/x#1-2` of a/x.mp4#1-2."""
    file, mark, part = name.partition("#")
    stem, ending = os.path.splitext(file)
    return (stem if ending.lower() in ENDINGS else file) + mark + part


def _path(name: str) -> str:
    """Relative, with no step upwards, nothing hidden, and no character that a file system refuses."""
    steps = [re.sub(r'[<>:"|?*\\]', "_", step.lstrip(".")) for step in name.split(os.sep)]
    return os.sep.join(step for step in steps if step) or "clip"


def made_of(source: Source, index: int) -> str:
    """Changes when a file of the clip does, or its place in it."""
    digest = hashlib.blake2b(digest_size=16)
    for field in kinds.MODALITIES:
        place = source.store.read(index, field) if field in source.fields else None
        if place is None or not isinstance(place.what, Path):
            digest.update(repr((field, place)).encode())
        else:
            digest.update(repr((field, *place[1:])).encode())
            try:
                stat = os.stat(place.what)
                digest.update(b"%d %d" % (stat.st_size, stat.st_mtime_ns))
            except OSError:
                digest.update(b"gone")
    return digest.hexdigest()


def modalities_of(path: Path, key: str) -> list[str] | None:
    """What a record holds that is `made_of` this; None where there is no such record, or another."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return [m for m in MODALITIES if m in held.files] if str(held["made_of"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_record(path: Path, arrays: dict[str, np.ndarray], key: str) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, made_of=np.array(key), **arrays)


def labels_of(source: Source, text: str, ids: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Columns of labels.csv [N] without `id`: video (or group), split, and numbers; and what to tell of it.

    Of a table columns of numbers are what they are. Of a column of labels (`LABEL_NAMES`), as of class folders, every
    class becomes a column of 1 and 0. A film, or what the table calls a group or a speaker, is a group.

    Args:
        text: what the clips were opened by: a folder or a table.
    """
    path = clips.parse(text.removeprefix(clips.PREFIX))[0]
    if not path.is_file():
        parts = bool(parts_of([source.name(i) for i in range(len(source))], os.sep))
        if source.labels is None:
            return {"video": [video_of(i.split(os.sep, 1)[1] if parts else i) for i in ids]}, []
        classes = [source.classes[k] for k in source.labels.tolist()]
        return {"video": list(ids), **(_classes("label", classes) or {})}, []
    table = read_listing(path)
    rows = source.store.row_numbers.tolist()
    table = {name: [_cell(values[row]) for row in rows] for name, values in table.items()}
    found: dict[str, list[str]] = {"video": [_film(source, i) for i in range(len(source))]}
    left, notes = [], []
    used = {*VIDEO_NAMES, *SOUND_NAMES, *TEXT_NAMES, *RATE_NAMES, *transcript.STARTS, *transcript.ENDS, *COLUMNS["id"]}
    for name, cells in table.items():
        lower = name.strip().lower()
        if lower in used | {"duration"}:
            continue
        if lower in COLUMNS["group"]:
            found["video"] = [cell or film for cell, film in zip(cells, found["video"], strict=True)]
        elif lower in COLUMNS["part"]:
            if unknown := sorted({cell for cell in cells if cell and cell.lower() not in PARTS}):
                notes.append(
                    f"The column {name} holds {unknown[0]!r}, which is no part (train, valid, test): left out."
                )
            else:
                found["split"] = [PARTS.get(cell.lower(), "") for cell in cells]
        elif lower in LABEL_NAMES and not _fractions(cells) and (classes := _classes(name, cells)) is not None:
            found |= classes
        elif _fractions(cells) or (lower not in LABEL_NAMES and _numbers(cells)):
            found[name] = cells
        else:
            left.append(name)
    if left:
        notes.append(f"Left out of labels.csv, as neither numbers nor classes called label: {', '.join(left)}.")
    return found, notes


def _film(source: Source, index: int) -> str:
    """Which clips of one film share."""
    fields = [field for field in kinds.MODALITIES if field in source.fields]
    place = next(p for field in fields if (p := source.store.read(index, field)) is not None)
    return os.path.relpath(place.what, source.store.root) if isinstance(place.what, Path) else source.name(index)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _classes(column: str, cells: Sequence[str]) -> dict[str, list[str]] | None:
    """A column of 1 and 0 for each class, "" where it is unknown; several are apart by `SEPARATOR`. None of many."""
    sets = [{label for part in cell.split(SEPARATOR) if (label := part.strip())} for cell in cells]
    names = sorted(set().union(*sets))
    if not 0 < len(names) <= MOST_CLASSES:
        return None
    taken = {name for choices in COLUMNS.values() for name in choices}
    return {
        f"{column}_{name}" if name.lower() in taken or _numbers([name]) else name: [
            str(int(name in some)) if some else "" for some in sets
        ]
        for name in names
    }


def _numbers(cells: Sequence[str]) -> bool:
    """Whether there are some, and nothing else."""
    try:
        return bool([float(cell) for cell in cells if cell])
    except ValueError:
        return False


def _fractions(cells: Sequence[str]) -> bool:
    return _numbers(cells) and any(not float(cell).is_integer() for cell in cells if cell)


def table_of(ids: Sequence[str], columns: dict[str, list[str]]) -> str:
    """labels.csv of these records, by `id`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", *columns])
    writer.writerows(zip(ids, *columns.values(), strict=True))
    return out.getvalue()
