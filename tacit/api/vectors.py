"""`embed`, and `bags` of what it wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tacit.api.sequences import embed_sequences
from tacit.api.shared import encoder_of, workers_of
from tacit.api.writing import Block, written
from tacit.errors import BadSettings, UsageError
from tacit.run import atomic


def embed(
    what: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    frames: bool = False,
    whole: bool = False,
    overlap: float = 0.0,
    sequences: bool = False,
    fps: float | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """One vector a record: `path, vector` rows in a .parquet file, or a .npy array with the paths in a .txt beside it.

    Of a picture it is of its centre, and of a recording of its middle, unless one of the first two of these says else.

    Args:
        frames: of sounds, a row a frame, `path, start, end, vector` (seconds), in a .parquet file. Recordings are read
            in pieces of the encoder's length, so that they may be of any.
        whole: of sounds, the mean over such pieces of all of a recording; of films, waveforms and transcripts the mean
            over a few pieces, spread evenly.
        overlap: of neighbouring pieces, a share of their length; a frame is taken from the one in whose middle it is.
        sequences: of clips, feature sequences in a folder `out` that `sequences:OUT` reads: a record is ID.npz with
            `vision` (frames through an encoder of images), `audio` (log-mels), `text` (words) and the times of each, as
            `tacit.evaluation.clip_features` has them, as far as the clip has these; and labels.csv. What is there
            already, of the same files and settings, is kept. "none" for an encoder leaves vision out.
        fps: with `sequences`, frames a second that are looked at; 5 when left out.

    Unreadable records, or parts of recordings, are left out and listed in the answer: `{"out", "rows", "width",
    "bad_files": [(name, reason)], "notes": [what was done with the data]}`; with `frames` also "frame", its seconds;
    with `sequences` also "kept" of the rows, "fps", and "modalities", how many records have each.
    """
    from tacit.data import note_rates, open_source
    from tacit.evaluation.frames import check_frames, check_pieces, grid_of
    from tacit.evaluation.windows import WINDOWS, windowed
    from tacit.views import field_of

    out = Path(out)
    if sequences:
        if frames or whole or overlap:
            raise UsageError("--sequences is another thing than --frames, --whole and --overlap; leave these out.")
        return embed_sequences(what, data, out, fps=fps, workers=workers, progress=progress)
    if fps is not None:
        raise UsageError(f"--fps {fps:g}: is for --sequences, which looks at frames of films.")
    if out.suffix not in (".parquet", ".npy"):
        raise UsageError(f"--out {out}: must end in .parquet or .npy.")
    if frames and whole:
        raise UsageError("--frames and --whole: a vector for each frame, or one for all of a recording; leave one out.")
    if frames and out.suffix != ".parquet":
        raise UsageError(f"--out {out}: must end in .parquet, which holds the times of frames.")
    if overlap and not frames and not whole:
        raise UsageError(f"--overlap {overlap:g}: is for --frames or --whole, which read recordings in pieces.")
    encoder = encoder_of(what, foreign=True)
    if frames:
        check_frames(encoder)
    kind = field_of(encoder.inputs)
    pieces = whole and windowed(encoder)
    if pieces and overlap:
        raise UsageError(
            f"--overlap {overlap:g}: {encoder.name} looks at {WINDOWS} pieces, whatever lies between them."
        )
    if whole and not pieces:
        check_pieces(encoder)
    grid = grid_of(encoder, overlap) if frames or (whole and not pieces) else None
    source = open_source(data, channels=encoder.inputs.channels, kind=kind, labels=None)
    if kind == "audio" and kind in source.fields:
        note_rates(source, encoder.inputs.rate)
    bad = list(source.skipped)
    how = {"workers": workers_of(workers), "progress": progress and partial(progress, "embedding")}
    if frames:
        blocks = _frames(encoder, source, grid, bad, **how)
    elif pieces:
        blocks = _windows(encoder, source, bad, **how)
    else:
        blocks = _wholes(encoder, source, grid, bad, **how) if whole else _middles(encoder, source, bad, **how)
    rows = written(out, blocks, encoder.width, timed=frames)
    said = {"out": str(out), "rows": rows, "width": encoder.width, "bad_files": bad, "notes": source.notes}
    return said | ({"frame": grid.seconds} if frames else {})


def _middles(encoder, source, bad, *, workers, progress) -> Iterator[Block]:
    import numpy as np

    from tacit.evaluation import features

    for start in range(0, len(source), 8192):
        part = source.select(np.arange(start, min(start + 8192, len(source))))
        tell = progress and (lambda done, total, start=start: progress(start + done, len(source)))
        found = features(encoder, part, workers=workers, progress=tell)
        bad += found.bad
        yield Block([part.name(int(i)) for i in found.index], found.x.numpy())


def _wholes(encoder, source, grid, bad, **how) -> Iterator[Block]:
    from tacit.evaluation.frames import wholes_of

    for index, x in wholes_of(encoder, encoder, source, grid, bad, **how):
        yield Block([source.name(index)], x.numpy()[None])


def _windows(encoder, source, bad, **how) -> Iterator[Block]:
    from tacit.evaluation.windows import WINDOWS, read_windows

    for index, x in read_windows(encoder.eval(), source, encoder.inputs, WINDOWS, bad, **how):
        yield Block([source.name(index)], x.mean(0).numpy()[None])


def _frames(encoder, source, grid, bad, **how) -> Iterator[Block]:
    from tacit.evaluation.frames import frames_of, of_encoder

    for index, first, x in frames_of(of_encoder(encoder), encoder, source, grid, bad, **how):
        yield Block([source.name(index)] * len(x), x.numpy(), first, grid.seconds)


def bags(
    features: str | os.PathLike,
    table: str | os.PathLike,
    *,
    label: str = "label",
    bag: str = "bag",
    group: str | None = None,
    out: str | os.PathLike | None = None,
    rois: str | os.PathLike | None = None,
    top: int = 5,
    epochs: int = 20,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """How well bags of embeddings with one label each (slides of tiles) are told apart, by attention and by the mean.

    Args:
        features: what `embed` wrote. table: a row a bag, see `tacit.evaluation.bags.read_bags`.
        label, bag, group: its columns. A group (a patient) is never split, and drawn together for intervals.
        out: a .csv for `bag, path, attention` of every vector of the test bags.
        rois: what `embed` wrote of labelled regions, a folder a class. Bags are then also told by their `top` vectors
            nearest to each class, without training (MI-SimpleShot).

    Returns:
        `{"features", "table", "seed", "epochs", "classes", "train", "test", "split", "missing", "unused", "results":
        [{"pool", "metric", "value", "low", "high", "n"}]}`.
    """
    import csv

    from tacit.evaluation.bags import read_bags, read_rois, score_bags

    if out is not None and Path(out).suffix != ".csv":
        raise UsageError(f"--out {out}: must end in .csv.")
    if epochs < 1:
        raise BadSettings([f"epochs = {epochs}: must be at least 1."])
    if top < 1:
        raise BadSettings([f"top = {top}: must be at least 1."])
    found = read_bags(features, table, label=label, bag=bag, group=group)
    labelled = read_rois(rois, found.classes, found.x.shape[1]) if rois is not None else None
    result, weights = score_bags(found, epochs=epochs, seed=seed, rois=labelled, top=top, progress=progress)
    if out is not None:
        rows = dict(zip(found.names, found.rows, strict=True))
        with atomic(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["bag", "path", "attention"])
            for name, given in weights.items():
                for row, weight in zip(rows[name], given.tolist(), strict=True):
                    writer.writerow([name, found.paths[row], f"{weight:.6g}"])
    return {"features": str(features), "table": str(table), "seed": seed, "epochs": epochs, **result}
