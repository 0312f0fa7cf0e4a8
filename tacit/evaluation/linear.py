"""The fast linear probe: a logistic regression on features, its strength swept on the training set."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0**e for e in (-6, -5, -4, -3, -2, -1, 0))  # of the L2 penalty, per record


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
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int, seed: int = 0,
    parts: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Tensor, float]:  # fmt: skip
    """Probabilities [M, classes] for `test` [M, D] and the strength chosen for them.

    Features are standardised by the training set; the strength is swept on a held-out fifth of it, from strong to weak
    with warm starts, and the model is fitted again on all of it. The test set is only predicted.

    Args:
        parts: the rows to fit and to choose on, where whole groups must stay together.
    """
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = (torch.cat([(f - mean) / std, torch.ones(len(f), 1)], dim=1) for f in (train, test))
    keep, held = parts or stratified(labels.numpy(), 0.2, seed)
    scores, start = [], None
    for strength in reversed(STRENGTHS):
        start = fit_logistic(x[keep], labels[keep], classes, strength, start, iterations=60)
        right = (x[held] @ start).argmax(1) == labels[held]
        scores.append((float(right.float().mean()), strength))  # ties go to the stronger, which comes first
    best = max(scores, key=lambda s: s[0])[1]
    w = fit_logistic(x, labels, classes, best)
    return (x_test @ w).softmax(1), best


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
