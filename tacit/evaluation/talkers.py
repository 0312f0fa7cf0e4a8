"""The protocol `emotion`: fine-tuned on emotions or sentiment of talking people, beside the same from scratch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from tacit.errors import DataError, Unknown, UsageError
from tacit.evaluation import emotion, intervals
from tacit.evaluation.options import one_of
from tacit.evaluation.task import Score, Task, random_twin
from tacit.views import SequenceInputs

THRESHOLDS = ("half", "validation")


def run_emotion(
    task: Task, *, percent: tuple[float, ...] = (100.0,), epochs: int = 20, batch_size: int = 32,
    lr: tuple[float, ...] = (5e-5,), scratch_lr: tuple[float, ...] = (5e-5, 2e-4, 1e-3), seeds: int = 5, drop: str = "",
    curve: bool = True, threshold: str = "half",
) -> list[Score]:  # fmt: skip
    """The encoder and a head trained on the labels of so many `percent` of the records, whole groups of these.

    `random-init` is the same from scratch, with as many epochs and the best of its own rates (`scratch_lr`); of
    `raw-input` a logistic regression sees means and deviations over time. `drop`: modalities missing at the test;
    `curve`: scores with each missing and with each alone, of the last of `percent`.
    """
    one_of("threshold", threshold, THRESHOLDS)
    part = task.train.origin
    numbers = part.targets.kind == "numbers"
    names = part.targets.names
    absent = tuple(drop.split("/")) if drop else ()
    recipe = emotion.Recipe(epochs=epochs, batch_size=batch_size, lrs=scratch_lr if task.of == "random-init" else lr)
    if task.encoder is None:
        return [] if numbers or absent else _raw(task, percent, seeds)
    inputs = task.encoder.inputs
    if not isinstance(inputs, SequenceInputs):
        raise UsageError("emotion is for encoders of feature sequences (tacit pretrain emotion_xmodal).")
    for name in absent:
        if name not in inputs.modalities:
            raise Unknown("modality", name, inputs.modalities)
    if set(absent) >= set(inputs.modalities):
        raise UsageError(f"drop = {drop}: nothing is left of {', '.join(inputs.modalities)}.")
    x = emotion.rows_of(part, inputs, task.train.found.index.numpy(), task.workers)
    x_test = emotion.rows_of(task.test.origin, inputs, task.test.found.index.numpy(), task.workers)
    y, truth = task.train.targets, task.test.targets
    scores = []
    for share in percent:
        found = []
        for seed in range(task.seed, task.seed + seeds):
            rows = emotion.labelled_rows(task.train.groups, len(y), share, seed)
            if numbers:
                rows = rows[np.isfinite(y[rows]).all(1)]
            fit, held = emotion.apart(task.train.groups, y, rows, seed)

            def start(seed: int = seed):
                return random_twin(task.encoder, seed) if task.of == "random-init" else deepcopy(task.encoder)

            found.append(
                emotion.tune(
                    start, x, y, fit, held, recipe=recipe, seed=seed, threshold=threshold, device=task.device,
                    tell=task.tell(f"emotion, {share:g} %, seed {seed}"),
                )
            )  # fmt: skip
        said = {
            "percent": share, "labelled": len(rows), "epochs": epochs, "batch_size": batch_size, "seeds": seeds,
            "lr": [t.lr for t in found], "best_epoch": [t.epoch for t in found],
        }  # fmt: skip
        if not numbers:
            said["threshold"] = ".5" if threshold == "half" else "best on a fifth of the labelled records"
        ways = {"": absent} if absent else {"": ()}
        if curve and share == percent[-1] and not absent and len(inputs.modalities) > 1:
            ways |= {f":without={m}": (m,) for m in inputs.modalities}
            ways |= {f":only={m}": tuple(o for o in inputs.modalities if o != m) for m in inputs.modalities}
        for way, missing in ways.items():
            told = [emotion.predict(t.model, x_test, task.device, missing) for t in found]
            label = f"emotion{f':percent={share:g}' if len(percent) > 1 else ''}{way}"
            more = said | ({"missing": list(missing)} if missing else {})
            if numbers:
                scores += _of_numbers(task, label, told, truth, names, more, short=bool(way))
            else:
                scores += _of_emotions(task, label, told, truth, names, more, [t.thresholds for t in found], bool(way))
    return scores


def _raw(task: Task, percent: tuple[float, ...], seeds: int) -> list[Score]:
    x, y = task.train.x.numpy(), task.train.targets
    scores = []
    for share in percent:
        told = []
        for seed in range(task.seed, task.seed + seeds):
            rows = emotion.labelled_rows(task.train.groups, len(y), share, seed)
            fit, held = emotion.apart(task.train.groups, y, rows, seed)
            told.append(emotion.raw_emotions(x, y, fit, held, task.test.x.numpy()))
        label = f"emotion{f':percent={share:g}' if len(percent) > 1 else ''}"
        said = {"percent": share, "labelled": len(rows), "seeds": seeds, "threshold": ".5",
                "classifier": "logistic regression"}  # fmt: skip
        halves = [np.full(y.shape[1], 0.5)] * seeds
        scores += _of_emotions(task, label, told, task.test.targets, task.train.origin.targets.names, said, halves)
    return scores


def _of_emotions(
    task: Task, label: str, told: list[np.ndarray], truth: np.ndarray, names: list[str], said: dict[str, Any],
    thresholds: list[np.ndarray], short: bool = False,
) -> list[Score]:  # fmt: skip
    """The mean over the emotions of each metric, those of every emotion in the settings; `short`: the first alone."""
    each = [emotion.emotion_scores(p, truth, t) for p, t in zip(told, thresholds, strict=True)]
    scores = []
    for metric in emotion.METRICS[:1] if short else emotion.METRICS:
        values = np.stack([e[metric] for e in each])  # [seeds, C]
        if not np.isfinite(values).any():
            raise DataError("No emotion of the test records can be scored: of each there are all, or none. Label more.")
        mean = np.nanmean(values, 0)
        about = said | {
            "per_emotion": {n: round(float(v), 4) for n, v in zip(names, mean, strict=True) if np.isfinite(v)},
            "left_out": [n for n, v in zip(names, mean, strict=True) if not np.isfinite(v)],
        }

        def one(p: np.ndarray, y: np.ndarray, metric: str = metric) -> float:
            return float(np.nanmean(emotion.emotion_scores(p, y, thresholds[0])[metric]))

        scores.append(_over_seeds(task, label, metric, np.nanmean(values, 1), (told[0], truth), one, about))
    return scores


def _of_numbers(task, label, told, truth, names, said, *, short: bool) -> list[Score]:
    """Of sentiment, the one column there is."""
    if len(names) > 1:
        raise UsageError(f"emotion regresses one column of numbers, and there are {', '.join(names)}.")
    known = np.isfinite(truth[:, 0])
    each = [emotion.sentiment_scores(p[known, 0], truth[known, 0]) for p in told]
    scores = []
    for metric in emotion.OF_SENTIMENT[:1] if short else emotion.OF_SENTIMENT:

        def one(p: np.ndarray, y: np.ndarray, metric: str = metric) -> float:
            there = np.isfinite(y[:, 0])
            return emotion.sentiment_scores(p[there, 0], y[there, 0])[metric]

        scores.append(
            _over_seeds(task, label, metric, np.array([e[metric] for e in each]), (told[0], truth), one, said)
        )
    return scores


def _over_seeds(task, label, metric, values, first, one, said) -> Score:
    """The mean over seeds with Student's interval; of one seed the bootstrap over records or their groups."""
    if len(values) == 1:
        return task.statistic(label, metric, first, one, said, resamples=200)
    low, high = intervals.over_draws(values)
    about = said | {"each_seed": values.round(4).tolist(), "interval_over": "seeds"}
    return Score(label, metric, float(values.mean()), low, high, len(first[0]), task.of, about)
