"""Protocols for pictures with masks or boxes: `segment` and `detect`, asked for and answered like the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import dense, detection
from tacit.evaluation.options import Asked, one_of
from tacit.evaluation.task import Score, packed, random_twin

KNOWN = {
    "head": dense.PROTOCOLS, "preset": dense.PRESETS, "model": detection.MODELS, "schedule": detection.PRESETS,
}  # fmt: skip


def run_segment(
    encoder: Encoder, data: tuple[dense.Segmented, dense.Segmented], of: str, seed: int, workers: int, tell, *,
    head: str = "linear", preset: str = "small", size: int = 0, steps: int = 0, foreground: bool = False,
) -> tuple[list[Score], list[tuple[str, str]]]:  # fmt: skip
    """Semantic segmentation: mIoU of a linear head or of patch votes on frozen features, or of a fine-tuned UPerNet.

    `foreground` reads maps of instances as one class against the background.
    """
    if head == "upernet":
        s = dense.PRESETS[preset]
        s = replace(s, crop=size, short=size, long=4 * size) if size else s
        s = replace(s, steps=steps, warmup=min(s.warmup, steps // 10)) if steps else s
    else:
        s = dense.PROTOCOLS[head]()
        s = replace(s, size=size) if size else s
    found = dense.segment(
        encoder, *data, protocol=head, settings=s, seed=seed, of=of, workers=workers, progress=tell
    )  # fmt: skip
    names = [f"class {i}" for i in range(len(found.class_iou))]
    per_class = {n: round(float(v), 4) for n, v in zip(names, found.class_iou, strict=True) if np.isfinite(v)}
    scores = [replace(s, protocol="segment", settings={"head": head, **s.settings}) for s in found.scores]
    return [replace(scores[0], settings={**scores[0].settings, "per_class": per_class}), *scores[1:]], found.bad


def run_detect(
    encoder: Encoder, data: tuple[detection.DetectionSet, detection.DetectionSet], of: str, seed: int, workers: int,
    tell, *, model: str = "mask_rcnn", schedule: str = "small", epochs: int = 0, batch_size: int = 0,
    frozen: bool = False, masks: bool = False,
) -> tuple[list[Score], list[tuple[str, str]]]:  # fmt: skip
    """Detection, and with `masks` instance segmentation: COCO AP of a detector, fine-tuned or on a frozen encoder."""
    changes = {k: v for k, v in (("epochs", epochs), ("batch_size", batch_size)) if v}
    plan = detection.preset(schedule, **changes)
    train, test = data
    torch.manual_seed(seed)  # pyramid and heads begin the same over every encoder
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = detection.build(model, encoder, train, plan, frozen=frozen)
    history, bad = detection.train(
        made, train, plan, seed=seed, workers=workers, device=device,
        progress=tell and (lambda done, total, _: tell(done, total)),
    )  # fmt: skip
    results, unread = detection.predict(made, test, device=device)
    said = {"model": model, "schedule": schedule, "epochs": plan.epochs, "batch_size": plan.batch_size,
            "frozen": frozen, "loss": round(float(sum(history[-1].values())), 4)}  # fmt: skip
    scores = []
    for kind, short in (("bbox", "box"), ("segm", "mask"))[: 2 if train.masks else 1]:
        truth = detection.to_coco(test, masks=None if kind == "segm" else False)
        ap = detection.average_precision(truth, results, kind=kind, seed=seed)
        about = said | {k: round(float(ap[k]), 4) for k in ("ap50", "ap75") if np.isfinite(ap[k])}
        scores.append(Score("detect", f"{short}_ap", ap["ap"], ap["low"], ap["high"], ap["n"], of, about))
    return scores, bad + unread


def evaluate(
    encoder: Encoder,
    data: Path,
    test: Path | None,
    asked: Sequence[Asked],
    *,
    seed: int = 0,
    baselines: bool = True,
    workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """As `evaluate.evaluate`, on a folder of masks or of boxes, or COCO files; raw inputs are no subject here."""
    names = {one.name for one in asked}
    if len(names) > 1:
        raise UsageError("segment and detect each read data of a kind of its own; ask for one of them alone.")
    for one in asked:  # before anything is read
        for option, known in KNOWN.items():
            if option in one.options:
                one_of(option, one.options[option], known)
    wanted = {k for one in asked for k in ("foreground", "masks") if one.options.get(k)}
    if names == {"segment"}:
        opened, run = _segmented(data, test, "foreground" in wanted, encoder.inputs.channels), run_segment
    else:
        opened, run = _detected(data, test, "masks" in wanted), run_detect
    subjects = [("run", encoder)] + ([("random-init", random_twin(encoder, seed))] if baselines else [])
    scores: list[Score] = []
    bad: dict[str, str] = {}
    for one in asked:
        for of, subject in subjects:
            tell = progress and (lambda done, total, of=of, one=one: progress(f"{one.spec}, {of}", done, total))
            found, left_out = run(subject, opened, of, seed, workers, tell, **one.options)
            scores += [replace(score, protocol=one.spec) for score in found]
            bad |= dict(left_out)
    digest = hashlib.blake2b("\n".join([*_names(opened[0]), "", *_names(opened[1])]).encode(), digest_size=8)
    return packed(scores, encoder, split="test set", split_hash=digest.hexdigest(), seed=seed, bad=list(bad.items()))


def _segmented(data: Path, test: Path | None, foreground: bool, channels: int):
    if test is not None:
        raise UsageError("segment takes one folder with both parts: train/ and test/, or ADE20K's or VOC's layout.")
    return dense.open_segmentation(data, foreground=foreground, channels=channels)


def _detected(data: Path, test: Path | None, masks: bool):
    if test is None:
        if not (data / "train").is_dir() or not (data / "test").is_dir():
            raise UsageError(
                f"{data} has no train/ and test/. Give the training part by --data and the other by --test, each a "
                "COCO .json or a folder with images/ and annotations/ (VOC .xml) or labels/ (instance maps)."
            )
        data, test = data / "train", data / "test"
    train = detection.open_set(data, masks=masks)
    return train, detection.match_classes(detection.open_set(test, masks=masks), train)


def _names(data: Any) -> list[str]:
    return list(data.names) if isinstance(data, dense.Segmented) else [scene.path.name for scene in data.scenes]
