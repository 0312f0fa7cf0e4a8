"""Protocols that learn from few labels: how many are drawn, how often, and what is fitted to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from tacit.errors import DataError
from tacit.evaluation import low_shot
from tacit.evaluation.options import one_of
from tacit.evaluation.task import Score, Task

CLASSIFIERS = {"logistic": low_shot.logistic_few, "prototypes": low_shot.prototypes, "msn": low_shot.msn}
KNOWN = {"classifier": CLASSIFIERS}


class Amount(NamedTuple):
    """How labels are counted: the option, the word in the names of stored lists, and what draws rows of them."""

    option: str
    word: str
    draw: Callable[..., list[np.ndarray]]  # (labels, amount, draws, *, classes, seed)


def _share(labels: np.ndarray, percent: float, draws: int, *, classes: int, seed: int) -> list[np.ndarray]:
    return low_shot.draw_share(labels, percent / 100, draws, classes=classes, seed=seed)


SHOTS = Amount("shots", "shot", low_shot.draw_shots)
PERCENT = Amount("share", "percent", _share)
BUDGET = Amount("labels", "labels", low_shot.draw_budget)


def run_few_shot(
    task: Task, *, shots: tuple[int, ...] = (5,), draws: int = 10, classifier: str = "logistic",
    feature: str = "pooled", store: str = "",
) -> list[Score]:  # fmt: skip
    """`shots` training records of every class, drawn anew `draws` times; logistic, prototypes or msn.

    `store`: a folder of lists of names, 5-shot-0.txt and on. Those that are there are used, the others are written.
    """
    return _drawn(task, "few_shot", SHOTS, shots, draws, classifier, feature, store)


def run_percent(
    task: Task, *, share: tuple[float, ...] = (1.0, 10.0), draws: int = 3, classifier: str = "logistic",
    feature: str = "pooled", store: str = "",
) -> list[Score]:  # fmt: skip
    """This per cent of every class's training records, at least one, drawn anew `draws` times.

    `store`: a folder of lists of names, 10-percent-0.txt and on. Those that are there are used, the others are written.
    """
    return _drawn(task, "percent", PERCENT, share, draws, classifier, feature, store)


def run_subset(task: Task, *, file: str = "", classifier: str = "logistic", feature: str = "pooled") -> list[Score]:
    """The training records that a text file names, one a line by name or by file name, as the papers' 1 % and 10 %."""
    one_of("classifier", classifier, CLASSIFIERS)
    rows = low_shot.rows_named(file, _names(task))
    missing = np.setdiff1d(np.arange(task.classes), task.train.y[rows])
    if len(missing):
        raise DataError(f"{file} names no record of {len(missing)} of {task.classes} classes.")
    said = {"file": os.path.basename(file), "labels": len(rows), "classifier": classifier, "feature": feature}
    return [task.accuracy("subset", _predicted(task, rows, classifier, feature), said)]


def run_budget(
    task: Task, *, labels: tuple[int, ...] = (), draws: int = 5, classifier: str = "logistic", feature: str = "pooled"
) -> list[Score]:
    """A curve over numbers of labels, nested and in the classes' proportions; by default doubling from one a class."""
    budgets = labels or tuple(int(n) for n in task.classes * 2 ** np.arange(20) if n <= len(task.train.y))
    return _drawn(task, "budget", BUDGET, budgets, draws, classifier, feature)


def _drawn(
    task: Task, protocol: str, amount: Amount, amounts: tuple[float, ...], draws: int, classifier: str, feature: str,
    store: str = "",
) -> list[Score]:  # fmt: skip
    """One score an amount of labels: the mean over draws of them."""
    one_of("classifier", classifier, CLASSIFIERS)
    y = task.train.y.numpy()
    scores = []
    for many in amounts:
        found = amount.draw(y, many, draws, classes=task.classes, seed=task.seed)
        spelt = f"{many:g}" if isinstance(many, float) else str(many)
        said = {amount.option: many, "draws": draws, "classifier": classifier, "feature": feature}
        if store:
            found = low_shot.kept_draws(os.path.join(store, f"{spelt}-{amount.word}"), found, _names(task), y)
            said["store"] = os.path.basename(os.path.normpath(store))
        predicted = [_predicted(task, rows, classifier, feature) for rows in found]
        alone = len(amounts) == 1 and protocol != "budget"
        name = protocol if alone else f"{protocol}:{amount.option}={spelt}"
        scores.append(task.accuracy_over_draws(name, predicted, said))
    return scores


def _predicted(task: Task, rows: np.ndarray, classifier: str, feature: str) -> torch.Tensor:
    """Classes [M] of the test records, from these training records [n] alone."""
    train, test = task.x(feature)
    chosen = torch.from_numpy(rows)
    found = CLASSIFIERS[classifier](train[chosen], task.train.y[chosen], test, classes=task.classes)
    return found[0] if isinstance(found, tuple) else found


def _names(task: Task) -> list[str]:
    """Of the training records that could be read."""
    return [task.train.origin.name(int(i)) for i in task.train.found.index]
