"""`segment`: semantic segmentation of pictures with masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import dense
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene
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
    multi_scale: bool = False, precision: str = "auto",
) -> Found:  # fmt: skip
    """Semantic segmentation: mIoU of a linear head or of patch votes on frozen features, or of a fine-tuned UPerNet.

    `foreground` reads maps of instances as one class against the background; `multi_scale` averages a UPerNet's
    predictions over six sizes and mirror images.
    """
    if head == "upernet":
        s = dense.PRESETS[preset]
        s = replace(s, crop=size, short=size, long=4 * size) if size else s
        s = replace(s, steps=steps, warmup=min(s.warmup, steps // 10)) if steps else s
        s = replace(s, **dense.MULTI_SCALE) if multi_scale else s
    else:
        s = dense.PROTOCOLS[head]()
        s = replace(s, size=size) if size else s
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


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    if options["multi_scale"] and options["head"] != "upernet":
        raise UsageError("multi_scale is for head=upernet: the others look at each picture in one size.")


SCENE = Scene(
    open_data, run, "pictures with masks, in train/ and test/, or in ADE20K's or VOC's layout",
    reads=("foreground",), known={"head": dense.PROTOCOLS, "preset": dense.PRESETS, "precision": CHOICES},
    check=check,
)  # fmt: skip
