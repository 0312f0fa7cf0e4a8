"""Schedules as closed-form functions of the step: nothing counts, so nothing is lost when a run resumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run is: `step` optimiser steps are done of `steps`, `steps_per_epoch` of them an epoch."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `steps`; `end` afterwards."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def quarter_cosine(step: int, steps: int, start: float, end: float) -> float:
    """A quarter of a cosine from `start` at step 0, flat there, to `end` at step `steps`; `end` afterwards."""
    return end + (start - end) * math.cos(math.pi / 2 * min(step / steps, 1.0)) if step < steps else end


def linear(epoch: float, start: float, end: float, epochs: float) -> float:
    """Straight from `start` at epoch 0 to `end` at epoch `epochs`, step by step; `end` afterwards."""
    return start + (end - start) * epoch / epochs if epoch < epochs else end


def by_epoch(epoch: float, start: float, end: float, epochs: int) -> float:
    """Linear from `start` in the first epoch to `end` in the last of `epochs`, one value an epoch; `end` afterwards."""
    return start + int(epoch) * (end - start) / max(epochs - 1, 1) if int(epoch) < epochs else end


def warmup_cosine(
    step: int, steps: int, *, warmup: int, base: float, start: float, end: float, from_zero: bool = False,
    inclusive: bool = False, quarter: bool = False,
) -> float:  # fmt: skip
    """Linear from `start` to `base` over `warmup` steps, then a cosine to `end` at `steps`.

    `base` is first met by step `warmup`, or, if `inclusive`, by the last step of the warm-up (DINO).

    The cosine begins where the warm-up ends, or, with `from_zero`, it is evaluated at the absolute step, as timm 0.3's
    scheduler does (MoBY, Swin): the rate then jumps a little below `base` at the end of the warm-up. `quarter`: of a
    quarter of a period in the place of half of one (VATT, as written).
    """
    if step < warmup:
        return start + step * (base - start) / max(warmup - inclusive, 1)
    if from_zero:
        return cosine(step, steps, base, end)
    return (quarter_cosine if quarter else cosine)(step - warmup, max(steps - warmup, 1), base, end)


def warmup_steps(step: int, *, warmup: int, base: float, start: float, drops: Sequence[float]) -> float:
    """Linear from `start` to `base` over `warmup` steps, then `base`, and from each of `drops` on a tenth of before."""
    if step < warmup:
        return start + step * (base - start) / warmup
    return base * 0.1 ** sum(step >= drop for drop in drops)
