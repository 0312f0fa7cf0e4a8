"""`detect`: detection, and instance segmentation, of pictures with boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import detection
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene
from tacit.evaluation.task import Score
from tacit.precision import CHOICES, resolved


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    if test is None:
        if not (data / "train").is_dir() or not (data / "test").is_dir():
            raise UsageError(
                f"{data} has no train/ and test/. Give the training part by --data and the other by --test, each a "
                "COCO .json or a folder with images/ and annotations/ (VOC .xml) or labels/ (instance maps)."
            )
        data, test = data / "train", data / "test"
    train = detection.open_set(data, masks=options["masks"])
    parts = train, detection.match_classes(detection.open_set(test, masks=options["masks"]), train)
    return Opened(parts, [[scene.path.name for scene in part.scenes] for part in parts])


def run(
    job: Job, data: tuple[detection.DetectionSet, detection.DetectionSet], *,
    model: str = "mask_rcnn", schedule: str = "small", epochs: int = 0, batch_size: int = 0,
    frozen: bool = False, masks: bool = False, precision: str = "auto",
) -> Found:  # fmt: skip
    """Detection, and with `masks` instance segmentation: COCO AP of a detector, fine-tuned or on a frozen encoder."""
    changes = {k: v for k, v in (("epochs", epochs), ("batch_size", batch_size)) if v}
    plan = detection.preset(schedule, **changes)
    train, test = data
    torch.manual_seed(job.seed)  # pyramid and heads begin the same over every encoder
    made = detection.build(model, job.encoder, train, plan, frozen=frozen)
    history, bad = detection.train(
        made, train, plan, seed=job.seed, workers=job.workers, device=job.device,
        progress=job.tell and (lambda done, total, _: job.tell(done, total)), precision=precision,
        checkpoint=job.checkpoints,
    )  # fmt: skip
    results, unread = detection.predict(made, test, device=job.device)
    said = {
        "model": model, "schedule": schedule, "epochs": plan.epochs, "batch_size": plan.batch_size, "frozen": frozen,
        "feature": "stage maps" if frozen else "stage maps, all weights trained",
        "precision": resolved(precision, job.device), "loss": round(float(sum(history[-1].values())), 4),
    }  # fmt: skip
    scores = []
    for kind, short in (("bbox", "box"), ("segm", "mask"))[: 2 if train.masks else 1]:
        truth = detection.to_coco(test, masks=None if kind == "segm" else False)
        ap = detection.average_precision(truth, results, kind=kind, seed=job.seed, keep=True)
        about = said | {k: round(float(ap[k]), 4) for k in ("ap50", "ap75") if np.isfinite(ap[k])}
        value, low, high, n, records = (ap[k] for k in ("ap", "low", "high", "n", "records"))
        scores.append(Score("", f"{short}_ap", value, low, high, n, job.of, about, records))
    return Found(scores, [*train.skipped, *test.skipped, *bad, *unread])


SCENE = Scene(
    open_data, run, "pictures with boxes: COCO files, or folders with images/ and annotations/ or labels/",
    reads=("masks",), known={"model": detection.MODELS, "schedule": detection.PRESETS, "precision": CHOICES},
)  # fmt: skip
