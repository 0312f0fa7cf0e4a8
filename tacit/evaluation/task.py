"""What a protocol gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tacit import encoders
from tacit.data import Source
from tacit.encoders import Encoder
from tacit.evaluation import intervals
from tacit.evaluation.features import Features
from tacit.evaluation.groups import bootstrap_groups, grouped_split


@dataclass(frozen=True)
class Score:
    """One number with its 95 % interval. `of` is "run", "random-init" or "raw-input"; accuracies are fractions.

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
class Part:
    """One side of the split: its records, their features, and what is known of the readable ones.

    `found.index` counts in `origin`, which is `source` itself where it was not split off.
    """

    source: Source
    found: Features
    origin: Source

    @property
    def x(self) -> Tensor:
        return self.found.x

    @property
    def y(self) -> Tensor:
        return self.found.y

    @property
    def targets(self) -> np.ndarray:
        return self.origin.targets.values[self.found.index.numpy()]

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.origin.groups is None else self.origin.groups[self.found.index.numpy()]


@dataclass(frozen=True)
class Task:
    """Both sides of the split, and what may be needed beyond them."""

    train: Part
    test: Part
    classes: int  # 0 where labels are no classes
    seed: int
    of: str
    encoder: Encoder | None  # None for raw inputs
    workers: int
    device: torch.device
    progress: Callable[[str, int, int], None] | None
    projector: nn.Module | None = None  # of the run that the encoder is of
    cache: bool = False  # trainings under way may be kept on disk

    def x(self, feature: str) -> tuple[Tensor, Tensor]:
        """Training and test features of this choice; of raw inputs there is one."""
        if self.encoder is None:
            return self.train.x, self.test.x
        return self.train.found.more[feature], self.test.found.more[feature]

    def tell(self, what: str) -> Callable[[int, int], None] | None:
        return self.progress and (lambda done, total: self.progress(f"{what}, {self.of}", done, total))

    def parts(self, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Training rows to fit and to choose on, whole groups in each; None where records stand alone."""
        return None if self.train.groups is None else grouped_split(self.train.groups, labels, 0.2, self.seed)

    def accuracy(self, protocol: str, predicted: Tensor, settings: dict[str, Any]) -> Score:
        """Share of the test records that were named right."""
        return self.mean(protocol, "top1", (predicted == self.test.y).numpy(), settings)

    def accuracies(self, protocol: str, predicted: Tensor, settings: dict[str, Any], metric: str) -> list[Score]:
        """The share that was named right, of all records, or the mean of the classes' shares, or `both`."""
        right = (predicted == self.test.y).numpy()
        found = []
        if metric != "mean_per_class":
            found.append(self.mean(protocol, "top1", right, settings))
        if metric != "top1":
            _, of, counts = np.unique(self.test.y.numpy(), return_inverse=True, return_counts=True)
            weights = len(of) / (len(counts) * counts[of])  # a record's mean is 1, a class's sum the same for all
            found.append(self.mean(protocol, "mean_per_class", right * weights, settings))
        return found

    def mean(self, protocol: str, metric: str, values: np.ndarray, settings: dict[str, Any]) -> Score:
        """Mean of one value a test record, with its interval by the bootstrap over records, or over their groups."""
        groups = self.test.groups
        if groups is None or len(groups) != len(values):
            value, (low, high) = float(values.mean()), intervals.bootstrap(values.astype(np.float64), seed=self.seed)
        else:
            value, low, high = bootstrap_groups(values.astype(np.float64), groups, seed=self.seed)
            settings = settings | {"interval_over": "groups"}
        return Score(protocol, metric, value, low, high, len(values), self.of, settings, values)

    def accuracy_over_draws(self, protocol: str, predicted: list[Tensor], settings: dict[str, Any]) -> Score:
        """Mean share over several draws of the training labels, with Student's interval over the draws."""
        return self.over_draws(protocol, torch.stack(predicted).eq(self.test.y), settings)

    def over_draws(self, protocol: str, right: Tensor, settings: dict[str, Any]) -> Score:
        """Mean share of `right` [draws or seeds, M], with Student's interval over them."""
        values = right.float().mean(1).numpy()
        low, high = intervals.over_draws(values)
        mean = right.float().mean(0).numpy()
        return Score(protocol, "top1", float(values.mean()), low, high, right.shape[1], self.of, settings, mean)

    def over_seeds(self, protocol: str, right: list[Tensor], settings: dict[str, Any]) -> Score:
        """The same for [M] of each of several seeds; of one seed the interval is over the records."""
        if len(right) == 1:
            return self.mean(protocol, "top1", right[0].numpy(), settings)
        said = {"seeds": len(right), "interval_over": "seeds"}
        return self.over_draws(protocol, torch.stack(right), settings | said)

    def statistic(
        self, protocol: str, metric: str, values: tuple[np.ndarray, ...], of: Callable[..., float],
        settings: dict[str, Any], *, resamples: int = 500,
    ) -> Score:  # fmt: skip
        """Any statistic of one row a test record, with its interval by the bootstrap over records or their groups."""
        value, low, high = bootstrap_groups(values, self.test.groups, of, resamples=resamples, seed=self.seed)
        return Score(protocol, metric, float(value), float(low), float(high), len(values[0]), self.of, settings)


def packed(
    scores: list[Score], encoder: Encoder, *, split: str, split_hash: str, seed: int, bad: list[tuple[str, str]],
    skipped: dict[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A result as it is printed and stored, with the scores of a protocol together."""
    order = list(dict.fromkeys((score.protocol, score.metric) for score in scores))
    scores = sorted(scores, key=lambda score: order.index((score.protocol, score.metric)))
    return {
        "split": split,
        "split_hash": split_hash,
        "seed": seed,
        "inputs": encoder.inputs.to_dict(),
        "results": [{f.name: getattr(s, f.name) for f in fields(s) if f.name != "records"} for s in scores],
        "records": {f"{s.of}/{s.protocol}/{s.metric}": s.records for s in scores if s.records is not None},
        "skipped": skipped or {},
        "bad_files": bad,
    }


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same architecture and input preparation with fresh weights, drawn by `seed`."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    twin = encoders.like(encoder)
    torch.set_rng_state(state)
    return twin.eval()
