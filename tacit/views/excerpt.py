"""The view of a sound: a piece of it from a random place, as a spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data.recording import Segment, length_at
from tacit.views.sound import SoundInputs

FAR = 1 << 40  # numbers of one generator that no view comes near


@dataclass(frozen=True)
class Excerpt:
    """As many samples as `inputs` asks for, from anywhere in the recording; of a shorter one all, then silence.

    roll: chance that the recording is first rolled circularly, by any number of samples (ASiT)
    """

    inputs: SoundInputs
    name: str = "excerpt"
    field: str = "audio"
    roll: float = 0.0

    def notes(self) -> list[str]:
        return []

    def draw(self, rng: np.random.Generator, samples: int, rate: int) -> dict[str, Any]:
        length = length_at(samples, rate, self.inputs.rate)
        rolled, by = rng.random(2)  # always both, so that a changed chance changes nothing else
        self._part_ways(rng)
        start = int(rng.integers(max(length - self.inputs.samples, 0) + 1))
        return {"start": start, "shift": int(by * length) if rolled < self.roll else 0}

    def _part_ways(self, rng: np.random.Generator) -> None:
        """What is drawn from here on is this view's own."""

    def cut(self, params: dict[str, Any]) -> Segment:
        return Segment(params["start"], self.inputs.samples, self.inputs.rate, params["shift"])

    def change(self, wave: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        return wave

    def finish(self, waves: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """[B, 1, n] -> `{"image": [B, 1, frames, mels]}`."""
        return {"image": self.inputs.prepare(waves)}


@dataclass(frozen=True)
class Another(Excerpt):
    """Another excerpt of the recording as view number `of` has it: rolled alike, from a place of its own."""

    of: int = 0

    def _part_ways(self, rng: np.random.Generator) -> None:
        rng.bit_generator.advance(FAR)
