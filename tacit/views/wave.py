"""How sounds are prepared for an encoder that takes the waveform itself (speech models of transformers, VATT), and the
view of a waveform: a piece of it, at a random time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.data.recording import Segment, length_at, middle
from tacit.views.sound import SoundInputs, kaldi_inputs


@dataclass(frozen=True)
class WaveInputs:
    """Waveforms [1, n] of mono sound at `rate` Hz: at most `seconds` of it, n as long as the longest of the batch.

    What is exactly 0 at the end is taken for padding (`sound_lengths`), since that is what a short recording is
    filled up with. normalise: each recording's own sound to a mean of 0 and a variance of 1, its padding left at 0.
    fixed: n is always `samples`, padding included, and nothing is normalised.
    """

    rate: int
    seconds: float
    normalise: bool
    fixed: bool = False

    channels: ClassVar[int] = 1

    @property
    def samples(self) -> int:
        """The most that is taken of a recording."""
        return round(self.rate * self.seconds)

    @property
    def log_mel(self) -> SoundInputs:
        """Of the same sound the spectrogram that stands for the raw input in comparisons."""
        return kaldi_inputs(
            max((self.samples - int(0.025 * self.rate)) // int(0.01 * self.rate) + 1, 1), rate=self.rate
        )

    def centre(self, samples: int, rate: int) -> Segment:
        """The middle of a recording of so many samples at its own rate; all of a short one, from its start."""
        return middle(samples, rate, self.samples, self.rate)

    def windows(self, n: int, samples: int, rate: int) -> list[Segment]:
        """`n` pieces spread evenly from the beginning to the end of a recording, or one from its middle."""
        if n == 1:
            return [self.centre(samples, rate)]
        free = max(length_at(samples, rate, self.rate) - self.samples, 0)
        return [Segment(round(free * k / (n - 1)), self.samples, self.rate) for k in range(n)]

    @torch.no_grad()
    def prepare(self, waves: Tensor) -> Tensor:
        """Sound [B, 1, n] in [-1, 1] at `rate` -> float32 [B, 1, n'], n' <= n the longest sound in it, or n."""
        if self.fixed:
            return waves.float()
        x = waves[:, 0].float()
        lengths = sound_lengths(x)[:, None]
        x = x[:, : int(lengths.max())]
        if self.normalise:
            inside = torch.arange(x.shape[1], device=x.device) < lengths
            x = (x - x.sum(1, keepdim=True) / lengths) * inside
            x = x / (x.square().sum(1, keepdim=True) / lengths + 1e-7).sqrt()
        return x[:, None]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "wave"} | asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WaveInputs:
        return cls(**{k: v for k, v in values.items() if k != "kind"})


@dataclass(frozen=True)
class WaveClip:
    """As many samples as `inputs` asks for, from a random time; of a shorter recording all, then silence.

    noise: deviation of Gaussian noise that is added, as a share of the loudest sample
    span:  seconds of the longest of the views that belong together, from whose beginning this one begins too; this
           one's own where it is longer
    of:    the number of the view of the same list that this one begins with, if not by itself
    """

    inputs: WaveInputs
    noise: float = 0.01
    name: str = "sound"
    field: str = "audio"
    span: float = 0.0
    of: int | None = None

    timed: ClassVar[bool] = True

    def notes(self) -> list[str]:
        return []

    def draw(self, rng: np.random.Generator, samples: int, rate: int, *, seconds: float) -> dict[str, Any]:
        start = rng.random() * max(seconds - max(self.span, self.inputs.seconds), 0.0)
        return {"start": start, "noise": int(rng.integers(2**62)), "valid": True}

    def cut(self, params: dict[str, Any]) -> Segment:
        return Segment(round(params["start"] * self.inputs.rate), self.inputs.samples, self.inputs.rate)

    def change(self, wave: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        if not self.noise:
            return wave
        noise = np.random.default_rng(params["noise"]).standard_normal(wave.shape, dtype=np.float32)
        return wave + noise * np.float32(self.noise * np.abs(wave).max())

    def absent(self) -> tuple[np.ndarray, dict[str, Any]]:
        """What stands in for the sound of a record that has none."""
        return np.zeros((1, self.inputs.samples), np.float32), {"start": 0.0, "noise": 0, "valid": False}

    def finish(self, waves: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """[B, 1, n] -> `{"image": float32 [B, 1, n], "valid": [B] bool}`."""
        return {"image": self.inputs.prepare(waves), "valid": params["valid"]}


def sound_lengths(x: Tensor) -> Tensor:
    """How many samples of each row [B, n] there are before nothing but zeros: [B] int64, at least 1."""
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (places * (x != 0)).amax(1).clamp_min(1)
