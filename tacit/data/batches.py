"""Which record is seen when: a function of (seed, epoch) and the step, whatever the number of workers and devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from tacit.data.source import Source


def epoch_order(source: Source, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a permutation, or, for a weighted mixture, as many records drawn in proportion."""
    rng = np.random.Generator(np.random.Philox(key=[seed % 2**64, 0], counter=[0, 0, epoch, 1]))
    if source.weights is None:
        return rng.permutation(len(source))
    counts = np.floor(np.cumsum(source.weights) / sum(source.weights) * len(source) + 0.5).astype(np.int64)
    wanted = np.diff(counts, prepend=0)
    parts = []
    for start, length, count in zip(source.starts, source.lengths, wanted, strict=True):
        rounds = [rng.permutation(length) for _ in range(-(-count // length))]  # whole rounds first, then a part of one
        parts.append(start + np.concatenate([*rounds, np.zeros(0, np.int64)])[:count].astype(np.int64))
    return rng.permutation(np.concatenate(parts))


def times_before(order: np.ndarray) -> np.ndarray:
    """How often each entry of `order` [N], at least 0 and less than 2^63 / 2N, stands in it before: [N]."""
    place, bits = np.arange(len(order)), len(order).bit_length()
    entry = order.astype(np.int64)  # with its place in one number, as a stable sort is slower; and in place
    entry <<= bits
    entry |= place
    entry.sort()
    by = entry & ((1 << bits) - 1)
    entry >>= bits
    new = np.diff(entry, prepend=-1) != 0
    found = np.empty_like(place)
    found[by] = place - np.maximum.accumulate(np.where(new, place, 0))
    return found


class Batches(Sampler[list[tuple[int, ...]]]):
    """Micro-batches of `(epoch, index)` for one device, from step `start_step` to `total_steps`.

    Where a record may come several times in an epoch, in a weighted mixture, they are `(epoch, index, times before)`,
    so that it is not seen alike.

    A step's global batch is cut into `accumulate` micro-batches and each of these into one part a device, so that the
    records of step s are the same, in the same order, however many share the work. The last, short batch of an epoch
    is left out, as the schedules of the papers count on.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        total_steps: int,
        start_step: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        self.source, self.seed = source, seed
        self.batch_size, self.accumulate = batch_size, accumulate
        self.start_step, self.total_steps = start_step, total_steps
        self.rank, self.world = rank, world
        self.steps_per_epoch = len(source) // batch_size

    def __len__(self) -> int:
        return (self.total_steps - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        epoch, columns = -1, []
        part = self.batch_size // (self.accumulate * self.world)
        for step in range(self.start_step, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.source, self.seed, epoch)
                columns = [order] if self.source.weights is None else [order, times_before(order)]
            first = step % self.steps_per_epoch * self.batch_size
            for micro in range(self.accumulate):
                start = first + (micro * self.world + self.rank) * part
                yield [(epoch, *key) for key in zip(*(c[start : start + part].tolist() for c in columns), strict=True)]


def unvisited(source: Source, *, batch_size: int, seed: int, total_steps: int) -> np.ndarray:
    """The records, in order, that no step of a run meets, because the short end of each epoch is left out."""
    seen = np.zeros(len(source), dtype=bool)
    per_epoch = len(source) // batch_size
    for epoch in range(-(-total_steps // per_epoch)):
        steps = min(per_epoch, total_steps - epoch * per_epoch)
        seen[epoch_order(source, seed, epoch)[: steps * batch_size]] = True
        if seen.all():
            break
    return np.flatnonzero(~seen)
