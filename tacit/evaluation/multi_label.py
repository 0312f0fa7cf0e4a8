"""Records with several labels at once: scores per class and their means, and a linear probe for multi-hot targets.

Targets are 1 (there), 0 (not there) and -1 (unknown: not fitted, not scored).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtri
from torch import Tensor

from tacit.errors import DataError, Unknown
from tacit.evaluation.clinical import auroc, average_precision, operating_points
from tacit.evaluation.groups import bootstrap_groups
from tacit.evaluation.linear import STRENGTHS

RESAMPLES = 200


@dataclass(frozen=True)
class PerClass:
    """values: [C], NaN for the classes `left_out`, where the score is undefined; mean: over the others."""

    values: np.ndarray
    mean: float
    left_out: list[str]


def voc2007_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Mean over recalls 0, .1, ..., 1 of the best precision at that recall or above (Everingham et al. 2010, 4.2)."""
    _, true, false = operating_points(score, target)
    if true[-1] == 0:
        return float("nan")
    best = np.maximum.accumulate((true / (true + false))[::-1])[::-1]
    reached = np.searchsorted(10 * true, np.arange(11) * true[-1])  # whole numbers: .3 is reached by 3 of 10
    return float(best[reached].mean())


def d_prime(score: np.ndarray, target: np.ndarray) -> float:
    """√2 times the normal quantile of the AUROC (AudioSet's d'), which counts as half a pair away from 0 and 1 at the
    least: d' would be infinite there, and so would be the mean over classes."""
    there = int((target == 1).sum())
    pairs = there * (len(target) - there)
    if not pairs:
        return float("nan")
    return float(2**0.5 * ndtri(np.clip(auroc(score, target), 0.5 / pairs, 1 - 0.5 / pairs)))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "average_precision": average_precision,
    "voc2007": voc2007_precision,
    "auroc": auroc,
    "d_prime": d_prime,
}
AUDIOSET = ("average_precision", "auroc", "d_prime")  # what audio tagging is told by


def named(metric: str) -> str:
    """The name of its mean over the classes."""
    return "map" if metric == "average_precision" else metric


def per_class(
    scores: np.ndarray, targets: np.ndarray, metric: str = "average_precision", names: Sequence[str] | None = None
) -> PerClass:
    """A metric for each class, over the records whose label is known, and its mean: mAP for "average_precision".

    Args:
        scores: [N, C], higher means there; targets: [N, C] of 1, 0 and -1; names: of the classes, else their numbers.
        metric: one of `METRICS`. Classes without positives (or, for "auroc" and "d_prime", negatives) are left out.

    Raises:
        DataError: shapes that do not match, scores that are no numbers, no class that can be scored.
    """
    if metric not in METRICS:
        raise Unknown("multi-label metric", metric, METRICS)
    scores, targets = _check(scores, targets)
    values = np.full(targets.shape[1], np.nan)
    for c, known in enumerate((targets >= 0).T):
        if known.any():
            values[c] = METRICS[metric](scores[known, c], targets[known, c])
    return _summary(values, names)


def means(
    scores: np.ndarray, targets: np.ndarray, groups: np.ndarray | None, names: Sequence[str], *, seed: int = 0
) -> list[dict[str, Any]]:
    """mAP, AUROC and d' as means over the classes: `{"metric", "value", "low", "high", "n", "interval_over",
    "per_class": {name: value}}` each, the last without classes that cannot be scored.

    Intervals of 95 % are by the bootstrap over `groups` [N], where there are two or more, else over records. A metric
    that no class allows is left out.
    """
    several = groups is not None and len(np.unique(groups)) > 1
    found = []
    for metric in AUDIOSET:
        try:
            values = per_class(scores, targets, metric, names).values
            whole = bootstrap_groups(
                (scores, targets), groups if several else None, lambda s, t, m=metric: per_class(s, t, m).mean,
                resamples=RESAMPLES, seed=seed,
            )  # fmt: skip
        except DataError:
            continue
        row = dict(zip(("value", "low", "high"), map(float, whole), strict=True))
        each = {name: round(float(v), 4) for name, v in zip(names, values, strict=True) if np.isfinite(v)}
        over = "groups" if several else "records"
        found.append({"metric": named(metric), **row, "n": len(scores), "interval_over": over, "per_class": each})
    return found


def f1(
    probabilities: np.ndarray, targets: np.ndarray, threshold: float = 0.5, names: Sequence[str] | None = None
) -> tuple[float, PerClass]:
    """Micro F1 over all known labels, and F1 per class with its (macro) mean, a label there at `threshold` or above.

    Classes without positives count in the micro F1 and are left out of the macro one, as of mAP.
    """
    probabilities, targets = _check(probabilities, targets)
    said = probabilities >= threshold
    true = (said & (targets == 1)).sum(0)
    wrong = (said & (targets == 0)).sum(0) + (~said & (targets == 1)).sum(0)
    each = np.where((targets == 1).any(0), 2 * true / np.maximum(2 * true + wrong, 1), np.nan)
    return float(2 * true.sum() / max(2 * true.sum() + wrong.sum(), 1)), _summary(each, names)


def _summary(values: np.ndarray, names: Sequence[str] | None) -> PerClass:
    names = [str(c) for c in range(len(values))] if names is None else list(names)
    if len(names) != len(values):
        raise DataError(f"There are {len(values)} classes but {len(names)} names.")
    if np.isnan(values).all():
        raise DataError("No class can be scored: none has the positives (and negatives) it takes among known labels.")
    left_out = [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
    return PerClass(values, float(np.nanmean(values)), left_out)


def _check(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.shape != targets.shape or scores.ndim != 2 or 0 in scores.shape:
        raise DataError(
            f"Scores {list(scores.shape)} and targets {list(targets.shape)} must both be [records, classes]."
        )
    if not np.isin(targets, (-1, 0, 1)).all():
        raise DataError("Multi-label targets are 1 (there), 0 (not there) and -1 (unknown); others were found.")
    if not np.isfinite(scores).all():
        raise DataError(f"The scores of record {int(np.argwhere(~np.isfinite(scores))[0][0])} are not all numbers.")
    return scores, targets


def fit_one_vs_rest(
    x: Tensor, y: Tensor, strength: float, start: Tensor | None = None, iterations: int = 200
) -> Tensor:
    """A logistic regression a class, all in one matrix, by L-BFGS.

    The sum over classes of mean binary cross-entropy over the class's known labels + strength / 2 * |w|², the bias
    unpenalised: classes do not influence one another's optimum.

    x: [N, D] with a last column of ones; y: [N, C] of 1, 0 and -1. Returns the weights [D, C].
    """
    w = (torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype) if start is None else start.clone()).requires_grad_()
    share = (y >= 0) / (y >= 0).sum(0).clamp_min(1)
    target = (y == 1).to(x.dtype)
    solver = torch.optim.LBFGS(
        [w], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-6,
        tolerance_change=1e-9,
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ w, target, weight=share, reduction="sum")
        value = value + strength / 2 * w[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return w.detach()


def multi_label_probe(
    train: Tensor, targets: Tensor, test: Tensor, *, parts: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0,
    strength: float | None = None,
) -> tuple[Tensor, float]:  # fmt: skip
    """Probabilities [M, C] for `test` [M, D] and the strength chosen for them.

    As in `linear.logistic`: features standardised by the training set, the strength with the highest mAP on a held-out
    fifth of it (`hold_out`, or `parts` of it, as `groups.grouped_split` gives them), then a fit on all of it. With
    `strength` nothing is held out.

    Raises:
        DataError: shapes that do not match, features that are no numbers, no class with positives in both parts.
    """
    _check(np.zeros(targets.shape), targets.numpy())
    if len(train) != len(targets) or train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"Features {list(train.shape)}, targets {list(targets.shape)} and test features {list(test.shape)} "
            "do not match: one target row a training record, and features of one width."
        )
    for which, f in (("training", train), ("test", test)):
        if not torch.isfinite(f).all():
            raise DataError(f"Some {which} features are not numbers; find the record that the encoder breaks on.")
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = (torch.cat([(f - mean) / std, torch.ones(len(f), 1)], dim=1) for f in (train, test))
    if strength is None:
        keep, held = hold_out(targets.numpy(), 0.2, seed) if parts is None else parts
        scores, start = [], None
        for tried in reversed(STRENGTHS):
            start = fit_one_vs_rest(x[keep], targets[keep], tried, start, iterations=60)
            score = per_class((x[held] @ start).numpy(), targets[held].numpy()).mean
            scores.append((score, tried))  # ties go to the stronger, which comes first
        strength = max(scores, key=lambda s: s[0])[1]
    return torch.sigmoid(x_test @ fit_one_vs_rest(x, targets, strength)), strength


def hold_out(targets: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the records, the second with about `share` of each class's positives, the rarest class first.

    A class with two positives or more has one on each side, unless a rarer class's records stand against it.
    """
    rng = np.random.default_rng(seed)
    positive = np.asarray(targets) == 1
    side = np.full(len(positive), -1)  # -1 undecided, 0 kept, 1 held out
    rest = ~positive.any(1)
    for rows in [positive[:, c] for c in np.argsort(positive.sum(0), kind="stable")] + [rest]:
        count = int(rows.sum())
        want = min(max(round(count * share), 1), count - 1) - int((side[rows] == 1).sum())
        free = rng.permutation(np.flatnonzero(rows & (side < 0)))
        side[free] = 0
        side[free[: max(want, 0)]] = 1
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1)
