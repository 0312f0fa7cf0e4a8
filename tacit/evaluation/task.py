"""What a protocol gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.evaluation import intervals
from tacit.evaluation.features import Features


@dataclass(frozen=True)
class Score:
    """One number with its 95 % interval. `of` is "run", "random-init" or "raw-input"; values are fractions.

    `records` says of every test record what the number is the mean of, where it is a mean; it allows paired
    comparisons and is kept beside the result, not in it.
    """

    protocol: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    of: str
    settings: dict[str, Any]
    records: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Task:
    """Features of both parts, and what may be needed beyond them."""

    train: Features
    test: Features
    classes: int
    seed: int
    of: str
    encoder: Encoder | None  # None for raw inputs
    source: Source  # of the training part
    workers: int
    device: torch.device
    progress: Callable[[str, int, int], None] | None

    def x(self, feature: str) -> tuple[Tensor, Tensor]:
        """Training and test features of this choice; of raw inputs there is one."""
        if self.encoder is None:
            return self.train.x, self.test.x
        return self.train.more[feature], self.test.more[feature]

    def tell(self, what: str) -> Callable[[int, int], None] | None:
        return self.progress and (lambda done, total: self.progress(f"{what}, {self.of}", done, total))

    def accuracy(self, protocol: str, predicted: Tensor, settings: dict[str, Any]) -> Score:
        """Share of the test records that were named right, with its interval by the bootstrap."""
        right = (predicted == self.test.y).numpy()
        low, high = intervals.bootstrap(right.astype(np.float64), seed=self.seed)
        return Score(protocol, "top1", float(right.mean()), low, high, len(right), self.of, settings, right)

    def accuracy_over_draws(self, protocol: str, predicted: list[Tensor], settings: dict[str, Any]) -> Score:
        """Mean share over several draws of the training labels, with Student's interval over the draws."""
        right = torch.stack(predicted).eq(self.test.y).float()
        values = right.mean(1).numpy()
        low, high = intervals.over_draws(values)
        mean = right.mean(0).numpy()
        return Score(protocol, "top1", float(values.mean()), low, high, right.shape[1], self.of, settings, mean)
