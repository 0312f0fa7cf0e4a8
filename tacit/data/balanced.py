"""Batches of P classes with K records each, of different groups where that is possible: what contrast under labels
needs, since in a batch drawn at random most records have no other of their class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from tacit.data.batches import times_before


class Balanced(Sampler[list[tuple[int, int]]]):
    """Batches of `(step, index)`, each a function of (seed, step) alone.

    Classes are drawn without replacement, all as likely. Of a class records are taken from one group after another, so
    that two share a group (a speaker, a town) only when the batch asks for more of them than there are groups; of a
    class with fewer records than `each`, all. No record comes twice in a batch.

    Args:
        labels: [N] int64. groups: [N] names, or None where every record stands alone.
        classes: P, at most as many as there are. each: K.
        steps: how many batches.
    """

    def __init__(self, labels: np.ndarray, groups: Sequence | None, *, classes: int, each: int, seed: int, steps: int):
        self.groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
        self.rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.classes, self.each, self.seed, self.steps = min(classes, len(self.rows)), each, seed, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            yield [(step, int(row)) for row in self.batch(step)]

    def batch(self, step: int) -> np.ndarray:
        """Row numbers [at most P K], class by class."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, 1], counter=[0, 0, step, 2]))
        chosen = rng.permutation(len(self.rows))[: self.classes]
        return np.concatenate([self._of(rng.permutation(self.rows[label])) for label in chosen])

    def _of(self, rows: np.ndarray) -> np.ndarray:
        """The first `each` of these, every group's first before any group's second."""
        turn = times_before(self.groups[rows])
        return rows[turn.argsort(kind="stable")][: self.each]
