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


def other_groups_knn(x: Tensor, labels: Tensor, groups: Sequence) -> np.ndarray | None:
    """Whether the `NEIGHBOURS` nearest by cosine among the records of other groups vote right: [N] bool.

    None where a record has no class-mates in other groups to find, as with one group alone.
    """
    x, codes = F.normalize(x.float(), dim=1), np.unique(np.asarray(groups), return_inverse=True)[1]
    kin = torch.from_numpy(codes[:, None] == codes[None, :])
    if int((~kin).sum(1).min()) < NEIGHBOURS:
        return None
    near = (x @ x.T).masked_fill(kin, -torch.inf).topk(NEIGHBOURS)
    return (vote(near.values, labels[near.indices], classes=int(labels.max()) + 1, temperature=None) == labels).numpy()


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
    several = groups is not None and len(np.unique(groups)) > 1
    found = []

    def add(metric: str, values: tuple | np.ndarray, statistic: str | Callable = "mean") -> None:
        how = {"resamples": RESAMPLES, "seed": seed}
        try:
            low_high = bootstrap_groups(values, groups if several else None, statistic, **how)
        except DataError:  # one record, of which nothing can be drawn again
            return
        over = "groups" if several else "records"
        value, low, high = map(float, low_high)
        found.append({"metric": metric, "value": value, "low": low, "high": high, "n": len(y), "interval_over": over})

    add("accuracy", (p == y).astype(np.float64))
    add("macro_f1", (y, p), macro_f1)
    if (apart := silhouettes(x, labels)) is not None:
        add("silhouette", apart)
    if groups is not None and (near := other_groups_knn(x, labels, groups)) is not None:
        add("knn_other_groups", near.astype(np.float64))
    return found
