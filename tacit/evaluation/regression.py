"""Numbers as targets: a ridge probe, and the errors that regressions and photometric redshifts are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tacit.errors import DataError, Unknown
from tacit.evaluation.linear import stratified

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-12, 7))  # of the L2 penalty, per record
NORMAL = 1.4826  # makes the median absolute deviation of a normal distribution its standard deviation


@dataclass(frozen=True)
class Ridge:
    """predicted: [M, T]; strength: [T] chosen; left_out: [T] training records without (NaN) that target."""

    predicted: np.ndarray
    strength: np.ndarray
    left_out: np.ndarray


def ridge(
    train: np.ndarray, targets: np.ndarray, test: np.ndarray, *, select: str = "gcv",
    strengths: Sequence[float] = STRENGTHS, parts: tuple[np.ndarray, np.ndarray] | None = None, seed: int = 0,
) -> Ridge:  # fmt: skip
    """Ridge regression by SVD: minimises mean squared error + strength * |w|², the intercept unpenalised.

    Args:
        train: [N, D], standardised by itself as `test` [M, D] is; targets: [N, T] or [N], NaN where unknown.
        select: how each target's strength is chosen on the training set alone: "gcv", generalised cross-validation
            (Golub, Heath & Wahba 1979, eq. 1.4), or "held-out", the squared error on a fifth of it.
        parts: row numbers (first, second), as `groups.grouped_split` gives them: "held-out" fits on the first and
            chooses on the second. The chosen strength is fitted on all of the training set.

    Raises:
        DataError: shapes that do not match, features that are no numbers, a target with fewer than 5 known values.
    """
    if select not in ("gcv", "held-out"):
        raise Unknown("way to choose a strength", select, ("gcv", "held-out"))
    train, test = (np.asarray(f, dtype=np.float64) for f in (train, test))
    targets = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
    if train.ndim != 2 or len(train) != len(targets) or train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"Features {list(train.shape)}, targets {list(targets.shape)} and test features {list(test.shape)} "
            "do not match: one target row a training record, and features of one width."
        )
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise DataError("Some features are not numbers; find the record that the encoder breaks on.")
    if np.isinf(targets).any():
        raise DataError("Some targets are infinite; a target that is unknown is NaN.")
    known = ~np.isnan(targets)
    if known.sum(0).min() < 5:
        raise DataError(f"Target {int(known.sum(0).argmin())} is known for fewer than 5 training records.")
    mean, std = train.mean(0), np.maximum(train.std(0), 1e-6)
    x, x_test = (train - mean) / std, (test - mean) / std
    if parts is None:
        parts = stratified(np.zeros(len(x), dtype=np.int64), 0.2, seed)
    kept, held = (np.isin(np.arange(len(x)), part) for part in parts)
    predicted, chosen = np.empty((len(test), targets.shape[1])), np.empty(targets.shape[1])
    for pattern in np.unique(known, axis=1).T:  # targets known for the same records share their SVD
        columns = np.flatnonzero((known == pattern[:, None]).all(0))
        y = targets[np.ix_(pattern, columns)]
        solve = _Solver(x[pattern], y)
        if select == "gcv":
            loss = np.stack([solve.gcv(s) for s in strengths])
        else:
            if not (pattern & held).any() or (pattern & kept).sum() < 2:
                raise DataError(f"Target {columns[0]} is known in one of the two parts of the training set only.")
            part, goal = _Solver(x[pattern & kept], targets[np.ix_(pattern & kept, columns)]), pattern & held
            truth = targets[np.ix_(goal, columns)]
            loss = np.stack([np.square(part.predict(x[goal], [s] * len(columns)) - truth).mean(0) for s in strengths])
        backwards = np.array(strengths)[np.argsort(strengths)[::-1]]  # of equals the strongest
        chosen[columns] = backwards[loss[np.argsort(strengths)[::-1]].argmin(0)]
        predicted[:, columns] = solve.predict(x_test, chosen[columns])
    return Ridge(predicted, chosen, (~known).sum(0))


class _Solver:
    """One SVD of centred features, from which the solution for any strength is a few products."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.n, self.mean, self.level = len(x), x.mean(0), y.mean(0)
        u, self.s, self.vt = np.linalg.svd(x - self.mean, full_matrices=False)
        self.uy = u.T @ (y - self.level)
        self.outside = np.square(y - self.level - u @ self.uy).sum(0)

    def gcv(self, strength: float) -> np.ndarray:
        damped = strength * self.n / (self.s**2 + strength * self.n)  # 1 - the filter factors
        residual = self.outside + np.square(damped[:, None] * self.uy).sum(0)
        freedom = self.n - 1 - len(self.s) + damped.sum()  # the intercept takes one
        return self.n * residual / freedom**2

    def predict(self, x: np.ndarray, strength: Sequence[float]) -> np.ndarray:
        factors = self.s[:, None] / (self.s[:, None] ** 2 + self.n * np.asarray(strength))
        return (x - self.mean) @ (self.vt.T @ (factors * self.uy)) + self.level


def nmad(d: np.ndarray, factor: float = NORMAL) -> float:
    """Normalised median absolute deviation, factor * median |d - median d|. Galaxy papers also round it to 1.48."""
    return float(factor * np.median(np.abs(d - np.median(d))))


def outlier_rate(d: np.ndarray, limit: float) -> float:
    """Share of |d| >= limit."""
    return float((np.abs(d) >= limit).mean())


def errors(predicted: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """n, left_out, r2, mae, rmse, nmad (of predicted - target), pearson and spearman of [N] and [N].

    Records whose target is NaN are left out and counted. The correlations are NaN when the predictions are constant.

    Raises:
        DataError: shapes that do not match, predictions that are no numbers, or a target with fewer than two values.
    """
    from scipy.stats import spearmanr  # takes a second to load, which no training should wait for

    predicted, target, left_out = _known(predicted, target)
    if len(np.unique(target)) < 2:
        raise DataError("The target has the same value for every record; there is nothing to explain.")
    d = predicted - target
    constant = np.ptp(predicted) == 0
    return {
        "n": len(d),
        "left_out": left_out,
        "r2": float(1 - np.square(d).sum() / np.square(target - target.mean()).sum()),
        "mae": float(np.abs(d).mean()),
        "rmse": float(np.square(d).mean() ** 0.5),
        "nmad": nmad(d),
        "pearson": float("nan") if constant else float(np.corrcoef(predicted, target)[0, 1]),
        "spearman": float("nan") if constant else float(spearmanr(predicted, target).statistic),
    }


def table(predicted: np.ndarray, targets: np.ndarray, names: Sequence[str] | None = None) -> dict[str, dict]:
    """`errors` of every column of predictions [N, T] by its name; targets [N, T]."""
    predicted, targets = np.asarray(predicted), np.asarray(targets)
    names = [str(t) for t in range(targets.shape[-1])] if names is None else list(names)
    if predicted.shape != targets.shape or targets.ndim != 2 or targets.shape[1] != len(names):
        raise DataError(f"Predictions {list(predicted.shape)} and targets {list(targets.shape)}, {len(names)} names.")
    return {name: errors(predicted[:, t], targets[:, t]) for t, name in enumerate(names)}


def redshift_errors(
    predicted: np.ndarray, redshift: np.ndarray, limit: float = 0.15, factor: float = NORMAL
) -> dict[str, float]:
    """n, left_out, bias, nmad, sigma68 and outlier_rate of d = (predicted - z) / (1 + z), redshifts [N] and [N].

    Bias is the mean of d, sigma68 half the range from its 15.9th to its 84.1st percentile, outliers are |d| >= limit.
    Log stellar masses are judged by the same with limit 0.25.
    """
    predicted, redshift, left_out = _known(predicted, redshift)
    if redshift.min() <= -1:
        raise DataError(f"A redshift of {redshift.min():g} was found; they lie above -1.")
    d = (predicted - redshift) / (1 + redshift)
    low, high = np.percentile(d, [15.9, 84.1])
    return {
        "n": len(d), "left_out": left_out, "bias": float(d.mean()), "nmad": nmad(d, factor),
        "sigma68": float((high - low) / 2), "outlier_rate": outlier_rate(d, limit),
    }  # fmt: skip


def _known(predicted: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    predicted, target = np.asarray(predicted, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if predicted.shape != target.shape or target.ndim != 1:
        raise DataError(f"Predictions {list(predicted.shape)} and targets {list(target.shape)} do not match.")
    known = ~np.isnan(target)
    if not known.any():
        raise DataError("No record has this target.")
    if not (np.isfinite(predicted).all() and np.isfinite(target[known]).all()):
        raise DataError("Some predictions or targets are not finite; only unknown targets may be NaN.")
    return predicted[known], target[known], int((~known).sum())
