"""Is it the same speaker? Pairs of recordings, told apart by the cosine of their features (VoxCeleb's protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from tacit.errors import DataError, UsageError
from tacit.evaluation.groups import bootstrap_groups
from tacit.evaluation.task import Score, Task

TARGETS = 0.05  # share of true pairs among those asked, VoxCeleb's; both errors cost 1
PAIRED = 2000  # records of which all pairs are asked
WORK = 10**8  # pairs that may be looked at for an interval


def run_verification(task: Task, *, trials: str = "", centre: bool = False, feature: str = "pooled") -> list[Score]:
    """Are two of one class? Equal error rate and least detection cost of the cosine, over pairs of test records.

    All pairs of 2,000 test records at most, or those of a file of `trials` (VoxCeleb's: `1 one.wav other.wav`, 0 where
    they are of two). `centre`: the training mean is subtracted first.
    """
    train, test = task.x(feature)
    x = F.normalize(test - train.mean(0) if centre else test, dim=1)
    said: dict[str, Any] = {"feature": feature} | ({"centre": True} if centre else {})
    if trials:
        names = [task.test.origin.name(int(i)) for i in task.test.found.index]
        first, second, same = read_trials(trials, names)
        said |= {"trials": trials, "interval_over": "trials"}
        asked = ((x[first] * x[second]).sum(1).numpy(), same)
        found = bootstrap_groups(asked, None, _errors, resamples=200, seed=task.seed)
        return _scores(task, found, len(same), said)
    if task.classes < 2:
        raise UsageError(
            "verification asks whether two records are of one class, and there are none. Give trials=FILE."
        )
    rows = np.sort(np.random.default_rng(task.seed).permutation(len(x))[:PAIRED])
    cosine, y = (x[rows] @ x[rows].T).numpy(), task.test.y.numpy()[rows]
    if np.bincount(y).max() < 2 or len(np.unique(y)) < 2:
        raise DataError("verification needs pairs of one class and pairs of two among the test records.")

    def over_pairs(drawn: np.ndarray) -> np.ndarray:
        a, b = np.triu_indices(len(drawn), 1)
        a, b = drawn[a], drawn[b]
        a, b = a[a != b], b[a != b]  # a record that is drawn twice is no pair
        return _errors(cosine[a, b], y[a] == y[b])

    groups = None if task.test.groups is None else task.test.groups[rows]
    resamples = int(np.clip(WORK // len(rows) ** 2, 20, 200))
    found = bootstrap_groups(np.arange(len(rows)), groups, over_pairs, resamples=resamples, seed=task.seed)
    return _scores(task, found, len(rows), said)


def _errors(cosine: np.ndarray, same: np.ndarray) -> np.ndarray:
    """[2]: equal error rate and least cost; NaN without pairs of both kinds."""
    if same.all() or not same.any():
        return np.full(2, np.nan)
    found = rates(cosine, same)
    return np.array([equal_error(*found), least_cost(*found)])


def _scores(task: Task, found: tuple, count: int, said: dict[str, Any]) -> list[Score]:
    return [
        Score("verification", name, float(value), float(low), float(high), count, task.of, said)
        for name, value, low, high in zip(("eer", "min_dcf"), *found, strict=True)
    ]


def rates(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every threshold, from accepting nothing to accepting all: the share of true pairs [K] that are missed, and of
    false ones [K] that are taken for true. Pairs of equal score are accepted together."""
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order], same[order].astype(bool)
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
    hits, alarms = np.cumsum(same)[last], np.cumsum(~same)[last]
    miss = 1 - np.concatenate([[0], hits]) / max(int(same.sum()), 1)
    return miss, np.concatenate([[0], alarms]) / max(int((~same).sum()), 1)


def equal_error(miss: np.ndarray, alarm: np.ndarray) -> float:
    """Where both rates meet, on the line between the thresholds before and after."""
    after = int(np.argmax(alarm >= miss))
    if after == 0:
        return float(miss[0])
    gap = (miss - alarm)[after - 1 : after + 1]
    share = gap[0] / (gap[0] - gap[1])
    return float(miss[after - 1] + share * (miss[after] - miss[after - 1]))


def least_cost(miss: np.ndarray, alarm: np.ndarray, targets: float = TARGETS) -> float:
    """Detection cost at the best threshold, as a multiple of that of the better constant answer (NIST's minDCF)."""
    return float((targets * miss + (1 - targets) * alarm).min() / min(targets, 1 - targets))


def read_trials(path: str | Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both recordings [T] and whether they are of one speaker [T], from lines of `1 one other`, `0 one other`.

    A name is that of a record, with its folders or, where that is clear, without.

    Raises:
        DataError: no file, a line of another form, a recording that is not there, or pairs of one kind alone.
    """
    try:
        lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"trials = {path}: {error}. It is a text file of lines like: 1 a/1.wav a/2.wav") from error
    rows = {name: row for row, name in enumerate(names)}
    short: dict[str, list[int]] = {}
    for name, row in rows.items():
        short.setdefault(Path(name).name, []).append(row)
    found = []
    for number, line in enumerate(lines, 1):
        if len(line) != 3 or line[0] not in ("0", "1"):
            raise DataError(f"{path}, line {number}: {' '.join(line)[:80]!r} is not like: 1 a/1.wav a/2.wav")
        pair = []
        for name in line[1:]:
            alone = short.get(Path(name).name, [])
            row = rows.get(name, alone[0] if len(alone) == 1 else None)
            if row is None:
                many = f"{len(alone)} records have that name; give its folders too" if alone else "no test record"
                raise DataError(f"{path}, line {number}: {name}: {many}.")
            pair.append(row)
        found.append((*pair, line[0] == "1"))
    first, second, same = map(np.array, zip(*found, strict=True)) if found else ([], [], np.zeros(0, bool))
    if len(np.unique(same)) < 2:
        raise DataError(f"{path}: pairs of both kinds are needed, of one speaker (1) and of two (0).")
    return first, second, same
