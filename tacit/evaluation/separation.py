"""How far apart classes lie, and for whom: macro F1, confusions, silhouettes, neighbours of other groups, a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import DataError
from tacit.evaluation.groups import bootstrap_groups
from tacit.evaluation.knn import vote

NEIGHBOURS = 5
RESAMPLES = 500


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The mean over the classes in `truth` [N] of 2 hits / (records of it + records taken for it)."""
    scores = []
    for label in np.unique(truth):
        is_it, said = truth == label, predicted == label
        scores.append(2 * (is_it & said).sum() / (is_it.sum() + said.sum()))
    return float(np.mean(scores))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[C, C]: the share of a row's class that is taken for each column's; rows of classes without records are 0."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth, predicted), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def other_groups_knn(x: Tensor, labels: Tensor, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Whether the `NEIGHBOURS` nearest by cosine among the records of other groups vote right: bool [n], for the rows
    [n] that have a class-mate in another group to find, and as many others as are asked."""
    x, codes = F.normalize(x.float(), dim=1), np.unique(np.asarray(groups), return_inverse=True)[1]
    kin = torch.from_numpy(codes[:, None] == codes[None, :])
    mates = (~kin & (labels[:, None] == labels[None, :])).any(1)
    rows = (mates & ((~kin).sum(1) >= NEIGHBOURS)).nonzero()[:, 0]
    if not len(rows):
        return np.zeros(0, bool), rows.numpy()
    near = (x[rows] @ x.T).masked_fill(kin[rows], -torch.inf).topk(NEIGHBOURS)
    voted = vote(near.values, labels[near.indices], classes=int(labels.max()) + 1, temperature=None)
    return (voted == labels[rows]).numpy(), rows.numpy()


def silhouettes(x: Tensor, labels: Tensor) -> np.ndarray | None:
    """[N] in [-1, 1] by cosine distance (Rousseeuw 1987): how much nearer the own class is than the next one. None
    unless there are two classes, and fewer than records."""
    from sklearn.metrics import silhouette_samples

    if not 2 <= len(labels.unique()) < len(labels):
        return None
    return silhouette_samples(F.normalize(x.double(), dim=1).numpy(), labels.numpy(), metric="cosine")


def tree(x: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Which classes sound alike: centroids of unit vectors joined by average linkage of their cosine distances, the
    nearest first, as `{"left": [names], "right": [names], "distance": …}`."""
    from scipy.cluster.hierarchy import linkage

    x, there = F.normalize(x.double(), dim=1), labels.unique().tolist()
    if len(there) < 2:
        return []
    centroids = torch.stack([x[labels == label].mean(0) for label in there]).numpy()
    members: list[list[str]] = [[str(classes[label])] for label in there]
    joined = []
    for left, right, distance, _ in linkage(centroids, "average", metric="cosine"):
        a, b = members[int(left)], members[int(right)]
        joined.append({"left": a, "right": b, "distance": round(float(distance), 4)})
        members.append(a + b)
    return joined


def scores(
    x: Tensor, labels: Tensor, predicted: Tensor, groups: np.ndarray | None, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy and macro F1 of a classifier, and how its vectors x [N, D] lie: silhouette, and neighbours of other
    groups; `{"metric", "value", "low", "high", "n", "interval_over"}` each.

    Intervals of 95 % are by the bootstrap over groups, where there are two or more: a region with one test town stands
    and falls with it. A silhouette's are over the records' own values. Of a resample's classes those count that it has.
    """
    y, p = labels.numpy(), predicted.numpy()
    found = []

    def add(metric: str, values: tuple, of: np.ndarray | None, statistic: str | Callable = "mean") -> None:
        several = of is not None and len(np.unique(of)) > 1
        values = values if callable(statistic) else values[0].astype(np.float64)
        try:
            low_high = bootstrap_groups(values, of if several else None, statistic, resamples=RESAMPLES, seed=seed)
        except DataError:  # one record, of which nothing can be drawn again
            return
        row = dict(zip(("value", "low", "high"), map(float, low_high), strict=True))
        n, over = len(values[0] if callable(statistic) else values), "groups" if several else "records"
        found.append({"metric": metric, **row, "n": n, "interval_over": over})

    add("accuracy", (p == y,), groups)
    add("macro_f1", (y, p), groups, macro_f1)
    if (apart := silhouettes(x, labels)) is not None:
        add("silhouette", (apart,), groups)
    if groups is not None:
        right, rows = other_groups_knn(x, labels, groups)
        if len(rows):
            add("knn_other_groups", (right,), groups[rows])
    return found
