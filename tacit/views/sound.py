"""How sounds are prepared for an encoder, which then sees a picture of one channel: rows are frames, columns bands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.data.recording import Segment, middle
from tacit.errors import UsageError
from tacit.views.filterbank import kaldi_fbank, mel_db

FRONTS = ("kaldi", "mel_db")
# Of AudioSet at 16 kHz, as published for AST and taken over by ASiT, which divide by two deviations; and the extremes
# that ATST maps to -1 and 1.
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
ATST_LEAST, ATST_MOST = -79.6482, 50.6842


@dataclass(frozen=True)
class SoundInputs:
    """Spectrograms [1, frames, mels] of mono sound at `rate` Hz: logarithms of mel energies, minus `mean`, over `std`.

    front: "kaldi" (`kaldi_fbank`: frames that lie inside, natural logarithm) or "mel_db" (`mel_db`: centred frames, dB)
    window, hop: of frames, in seconds; low, high: of the bands, in Hz, where 0 is half the rate
    mean, std: of the logarithms, the divisor itself; one number each, as for a picture of one channel
    """

    front: str
    rate: int
    frames: int
    mels: int
    window: float
    hop: float
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    channels: ClassVar[int] = 1

    def __post_init__(self):
        if self.front not in FRONTS:
            raise UsageError(f"front = {self.front!r}: choose one of {', '.join(FRONTS)}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and bands: height and width of what the encoder sees."""
        return self.frames, self.mels

    @property
    def shift(self) -> int:
        """Samples from one row to the next."""
        return round(self.rate * self.hop) if self.front == "mel_db" else int(self.rate * self.hop)

    @property
    def samples(self) -> int:
        """How many a segment needs for `frames` rows."""
        return (self.frames - 1) * self.shift + (0 if self.front == "mel_db" else int(self.rate * self.window))

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def centre(self, samples: int, rate: int) -> Segment:
        """The middle of a recording of so many samples at its own rate; all of a short one, from its start."""
        return middle(samples, rate, self.samples, self.rate)

    @torch.no_grad()
    def prepare(self, waves: Tensor) -> Tensor:
        """Sound [B, 1, n] in [-1, 1] at `rate` -> normalised float32 [B, 1, frames, mels].

        Longer sound is cut; of shorter the last rows are 0, which is the mean.
        """
        how = {"mels": self.mels, "length": self.window, "shift": self.hop, "low": self.low}
        if self.front == "mel_db":
            x = mel_db(waves[:, 0], self.rate, high=self.high or self.rate / 2, **how)
        else:
            x = kaldi_fbank(waves[:, 0], self.rate, high=self.high, **how)
        x = x[:, None, : self.frames].sub_(self.mean[0]).div_(self.std[0])
        return F.pad(x, (0, 0, 0, self.frames - x.shape[2])) if x.shape[2] < self.frames else x.contiguous()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sound"} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SoundInputs:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "kind"})


def kaldi_inputs(
    frames: int, mels: int = 128, rate: int = 16_000, mean: float = AUDIOSET_MEAN, std: float = AUDIOSET_STD
) -> SoundInputs:
    """AST's and ASiT's: frames of 25 ms each 10 ms, from 20 Hz on, minus the mean over twice the deviation."""
    return SoundInputs("kaldi", rate, frames, mels, 0.025, 0.01, 20.0, 0.0, (mean,), (2 * std,))


def mel_db_inputs(
    frames: int, mels: int = 64, rate: int = 16_000, least: float = ATST_LEAST, most: float = ATST_MOST,
    low: float = 60.0, high: float = 7800.0, window: float = 0.064,
) -> SoundInputs:  # fmt: skip
    """ATST's: frames of 64 ms each 10 ms, in dB, where `least` becomes -1 and `most` 1."""
    middle, half = (least + most) / 2, (most - least) / 2
    return SoundInputs("mel_db", rate, frames, mels, window, 0.01, low, high, (middle,), (half,))
