"""Randomness belongs to the record: a generator for each (seed, epoch, record, view), and no other state."""

from __future__ import annotations

import numpy as np


def rng(seed: int, epoch: int, index: int, view: int, repeat: int = 0) -> np.random.Generator:
    """A counter-based generator; the same numbers give the same draws in any process and any order.

    repeat: how often the record came before in the epoch, of mixtures in which it may.
    """
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, index], counter=[0, repeat, epoch, view]))
