"""How sounds are prepared for an encoder that takes the waveform itself: speech models of transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tacit.data.recording import Segment, middle
from tacit.views.sound import SoundInputs, kaldi_inputs


@dataclass(frozen=True)
class WaveInputs:
    """Waveforms [1, n] of mono sound at `rate` Hz: at most `seconds` of it, n as long as the longest of the batch.

    What is exactly 0 at the end is taken for padding (`sound_lengths`), since that is what a short recording is
    filled up with. normalise: each recording's own sound to a mean of 0 and a variance of 1, its padding left at 0.
    """

    rate: int
    seconds: float
    normalise: bool

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

    @torch.no_grad()
    def prepare(self, waves: Tensor) -> Tensor:
        """Sound [B, 1, n] in [-1, 1] at `rate` -> float32 [B, 1, n'], n' <= n the longest sound in it."""
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


def sound_lengths(x: Tensor) -> Tensor:
    """How many samples of each row [B, n] there are before nothing but zeros: [B] int64, at least 1."""
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (places * (x != 0)).amax(1).clamp_min(1)
