"""`segment`: semantic segmentation of pictures with masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import dense, intervals
from tacit.evaluation.low_shot import ALONE, draw_positives
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene
from tacit.evaluation.task import Score
from tacit.precision import CHOICES

FEATURES = {"last": "map of the last stage or block", "all": "maps of all stages or blocks"}


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    if test is not None:
        raise UsageError("segment takes one folder with both parts: train/ and test/, or ADE20K's or VOC's layout.")
    parts = dense.open_segmentation(data, foreground=options["foreground"], channels=encoder.inputs.channels)
    return Opened(parts, [part.names for part in parts])


def run(
    job: Job, data: tuple[dense.Segmented, dense.Segmented], *,
    head: str = "linear", preset: str = "small", size: int = 0, steps: int = 0, foreground: bool = False,
    multi_scale: bool = False, precision: str = "auto", shots: int = 0, draws: int = 5,
) -> Found:  # fmt: skip
    """Semantic segmentation: mIoU of a linear head or of patch votes on frozen features, or of a fine-tuned UPerNet.

    `foreground` reads maps of instances as one class against the background; `multi_scale` averages a UPerNet's
    predictions over six sizes and mirror images. `shots`: from so many labelled images with each class alone, drawn
    anew `draws` times.
    """
    if head == "upernet":
        s = dense.PRESETS[preset]
        s = replace(s, crop=size, short=size, long=4 * size) if size else s
        s = replace(s, steps=steps, warmup=min(s.warmup, steps // 10)) if steps else s
        s = replace(s, **dense.MULTI_SCALE) if multi_scale else s
    else:
        s = dense.PROTOCOLS[head]()
        s = replace(s, size=size) if size else s
    if shots:
        return _few(job, *data, head, s, precision, shots, draws)
    found = dense.segment(
        job.encoder,
        *data,
        protocol=head,
        settings=s,
        seed=job.seed,
        of=job.of,
        workers=job.workers,
        progress=job.tell,
        precision=precision,
        checkpoint=job.checkpoints,
    )
    names = [f"class {i}" for i in range(len(found.class_iou))]
    per_class = {n: round(float(v), 4) for n, v in zip(names, found.class_iou, strict=True) if np.isfinite(v)}
    said = {"head": head, "feature": "stage maps, all weights trained" if head == "upernet" else FEATURES[s.levels]}
    scores = [replace(score, settings={**said, **score.settings}) for score in found.scores]
    first = replace(scores[0], settings={**scores[0].settings, "per_class": per_class})
    return Found([first, *scores[1:]], found.bad)


def _few(
    job: Job, train: dense.Segmented, test: dense.Segmented, head: str, s: Any, precision: str, shots: int, draws: int
) -> Found:
    """Means over draws of labelled images. What is swept is swept on the drawn images; with one each it is fixed."""
    drawn = draw_positives(dense.classes_in(train), shots, draws, seed=job.seed)
    if head == "linear" and shots == 1:
        s = replace(s, strengths=(ALONE,))
    if head == "upernet":
        each = [
            dense.segment(
                job.encoder, train.select(rows), test, protocol=head, settings=s, seed=job.seed, of=job.of,
                workers=job.workers, precision=precision,
            )
            for rows in drawn
        ]  # fmt: skip
        matrices, bad = [found.matrices for found in each], each[0].bad
    else:
        matrices, bad = dense.segment_few(
            job.encoder, train, test, drawn, settings=s, seed=job.seed, workers=job.workers, progress=job.tell
        )
    labelled = float(np.mean([len(rows) for rows in drawn]))
    said = {"head": head, "shots": shots, "draws": draws, "labelled": labelled}
    scores = []
    for name, metric in dense.METRICS.items():
        values = np.array([metric(m.sum(0, dtype=np.float64)) for m in matrices])
        low, high = intervals.over_draws(values)
        scores.append(Score("", name, float(values.mean()), low, high, len(matrices[0]), job.of, said))
    return Found(scores, bad)


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    if options["multi_scale"] and options["head"] != "upernet":
        raise UsageError("multi_scale is for head=upernet: the others look at each picture in one size.")


SCENE = Scene(
    open_data, run, "pictures with masks, in train/ and test/, or in ADE20K's or VOC's layout",
    reads=("foreground",), known={"head": dense.PROTOCOLS, "preset": dense.PRESETS, "precision": CHOICES},
    check=check,
)  # fmt: skip
