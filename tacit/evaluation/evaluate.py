"""Encoders against protocols: features in, scores with intervals out, beside the baselines they must beat."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit import encoders
from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError, Unknown
from tacit.evaluation import intervals
from tacit.evaluation.features import Features, features, raw
from tacit.evaluation.few_shot import few_shot
from tacit.evaluation.knn import knn_predict
from tacit.evaluation.linear import linear_sgd, logistic, stratified
from tacit.run import write_json


@dataclass(frozen=True)
class Score:
    """One number with its 95 % interval. `of` is "run", "random-init" or "raw-input"; values are fractions."""

    protocol: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    of: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a protocol gets: features of both parts, and what may be needed beyond them."""

    train: Features
    test: Features
    classes: int
    seed: int
    of: str
    encoder: Encoder | None  # None for raw inputs
    source: Source
    workers: int
    device: torch.device
    progress: Callable[[str, int, int], None] | None


def _score_records(task: Task, name: str, predicted: torch.Tensor, settings: dict[str, Any]) -> Score:
    right = (predicted == task.test.y).numpy().astype(np.float64)
    low, high = intervals.bootstrap(right, seed=task.seed)
    return Score(name, "top1", float(right.mean()), low, high, len(right), task.of, settings)


def _knn(task: Task) -> list[Score]:
    settings = {"k": 20, "temperature": 0.07}
    predicted = knn_predict(task.train.x, task.train.y, task.test.x, classes=task.classes, **settings)
    return [_score_records(task, "knn", predicted, settings)]


def _linear(task: Task) -> list[Score]:
    predicted, strength = logistic(task.train.x, task.train.y, task.test.x, classes=task.classes, seed=task.seed)
    return [_score_records(task, "linear", predicted, {"solver": "l-bfgs", "l2": strength})]


def _linear_sgd(task: Task) -> list[Score]:
    if task.encoder is None:
        return []
    settings = {"epochs": 100, "batch_size": min(512, len(task.source))}
    tell = task.progress and (lambda done, total: task.progress(f"linear_sgd, {task.of}", done, total))
    predicted = linear_sgd(
        task.encoder, task.source, task.test.x, classes=task.classes, seed=task.seed, workers=task.workers,
        device=task.device, progress=tell, **settings,
    )  # fmt: skip
    return [_score_records(task, "linear_sgd", predicted, {**settings, "encoder_mode": "eval"})]


def _few_shot(task: Task) -> list[Score]:
    settings = {"shots": 5, "draws": 10}
    values = few_shot(
        task.train.x, task.train.y, task.test.x, task.test.y, classes=task.classes, seed=task.seed, **settings
    )
    low, high = intervals.over_draws(values)
    return [Score("few_shot", "top1", float(values.mean()), low, high, len(task.test.x), task.of, settings)]


PROTOCOLS: dict[str, Callable[[Task], list[Score]]] = {
    "knn": _knn,
    "linear": _linear,
    "linear_sgd": _linear_sgd,
    "few_shot": _few_shot,
}


def check_protocols(names: Sequence[str]) -> None:
    for name in names:
        if name not in PROTOCOLS:
            raise Unknown("protocol", name, PROTOCOLS)


def evaluate(
    encoder: Encoder,
    train: Source,
    test: Source | None,
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    seed: int = 0,
    baselines: bool = True,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of `encoder`, and of its own architecture at random initialisation and the raw input beside it.

    Without `test`, a fifth of every class of `train` is held out (by `seed`). The encoder is in eval mode throughout.

    Returns:
        `{"split": str, "results": [score, …], "bad_files": [(name, reason), …]}`; a score as in `Score`.

    Raises:
        Unknown: a protocol that does not exist. DataError: labels missing, one class, an unreadable set.
    """
    check_protocols(protocols)
    for part, which in ((train, "training"), (test, "test")):
        if part is not None and part.labels is None:
            raise DataError(
                f"The {which} data has no labels, and {', '.join(protocols)} need them. Labels are class folders "
                "(data/cat/1.jpg), a label column, a zip's map file, or .cls files in a tar."
            )
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"The training data has one class ({train.classes[0]}); there is nothing to tell apart.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = None if test is not None else stratified(train.labels, 0.2, seed)
    subjects: list[tuple[str, Encoder | None]] = [("run", encoder)]
    if baselines:
        subjects += [("random-init", random_twin(encoder, seed)), ("raw-input", None)]
    results, bad = [], []
    for of, subject in subjects:
        tell = progress and (lambda done, total, of=of: progress(f"features, {of}", done, total))
        both = [_features(part, subject, encoder, workers, device, tell) for part in (train, test) if part is not None]
        bad = bad or [item for part in both for item in part.bad]
        first, second = both if rows is None else (_pick(both[0], rows[0]), _pick(both[0], rows[1]))
        source = train if rows is None else train.select(rows[0])
        task = Task(first, second, len(train.classes), seed, of, subject, source, workers, device, progress)
        for name in protocols:
            results += [asdict(score) for score in PROTOCOLS[name](task)]
    split = "test set" if rows is None else f"a fifth of each class held out by seed {seed}"
    order = {name: i for i, name in enumerate(protocols)}
    return {"split": split, "results": sorted(results, key=lambda r: order[r["protocol"]]), "bad_files": bad}


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same architecture and input preparation with fresh weights, drawn by `seed`."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    twin = encoders.like(encoder)
    torch.set_rng_state(state)
    return twin.eval()


def _features(source, subject, encoder, workers, device, tell) -> Features:
    if subject is None:
        return raw(source, encoder.inputs, workers=workers, progress=tell)
    return features(subject, source, workers=workers, device=device, progress=tell)


def _pick(all_of: Features, rows: np.ndarray) -> Features:
    kept = torch.from_numpy(np.isin(all_of.index.numpy(), rows))
    return Features(all_of.x[kept], all_of.y[kept], all_of.index[kept], all_of.bad)


def difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of a - b with its 95 % interval: by the bootstrap over paired records, or over a few paired seeds."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = intervals.bootstrap(d, seed=seed) if len(d) >= 30 else intervals.over_draws(d)
    return float(d.mean()), low, high


def store(run: str | os.PathLike, result: dict[str, Any]) -> Path:
    """Keep a result in the run folder, under its date."""
    protocols = "-".join(dict.fromkeys(r["protocol"] for r in result["results"]))
    path = Path(run) / "evaluations" / f"{datetime.now():%Y%m%dT%H%M%S.%f}-{protocols}.json"
    write_json(path, result)
    return path


def table(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows (protocol, of, value, interval) for people, in per cent."""
    return [
        (r["protocol"], r["of"], f"{100 * r['value']:.1f} %", f"{100 * r['low']:.1f} to {100 * r['high']:.1f}")
        for r in result["results"]
    ]
