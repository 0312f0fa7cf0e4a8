"""Few labels: draw them, fit a classifier on frozen features, score on the whole test set, and do it again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import DataError
from tacit.evaluation.linear import fit_logistic
from tacit.run import write_text

STRENGTHS = tuple(10.0**e for e in (0, -1, -2, -3, -4))  # from strong to weak
ALONE = 1e-2  # with one label a class there is nothing to sweep on


def draw_shots(labels: np.ndarray, shots: int, draws: int, *, classes: int, seed: int = 0) -> list[np.ndarray]:
    """`draws` times the rows of `shots` records of every class. Under one seed fewer shots are a part of more.

    Raises:
        DataError: a class has too few records.
    """
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < shots:
        fewest = f"class {int(counts.argmin())} has {counts.min()}"
        raise DataError(f"{shots}-shot needs {shots} training records of every class; {fewest}.")
    return [np.concatenate([order[:shots] for order in _orders(labels, classes, seed, d)]) for d in range(draws)]


def draw_positives(
    present: np.ndarray, shots: int, draws: int, *, seed: int = 0, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """`draws` times the rows of records that hold several classes: of every class `shots` that it is in, all together.

    A class may come with more, where records of another hold it too. Classes in none are left out. Under one seed fewer
    shots are a part of more. Rows are sorted.

    Args:
        present: [N, C], 1 where the class is in the record; anything else is not counted. names: of the classes.

    Raises:
        DataError: a class is in some records, but too few; or all are in none.
    """
    counts = (present == 1).sum(0)
    if not counts.any():
        raise DataError("No class is in any training record.")
    fewest = int(np.where(counts > 0, counts, counts.max()).argmin())
    if counts[fewest] < shots:
        name = fewest if names is None else names[fewest]
        raise DataError(f"{shots}-shot needs {shots} training records with every class; {name} is in {counts[fewest]}.")
    found = []
    for d in range(draws):
        rng = np.random.default_rng([seed, d])
        orders = [rng.permutation(np.flatnonzero(column == 1))[:shots] for column in present.T]
        found.append(np.unique(np.concatenate(orders)))
    return found


def draw_share(labels: np.ndarray, share: float, draws: int, *, classes: int, seed: int = 0) -> list[np.ndarray]:
    """`draws` times this share of every class's records, at least one of each; smaller shares are parts of larger."""

    def take(order: np.ndarray) -> np.ndarray:
        return order[: max(round(len(order) * share), 1)] if len(order) else order

    return [np.concatenate([take(order) for order in _orders(labels, classes, seed, d)]) for d in range(draws)]


def draw_budget(labels: np.ndarray, budget: int, draws: int, *, classes: int, seed: int = 0) -> list[np.ndarray]:
    """`draws` times `budget` records in the classes' proportions; smaller budgets are parts of larger ones.

    Records are ordered so that every beginning holds each class in its share, as far as whole records can.
    """
    if not classes <= budget <= len(labels):
        raise DataError(f"A budget of {budget:,} labels: must be from {classes} (a label a class) to {len(labels):,}.")
    found = []
    for d in range(draws):
        orders = _orders(labels, classes, seed, d)
        ranks = np.concatenate([(np.arange(len(order)) + 0.5) / len(order) for order in orders])
        ranks[np.cumsum([0, *map(len, orders[:-1])])] = -1.0  # one of every class before all others
        found.append(np.concatenate(orders)[np.argsort(ranks, kind="stable")[:budget]])
    return found


def rows_named(file: str, names: Sequence[str]) -> np.ndarray:
    """Rows of the records that a text file names, one a line, by their whole name or by that of the file. Sorted.

    Raises:
        DataError: no such file, a name that no record has, or a file name that several have.
    """
    try:
        with open(file, encoding="utf-8") as f:
            wanted = [line.strip() for line in f if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}). Give a text file of names, one a line.") from error
    short = [name.replace(os.sep, "/").rpartition("/")[2] for name in names]
    row = {name: i for i, name in enumerate(short)} | {name: i for i, name in enumerate(names)}
    if unknown := [name for name in wanted if name not in row]:
        raise DataError(
            f"{file} names {len(unknown):,} files that are no training records, the first is {unknown[0]!r}."
        )
    whole, alike = set(names), Counter(short)
    if twice := [name for name in wanted if name not in whole and alike[name] > 1]:
        raise DataError(f"{file} names {twice[0]!r}, and {alike[twice[0]]} records are called so. Write whole names.")
    if not wanted:
        raise DataError(f"{file} names no file.")
    return np.unique([row[name] for name in wanted])


def kept_draws(prefix: str, draws: list[np.ndarray], names: Sequence[str], labels: np.ndarray) -> list[np.ndarray]:
    """The draws that the files PREFIX-0.txt, PREFIX-1.txt, … name, and those of `draws` where there is no file yet.

    Files that are missing are written, one name a line, so that the next call, here or elsewhere, uses the same
    records. Rows come back sorted, whether they were drawn or read.

    Raises:
        DataError: a file with names that no record has, or with another number of records of a class than was drawn.
    """
    found = []
    for number, drawn in enumerate(draws):
        file = f"{prefix}-{number}.txt"
        if not os.path.exists(file):
            write_text(file, "".join(f"{names[i]}\n" for i in np.sort(drawn)))
        rows = rows_named(file, names)
        wanted, there = (np.bincount(labels[r], minlength=labels.max() + 1) for r in (drawn, rows))
        if (other := np.flatnonzero(wanted != there)).size:
            raise DataError(
                f"{file} names {there[other[0]]} records of class {other[0]}, where {wanted[other[0]]} are asked for. "
                "Take another folder, or remove the file to draw anew."
            )
        found.append(rows)
    return found


def _orders(labels: np.ndarray, classes: int, seed: int, draw: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, draw])
    return [rng.permutation(np.flatnonzero(labels == c)) for c in range(classes)]


def logistic_few(train: Tensor, labels: Tensor, test: Tensor, *, classes: int, seed: int = 0) -> tuple[Tensor, float]:
    """Predictions [M] of a logistic regression whose strength is swept by cross-validation on its labels alone.

    The labelled features are standardised by themselves; as many folds as the rarest class has labels, five at most;
    with one label a class the strength is 0.01. Returns the predictions and the strength.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to load, which no training should wait for
    from sklearn.model_selection import StratifiedKFold

    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = ((f - mean) / std for f in (train, test))
    if x.shape[1] > len(x):  # the optimum lies in the span of the rows: the same problem in fewer dimensions
        basis = torch.linalg.qr(x.T).Q
        x, x_test = x @ basis, x_test @ basis
    x, x_test, y = x.numpy(), x_test.numpy(), labels.numpy()
    folds = min(int(np.bincount(y, minlength=classes).min()), 5)
    best = ALONE
    if folds >= 2:
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y))
        right = sum(_sweep(x[a], y[a], x[b], y[b]) for a, b in splits)
        best = STRENGTHS[int(np.argmax(right))]  # ties go to the stronger, which comes first
    model = LogisticRegression(C=1 / (best * len(x)), max_iter=1000)
    return torch.from_numpy(model.fit(x, y).predict(x_test)), best


def _sweep(x: np.ndarray, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray) -> np.ndarray:
    """Accuracy on the held-out rows at each of `STRENGTHS`, every fit begun where the stronger one ended."""
    from sklearn.linear_model import LogisticRegression

    model, right = LogisticRegression(max_iter=1000, warm_start=True), []
    for strength in STRENGTHS:
        right.append(model.set_params(C=1 / (strength * len(x))).fit(x, y).score(x_held, y_held))
    return np.array(right)


def prototypes(train: Tensor, labels: Tensor, test: Tensor, *, classes: int) -> Tensor:
    """SimpleShot (Wang et al. 2019): the nearest class mean after centring by the labelled mean and L2 norm.

    The class means are not normalised again. Returns [M] int64.
    """
    centre = train.mean(0)
    x, x_test = F.normalize(train - centre, dim=1), F.normalize(test - centre, dim=1)
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x)
    means = sums / torch.bincount(labels, minlength=classes)[:, None]
    return torch.cdist(x_test, means).argmin(1)


def msn(train: Tensor, labels: Tensor, test: Tensor, *, classes: int, strength: float = 0.0025) -> Tensor:
    """The low-shot probe of MSN: each vector centred over its own coordinates, L2-normalised, no intercept.

    Multinomial logistic regression with an L2 penalty of strength / n, at most 300 iterations.
    """
    x, x_test = (F.normalize(f - f.mean(1, keepdim=True), dim=1) for f in (train, test))
    zeros = torch.zeros(len(x), 1)  # in place of the intercept's ones
    w = fit_logistic(torch.cat([x, zeros], dim=1), labels, classes, strength / len(x), iterations=300)
    return (x_test @ w[:-1]).argmax(1)


def labels_needed(budgets: Sequence[int], scores: Sequence[float], target: float) -> float:
    """The smallest number of labels whose score reaches `target`, on a line through log budgets; inf if none does.

    A target that the first budget reaches gives that budget: what is below was not measured.
    """
    budgets, scores = np.asarray(budgets, dtype=float), np.asarray(scores, dtype=float)
    if len(budgets) != len(scores) or (np.diff(budgets) <= 0).any():
        raise DataError("A label-budget curve needs one score for every budget, and budgets that rise.")
    reached = np.flatnonzero(scores >= target)
    if not len(reached):
        return float("inf")
    i = int(reached[0])
    if i == 0:
        return float(budgets[0])
    share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
    return float(np.exp(np.log(budgets[i - 1]) + share * np.log(budgets[i] / budgets[i - 1])))


def saving(budgets: Sequence[int], before: Sequence[float], after: Sequence[float], target: float) -> float:
    """How many times fewer labels `after` needs than `before` to reach `target`; NaN where neither does."""
    first, second = labels_needed(budgets, before, target), labels_needed(budgets, after, target)
    return float("nan") if np.isinf(first) and np.isinf(second) else first / second
