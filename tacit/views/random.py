"""Randomness belongs to the record: a generator for each (seed, epoch, record, view), and no other state."""

from __future__ import annotations

import numpy as np


def rng(seed: int, epoch: int, index: int, view: int) -> np.random.Generator:
    """A counter-based generator; the same four numbers give the same draws in any process and any order."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, index], counter=[0, 0, epoch, view]))
