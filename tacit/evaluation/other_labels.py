"""Protocols for records with numbers, with several labels, or with none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tacit.errors import DataError
from tacit.evaluation import intervals, label_free
from tacit.evaluation.augmented import augmented_features
from tacit.evaluation.correspondence import correspondences
from tacit.evaluation.low_shot import ALONE, draw_positives
from tacit.evaluation.multi_label import AUDIOSET, RESAMPLES, multi_label_probe, named, per_class
from tacit.evaluation.regression import errors, ridge
from tacit.evaluation.task import Score, Task
from tacit.views import field_of

LABEL_FREE = 2000  # test features that label-free measures look at
LIDAR = (200, 10)  # records and augmented views of each


def run_ridge(task: Task, *, feature: str = "pooled") -> list[Score]:
    """Ridge regression of every column of numbers, its strength chosen on the training set: R2, MAE, NMAD."""
    train, test = (x.numpy() for x in task.x(feature))
    parts = task.parts(None)
    found = ridge(train, task.train.targets, test, select="held-out" if parts else "gcv", parts=parts, seed=task.seed)
    scores = []
    for i, name in enumerate(task.train.source.targets.names):
        said = {"column": name, "l2": float(found.strength[i]), "feature": feature}
        label = "ridge" if found.predicted.shape[1] == 1 else f"ridge:{name}"
        both = found.predicted[:, i], task.test.targets[:, i]
        known = int(np.isfinite(both[1]).sum())
        for metric in ("r2", "mae", "nmad", "spearman"):
            score = task.statistic(label, metric, both, lambda p, t, m=metric: errors(p, t)[m], said)
            scores.append(replace(score, n=known))
    return scores


def run_multi_label(
    task: Task, *, metric: str = "average_precision", feature: str = "pooled", shots: tuple[int, ...] = (),
    draws: int = 10,
) -> list[Score]:  # fmt: skip
    """One-vs-rest logistic regression for several labels a record: the mean over the labels of a per-class metric, or
    of all of "audioset": mAP, AUROC and d'.

    `shots`: from so many training records with each label alone, drawn anew `draws` times.
    """
    metrics = AUDIOSET if metric == "audioset" else (metric,)
    if shots:
        return [
            _multi_label_few(task, one, feature, many, draws, alone=len(shots) == 1)
            for many in shots
            for one in metrics
        ]
    train, test = task.x(feature)
    y, truth = task.train.targets, task.test.targets
    parts = task.parts(y)
    found, strength = multi_label_probe(train, torch.from_numpy(y).float(), test, parts=parts, seed=task.seed)
    names, scores = task.train.source.targets.names, []
    for one in metrics:
        whole = per_class(found.numpy(), truth, one, names)
        said = {
            "l2": strength, "feature": feature, "left_out": list(whole.left_out),
            "per_class": {n: round(float(v), 4) for n, v in zip(names, whole.values, strict=True) if np.isfinite(v)},
        }  # fmt: skip

        def mean(scores: np.ndarray, targets: np.ndarray, one: str = one) -> float:
            return per_class(scores, targets, one).mean

        both = found.numpy(), truth
        scores.append(task.statistic("multi_label", named(one), both, mean, said, resamples=RESAMPLES))
    return scores


def _multi_label_few(task: Task, metric: str, feature: str, shots: int, draws: int, *, alone: bool) -> Score:
    """The mean over draws of few labels. The strength is swept on the drawn records alone; with one it is fixed."""
    (train, test), y, truth = task.x(feature), task.train.targets, task.test.targets
    drawn = draw_positives(y, shots, draws, seed=task.seed, names=task.train.source.targets.names)
    values, strength = [], ALONE if shots == 1 else None
    for rows in drawn:
        own = torch.from_numpy(y[rows]).float()
        found, _ = multi_label_probe(train[torch.from_numpy(rows)], own, test, seed=task.seed, strength=strength)
        values.append(per_class(found.numpy(), truth, metric).mean)
    low, high = intervals.over_draws(np.array(values))
    labelled = float(np.mean([len(rows) for rows in drawn]))
    said = {"shots": shots, "draws": draws, "labelled": labelled, "feature": feature}
    name = "multi_label" if alone else f"multi_label:shots={shots}"
    return Score(name, named(metric), float(np.mean(values)), low, high, len(test), task.of, said)


def run_label_free(task: Task, *, feature: str = "pooled", lidar: bool = True) -> list[Score]:
    """RankMe, alpha-ReQ, uniformity and spread of up to 2,000 test features, and LiDAR of views of up to 200 records.

    Intervals come from random halves of the records. What too few records do not allow is left out, and said.
    """
    rng = np.random.default_rng(task.seed)
    x = task.x(feature)[1]
    x = x[_some(rng, len(x), LABEL_FREE)]
    measures = {
        "rankme": (label_free.rankme, x), "alpha_req": (label_free.alpha_req, x),
        "feature_std": (label_free.feature_std, x), "uniformity": (label_free.uniformity, x),
    }  # fmt: skip
    said: dict[str, Any] = {"feature": feature, "interval_over": "random halves"}
    left_out = {}
    images = task.encoder is not None and field_of(task.encoder.inputs) == "image"
    if lidar and len(x) >= 3 and images:
        rows = task.test.found.index[_some(rng, len(task.test.found.index), LIDAR[0])]
        views = augmented_features(
            task.encoder, task.test.origin.select(rows.numpy()), views=LIDAR[1], feature=feature, seed=task.seed,
            workers=task.workers, device=task.device, progress=task.tell("lidar"),
        )  # fmt: skip
        measures["lidar"] = (label_free.lidar, views)
        said["lidar_views"] = LIDAR[1]
    elif task.encoder is not None:
        reason = "it takes three records or more" if images else "its views are of images"
        left_out["lidar"] = reason if lidar else "lidar=no"
    found = []
    for name, (measure, on) in measures.items():
        try:
            found.append((name, len(on), *_with_halves(measure, on, task.seed)))
        except DataError as error:
            left_out[name] = str(error)
    if left_out:
        said["left_out"] = left_out
    return [
        Score("label_free", name, value, value - half, value + half, n, task.of, said) for name, n, value, half in found
    ]


def _some(rng: np.random.Generator, count: int, most: int) -> torch.Tensor:
    """Rows in their order: all, or `most` drawn by chance, since neighbours in a folder are of one class."""
    return torch.from_numpy(np.sort(rng.permutation(count)[:most]))


def _with_halves(measure: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, seed: int) -> tuple[float, float]:
    """A measure and half the width of its interval, from how it varies over random halves of the records."""
    rng = np.random.default_rng(seed)
    halves = [torch.from_numpy(rng.permutation(len(x))[: max(len(x) // 2, 2)]) for _ in range(20)]
    values = [float(measure(part)) for part in (x, *(x[rows] for rows in halves))]
    if not np.isfinite(values).all():
        raise DataError(f"undefined for {len(x)} records")
    return values[0], 1.96 * float(np.std(values[1:]))


def run_correspondence(task: Task, *, top: int = 10) -> list[Score]:
    """EsViT's: of a picture's regions and those of its mirrored grey copy, how many of the surest pairs are true."""
    found = correspondences(
        task.encoder, task.test.source, top=top, seed=task.seed, workers=task.workers, device=task.device,
        progress=task.tell("correspondence"),
    )  # fmt: skip
    return [task.mean("correspondence", "accuracy", found.accuracy, {"top": top, "chance": found.chance})]
