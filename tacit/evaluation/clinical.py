"""Scores of diagnoses: ranking, thresholds, agreement and calibration, with intervals over patients or exams.

Ties in a score count half, "positive" means at or above the threshold, and everything is a fraction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tacit.errors import DataError, Unknown
from tacit.evaluation.groups import bootstrap_groups


def operating_points(score: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds [K], falling, one a distinct score, and the true and false positives [K] at each.

    Args:
        score: [N], higher means positive; target: [N] of 0 and 1.
    """
    score, target = np.asarray(score, dtype=np.float64), np.asarray(target)
    _check(score, target)
    if not ((target == 0) | (target == 1)).all():
        raise DataError("Targets of a yes-or-no task are 0 and 1; leave unknown records out first.")
    order = np.argsort(-score)
    score = score[order]
    last = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)
    true = np.cumsum(target[order], dtype=np.int64)[last]
    return score[last], true, last + 1 - true


def auroc(score: np.ndarray, target: np.ndarray) -> float:
    """Chance that a positive scores above a negative; NaN when there is only one kind."""
    _, true, false = operating_points(score, target)
    if true[-1] == 0 or false[-1] == 0:
        return float("nan")
    heights = true + np.append(0, true[:-1])
    return float((np.diff(false, prepend=0) * heights).sum() / (2 * true[-1] * false[-1]))


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Sum over thresholds of the step in recall times the precision, without interpolation; NaN without positives."""
    _, true, false = operating_points(score, target)
    if true[-1] == 0:
        return float("nan")
    return float((np.diff(true, prepend=0) * true / (true + false)).sum() / true[-1])


def pairwise_auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[C, C]: at (i, j) the chance that column i of `scores` [N, C] is higher for a record of class i than of class j.

    NaN for classes without records.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    _check(scores, labels)
    classes = scores.shape[1]
    if not np.isin(labels, np.arange(classes)).all():
        raise DataError(f"Labels lie outside 0 to {classes - 1}, the columns of the scores.")
    count = np.bincount(labels, minlength=classes).astype(np.float64)
    wins = np.empty((classes, classes))
    for c in range(classes):
        values, place = np.unique(scores[:, c], return_inverse=True)
        here = np.bincount(place * classes + labels, minlength=len(values) * classes).reshape(-1, classes)
        wins[c] = here[:, c] @ (np.cumsum(here, axis=0) - here / 2)
    with np.errstate(invalid="ignore"):
        return wins / (count[:, None] * count)


def multi_class_auroc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Macro AUROC one-vs-one (Hand & Till 2001, eq. 7) and one-vs-rest of scores [N, C], labels [N].

    Over the classes that have records; NaN when there is one.
    """
    pairs = pairwise_auroc(scores, labels)
    count = np.bincount(labels, minlength=len(pairs))
    present = np.flatnonzero(count)
    if len(present) < 2:
        return float("nan"), float("nan")
    pairs, count = pairs[np.ix_(present, present)], count[present]
    others = ~np.eye(len(present), dtype=bool)
    rest = (np.where(others, pairs, 0) * count).sum(1) / (count.sum() - count)
    return float(pairs[others].mean()), float(rest.mean())


def choose_threshold(score: np.ndarray, target: np.ndarray, by: str = "youden", level: float = 0.95) -> float:
    """A threshold for `score`, from training or validation data; never from the records it is then tested on.

    `by`: "youden" (highest sensitivity + specificity), "f1" (highest F1), "sensitivity" (the highest threshold with
    at least `level` of it) or "specificity" (the lowest threshold with at least `level` of it). Of equal thresholds
    the highest.
    """
    rules = ("youden", "f1", "sensitivity", "specificity")
    if by not in rules:
        raise Unknown("rule for a threshold", by, rules)
    thresholds, true, false = operating_points(score, target)
    if true[-1] == 0 or false[-1] == 0:
        raise DataError("A threshold is chosen between positives and negatives; these records have only one kind.")
    above = np.nextafter(thresholds[0], np.inf)  # where nothing is positive
    thresholds, true, false = np.append(above, thresholds), np.append(0, true), np.append(0, false)
    sensitivity, specificity = true / true[-1], 1 - false / false[-1]
    if by == "sensitivity":
        return float(thresholds[np.argmax(sensitivity >= level)])
    if by == "specificity":
        return float(thresholds[np.flatnonzero(specificity >= level)[-1]])
    gain = sensitivity + specificity if by == "youden" else 2 * true / (true[-1] + true + false)
    return float(thresholds[np.argmax(gain)])


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Counts [C, C]: rows are the true classes, columns the predicted ones."""
    predicted, labels = np.asarray(predicted, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    _check(predicted, labels)
    classes = classes or int(max(predicted.max(), labels.max())) + 1
    if min(predicted.min(), labels.min()) < 0 or max(predicted.max(), labels.max()) >= classes:
        raise DataError(f"Classes lie outside 0 to {classes - 1}; leave unknown records out first.")
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(table: np.ndarray) -> float:
    """Mean recall over the classes that have records; `table` as of `confusion`."""
    has = table.sum(1) > 0
    return float((np.diag(table)[has] / table.sum(1)[has]).mean())


def f1(table: np.ndarray) -> tuple[float, float]:
    """Macro F1, over classes that are true or predicted somewhere, and F1 weighted by the classes' records."""
    both = table.sum(0) + table.sum(1)
    each = 2 * np.diag(table) / np.maximum(both, 1)
    return float(each[both > 0].mean()), float(each @ table.sum(1) / table.sum())


def kappa(table: np.ndarray, *, quadratic: bool = False) -> float:
    """Cohen's kappa, or with disagreements weighted by the squared distance of the grades 0 to C - 1.

    1 at full agreement, 0 at chance; NaN when all is one class.
    """
    grades = np.arange(len(table))
    cost = np.subtract.outer(grades, grades) ** 2 if quadratic else grades[:, None] != grades
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    chance = (cost * expected).sum()
    return float(1 - (cost * table).sum() / chance) if chance else float("nan")


def brier(probability: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error: of [N] for 0/1 targets (0 to 1), of [N, C] summed over the classes (0 to 2; Brier 1950)."""
    probability, target = _probabilities(probability, target)
    if probability.ndim == 1:
        return float(np.square(probability - target).mean())
    return float(np.square(probability - np.eye(probability.shape[1])[target]).sum(1).mean())


def calibration_error(probability: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in equal bins, each closed on its right (Guo et al. 2017, eq. 3).

    [N]: probability of 1 against how often it is 1; [N, C]: highest probability against how often it is right.
    """
    probability, target = _probabilities(probability, target)
    if probability.ndim == 2:
        probability, target = probability.max(1), probability.argmax(1) == target
    place = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), probability) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, target - probability, bins)).sum() / len(target))


def binary_scores(
    probability: np.ndarray, target: np.ndarray, *, groups: Sequence | None = None, threshold: float = 0.5,
    resamples: int = 2000, seed: int = 0,
) -> dict[str, tuple[float, float, float]]:  # fmt: skip
    """(value, low, high) of every score of a yes-or-no task, 95 % intervals over `groups` (records when None).

    probability: [N] in 0 to 1; target: [N] of 0 and 1; threshold: chosen before, elsewhere (`choose_threshold`).
    Raises `DataError` when there is one kind of record, or too few groups of one.
    """
    probability, target = _probabilities(probability, target)

    def every(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
        table = confusion(p >= threshold, y, 2)
        (tn, fp), (fn, tp) = table
        with np.errstate(invalid="ignore"):
            sensitivity, specificity = np.float64(tp) / (tp + fn), np.float64(tn) / (tn + fp)
        return {
            "auroc": auroc(p, y), "average_precision": average_precision(p, y), "sensitivity": sensitivity,
            "specificity": specificity, "accuracy": (tp + tn) / len(y),
            "balanced_accuracy": (sensitivity + specificity) / 2, "f1": 2 * tp / max(2 * tp + fp + fn, 1),
            "weighted_f1": f1(table)[1], "kappa": kappa(table), "brier": brier(p, y), "ece": calibration_error(p, y),
        }  # fmt: skip

    return _intervals(every, probability, target, groups, resamples, seed)


def multi_class_scores(
    probability: np.ndarray, labels: np.ndarray, *, groups: Sequence | None = None, resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:  # fmt: skip
    """(value, low, high) of every score of probabilities [N, C] for labels [N], 95 % intervals over `groups`.

    The class of highest probability is the prediction. "quadratic_kappa" means something for ordered grades only.
    Repeated records look less calibrated, so the interval of "ece" lies high and may miss its value.
    """
    probability, labels = _probabilities(probability, labels)

    def every(p: np.ndarray, y: np.ndarray) -> dict[str, float]:
        table = confusion(p.argmax(1), y, p.shape[1])
        (pairs, rest), (macro, weighted) = multi_class_auroc(p, y), f1(table)
        return {
            "top1": np.trace(table) / len(y), "balanced_accuracy": balanced_accuracy(table), "macro_f1": macro,
            "weighted_f1": weighted, "kappa": kappa(table), "quadratic_kappa": kappa(table, quadratic=True),
            "auroc_one_vs_one": pairs, "auroc_one_vs_rest": rest, "brier": brier(p, y), "ece": calibration_error(p, y),
        }  # fmt: skip

    return _intervals(every, probability, labels, groups, resamples, seed)


def _intervals(every, probability, target, groups, resamples, seed) -> dict[str, tuple[float, float, float]]:
    found = bootstrap_groups(
        (probability, target), groups, lambda *part: list(every(*part).values()), resamples=resamples, seed=seed
    )
    return {
        name: tuple(float(v) for v in triple) for name, *triple in zip(every(probability, target), *found, strict=True)
    }


def _check(scores: np.ndarray, target: np.ndarray) -> None:
    if len(scores) != len(target) or target.ndim != 1:
        raise DataError(f"Scores {list(scores.shape)} and targets {list(target.shape)} do not match: one target a row.")
    if len(target) == 0:
        raise DataError("There are no records to score.")
    if not np.isfinite(scores).all():
        raise DataError(f"The score of record {int(np.argwhere(~np.isfinite(scores))[0][0])} is not a number.")


def _probabilities(probability: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probability, target = np.asarray(probability, dtype=np.float64), np.asarray(target, dtype=np.int64)
    _check(probability, target)
    if probability.min() < 0 or probability.max() > 1:
        raise DataError("Probabilities lie between 0 and 1; put scores through a sigmoid or softmax first.")
    classes = 2 if probability.ndim == 1 else probability.shape[1]
    if target.min() < 0 or target.max() >= classes:
        raise DataError(f"Targets lie outside 0 to {classes - 1}; leave unknown records out first.")
    return probability, target
