"""The fast linear probe: a logistic regression on features, its strength swept on the training set."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.evaluation.groups import grouped_folds, grouped_split

STRENGTHS = tuple(10.0**e for e in (-6, -5, -4, -3, -2, -1, 0))  # of the L2 penalty, per record
FEW = 2000  # records; of so many or fewer one fifth says too little of which strength is best
FOLDS = 5


def fit_logistic(
    x: Tensor, y: Tensor, classes: int, strength: float, start: Tensor | None = None, iterations: int = 200
) -> Tensor:
    """Multinomial logistic regression by L-BFGS: mean cross-entropy + strength / 2 * |W|², the bias unpenalised.

    x: [N, D] with a last column of ones; y: [N]. Returns the weights [D, classes].
    """
    w = (torch.zeros(x.shape[1], classes) if start is None else start.clone()).requires_grad_()
    solver = torch.optim.LBFGS(
        [w], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-5,
        tolerance_change=1e-9,
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ w, y) + strength / 2 * w[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return w.detach()


def logistic(
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[Tensor, float]:
    """Probabilities [M, classes] for `test` [M, D] and the strength chosen for them.

    Features are standardised by the training set; the strength is swept on held-out parts of it (`held_out`), from
    strong to weak with warm starts, and the model is fitted again on all of it. The test set is only predicted.

    Args:
        groups: [N] of the training records, where whole groups must stay together.
    """
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = (torch.cat([(f - mean) / std, torch.ones(len(f), 1)], dim=1) for f in (train, test))
    # Cross-entropy would choose with less noise than accuracy, and too strong a penalty where whole groups are held
    # out, of which a probe is surer than it is right.
    right = [0] * len(STRENGTHS)
    for keep, held in held_out(labels.numpy(), groups, seed):
        start = None
        for i, strength in enumerate(reversed(STRENGTHS)):
            start = fit_logistic(x[keep], labels[keep], classes, strength, start, iterations=60)
            right[i] += int(((x[held] @ start).argmax(1) == labels[held]).sum())
    best = STRENGTHS[::-1][int(np.argmax(right))]  # ties go to the stronger, which comes first
    w = fit_logistic(x, labels, classes, best)
    return (x_test @ w).softmax(1), best


def held_out(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to choose on: a fifth of many records, of `FEW` each fifth in turn. A single group is split
    as if there were none."""
    groups = None if groups is None or len(np.unique(groups)) == 1 else groups
    if len(labels) <= FEW:
        own = np.arange(len(labels)) if groups is None else groups
        return grouped_folds(own, labels, min(FOLDS, len(np.unique(own))), seed)
    return [stratified(labels, 0.2, seed) if groups is None else grouped_split(groups, labels, 0.2, seed)]


def stratified(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the records, the second with `share` of each class: at least one of it, never all of it."""
    rng = np.random.default_rng(seed)
    held = []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        count = min(max(round(len(rows) * share), 1), len(rows) - 1)
        held.append(rows[:count])
    second = np.sort(np.concatenate(held))
    first = np.setdiff1d(np.arange(len(labels)), second)
    return first, second
