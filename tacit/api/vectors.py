"""`embed`, and `bags` of what it wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tacit.api.shared import encoder_of, workers_of
from tacit.errors import BadSettings, UsageError
from tacit.run import atomic, write_text


def embed(
    what: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """One vector a record: `path, vector` rows in a .parquet file, or a .npy array with the paths in a .txt beside it.

    Unreadable records are left out and listed in the answer: `{"out", "rows", "width", "bad_files": [(name, reason)],
    "notes": [what was done with the data]}`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tacit.data import note_rates, open_source
    from tacit.evaluation import features
    from tacit.views import field_of

    out = Path(out)
    if out.suffix not in (".parquet", ".npy"):
        raise UsageError(f"--out {out}: must end in .parquet or .npy.")
    encoder = encoder_of(what, foreign=True)
    kind = field_of(encoder.inputs)
    source = open_source(data, channels=encoder.inputs.channels, kind=kind, labels=None)
    if kind == "audio" and kind in source.fields:
        note_rates(source, encoder.inputs.rate)
    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float32(), encoder.width))])
    bad, names, arrays, rows = list(source.skipped), [], [], 0
    with atomic(out) as temporary:
        writer = pq.ParquetWriter(temporary, schema) if out.suffix == ".parquet" else None
        for start in range(0, len(source), 8192):
            part = source.select(np.arange(start, min(start + 8192, len(source))))
            tell = progress and (lambda done, total, start=start: progress("embedding", start + done, len(source)))
            found = features(encoder, part, workers=workers_of(workers), progress=tell)
            bad += found.bad
            paths = [part.name(int(i)) for i in found.index]
            rows += len(paths)
            if writer is not None:
                flat = pa.array(found.x.numpy().ravel())
                vectors = pa.FixedSizeListArray.from_arrays(flat, encoder.width)
                writer.write_table(pa.table([pa.array(paths), vectors], schema=schema))
            else:
                names += paths
                arrays.append(found.x.numpy())
        if writer is not None:
            writer.close()
        else:
            with open(temporary, "wb") as f:
                np.save(f, np.concatenate(arrays))
    if writer is None:
        write_text(out.with_suffix(".txt"), "\n".join(names) + "\n")
    return {"out": str(out), "rows": rows, "width": encoder.width, "bad_files": bad, "notes": source.notes}


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
