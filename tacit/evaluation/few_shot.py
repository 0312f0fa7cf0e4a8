"""k labels a class: draw them, fit a logistic regression, score on the whole test set, and do it again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tacit.errors import DataError
from tacit.evaluation.linear import fit_logistic

STRENGTH = 1e-2  # fixed: a handful of labels leaves nothing to sweep on


def few_shot(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, shots: int = 5, draws: int = 10,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Accuracies [draws] on all of `test` with `shots` training records a class, drawn anew each time.

    Features are standardised by the unlabelled training features. Raises `DataError` when a class has too few records.
    """
    counts = np.bincount(labels.numpy(), minlength=classes)
    if counts.min() < shots:
        fewest = f"class {int(counts.argmin())} has {counts.min()}"
        raise DataError(f"{shots}-shot needs {shots} training records of every class; {fewest}.")
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = (torch.cat([(f - mean) / std, torch.ones(len(f), 1)], dim=1) for f in (train, test))
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(labels.numpy() == c), shots, replace=False) for c in range(classes)]
        )
        w = fit_logistic(x[rows], labels[rows], classes, STRENGTH)
        scores.append(float(((x_test @ w).argmax(1) == test_labels).float().mean()))
    return np.array(scores)
