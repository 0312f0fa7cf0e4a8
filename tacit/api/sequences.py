"""`embed --sequences`: a folder of feature sequences, made of films, their sound and what is said in them."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tacit.api.shared import encoder_of, workers_of
from tacit.errors import DataError, UsageError
from tacit.run import read_json, write_json, write_text

FPS = 5.0
FORMAT = 1
SETTINGS = "sequences.json"  # in the folder: what its records were made with
NO_ENCODER = "none"


def embed_sequences(
    what: Any,
    data: Any,
    out: Path,
    *,
    fps: float | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The folder `out` of ID.npz and labels.csv; see `embed`.

    A record is left as it is if its .npz says that it is made of the same files (`sequence_writing.made_of`), in a
    folder whose `SETTINGS` are the same: rate, encoder to the last weight, and how its inputs are prepared.
    """
    from tacit.data import note_rates, open_source
    from tacit.data import sequence_writing as writing
    from tacit.evaluation.clip_features import RATE, read_clips

    fps = FPS if fps is None else fps
    if not 0 < fps < math.inf:
        raise UsageError(f"--fps {fps:g}: must be frames a second, above 0; {FPS:g} is usual.")
    if out.suffix in (".parquet", ".npy", ".npz", ".csv") or out.is_file():
        raise UsageError(f"--out {out}: --sequences writes a folder, a record a file. Name one.")
    encoder = None if what == NO_ENCODER else _pictures(what)
    settings = _settings(encoder, fps)
    _check_same(out, settings)

    source = open_source(data, kind="video")
    if "audio" in source.fields:
        note_rates(source, RATE)
    notes, bad = list(source.notes), list(source.skipped)
    if encoder is not None and "video" not in source.fields:
        notes.append(f"No clip has pictures: {encoder.name} is not asked. ENCODER may be {NO_ENCODER}.")
        encoder = None
    ids = writing.ids_of(source)
    columns, said = writing.labels_of(source, os.fspath(data), ids)
    notes += said

    keys = [writing.made_of(source, i) for i in range(len(source))]
    paths = [out / f"{one}.npz" for one in ids]
    held = [writing.modalities_of(path, key) for path, key in zip(paths, keys, strict=True)]
    rows = [i for i, found in enumerate(held) if found is None]
    kept = len(source) - len(rows)
    before = (read_json(out / SETTINGS) or {}).get("labels")
    write_json(out / SETTINGS, {**settings, "labels": before})

    tell = progress and (lambda done: progress("embedding", kept + done, len(source)))
    how = {"workers": workers_of(workers), "progress": tell}
    for index, arrays in read_clips(encoder, source, rows, fps, bad, **how):
        writing.write_record(paths[index], arrays, keys[index])
        held[index] = [m for m in ("text", "audio", "vision") if m in arrays]
    there = [i for i, found in enumerate(held) if found is not None]
    if not there:
        said = f"; the first: {': '.join(bad[0])}" if bad else ""
        raise DataError(f"None of the {len(source):,} clips can be read{said}.")

    text = writing.table_of([ids[i] for i in there], {c: [v[i] for i in there] for c, v in columns.items()})
    notes += _labels_written(out, text, settings, before)
    notes += _strays(out, {paths[i] for i in there}) + _long(source)
    return {
        "out": str(out), "rows": len(there), "kept": kept, "width": 0 if encoder is None else encoder.width, "fps": fps,
        "modalities": {m: sum(m in held[i] for i in there) for m in ("text", "audio", "vision")},
        "bad_files": bad, "notes": notes,
    }  # fmt: skip


def _pictures(what: Any):
    """An encoder of images with three channels; one with random weights always has the same ones."""
    import torch

    from tacit.data.kinds import WORDS
    from tacit.views import field_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = encoder_of(what, foreign=True)
    if (field := field_of(encoder.inputs)) != "image":
        raise UsageError(
            f"--sequences looks at single frames and needs an encoder of images; {encoder.name} is one of "
            f"{WORDS[field][1]}. Name another, or {NO_ENCODER} for sound and words alone."
        )
    if encoder.inputs.channels != 3:
        raise UsageError(
            f"{encoder.name} reads {encoder.inputs.channels} channels, and films have 3: red, green, blue."
        )
    return encoder


def _settings(encoder: Any, fps: float) -> dict[str, Any]:
    from tacit.evaluation.cache import fingerprint
    from tacit.evaluation.clip_features import LENGTH, MELS, RATE, SHIFT

    looked = None
    if encoder is not None:
        looked = {"name": encoder.name, "weights": fingerprint(encoder), "inputs": encoder.inputs.to_dict()}
    audio = {"rate": RATE, "mels": MELS, "length": LENGTH, "shift": SHIFT}
    return {"format": FORMAT, "encoder": looked, "fps": fps, "audio": audio}


def _check_same(out: Path, settings: dict[str, Any]) -> None:
    """Raises `UsageError` where the folder holds anything else than sequences of the same settings."""
    found = read_json(out / SETTINGS)
    if found is None:
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UsageError(f"--out {out}: holds files, and no {SETTINGS} of ours. Name a new folder.")
        return
    if other := [name for name, value in settings.items() if found.get(name) != value]:
        was = found.get("encoder") or {"name": NO_ENCODER}
        raise UsageError(
            f"--out {out}: its sequences were made with other settings ({', '.join(other)}; by {was['name']} at "
            f"{found.get('fps')} frames a second). Sequences of two extractors do not mix: name a new folder."
        )


def _labels_written(out: Path, text: str, settings: dict[str, Any], before: str | None) -> list[str]:
    """Writes labels.csv, unless somebody has changed it since it was written."""
    path = out / "labels.csv"
    if path.is_file() and _digest(path.read_text(encoding="utf-8")) not in (before, _digest(text)):
        return [f"{path} was changed by hand and is left as it is."]
    write_text(path, text)
    write_json(out / SETTINGS, {**settings, "labels": _digest(text)})
    return []


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _strays(out: Path, written: set[Path]) -> list[str]:
    others = sorted(path for path in out.rglob("*.npz") if path not in written and not path.name.startswith("."))
    if not others:
        return []
    return [
        f"{len(others):,} records in {out} are of no clip of this data and have no row in labels.csv, the first is "
        f"{others[0].relative_to(out)}. Delete them, or give each data set a folder of its own."
    ]


def _long(source: Any) -> list[str]:
    """What emotion_xmodal would not read."""
    from tacit.evaluation.clip_features import SHIFT

    size = 500
    if not (many := sum(source.store.seconds(i) > size * SHIFT for i in range(len(source)))):
        return []
    return [
        f"{many:,} of {len(source):,} clips are longer than {size * SHIFT:g} s, of which emotion_xmodal reads the "
        f"first {size} positions of each modality. Cut films into sentences (a table with start and end), or give it "
        "--set size=N."
    ]
