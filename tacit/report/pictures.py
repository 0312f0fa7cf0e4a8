"""Pictures as data URIs: small JPEGs inside the page, so that it needs nothing else."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from tacit.data import Cut, Recording, Source
from tacit.data.recording import length_at
from tacit.report.clips import Clip, clip
from tacit.views import Inputs, SequenceInputs, SoundInputs, shown


def data_uri(pixels: np.ndarray, *, longest: int | None = None) -> str:
    """[H, W, C] uint8, or float in [0, 1]; of more than three channels the first three are shown, of two the first."""
    if pixels.dtype != np.uint8:
        pixels = (np.clip(np.nan_to_num(pixels), 0, 1) * 255).round().astype(np.uint8)
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(shown))
    if longest is not None:
        image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


class Thumbnails:
    """`self(row, side)`: the central square of a record of `source`, whose number is `numbers[row]`, as a data URI.

    Of sounds, for which `inputs` say how, the spectrogram of the middle; of short ones no more than there is.
    """

    def __init__(
        self, source: Source, numbers: np.ndarray, inputs: Inputs | SoundInputs | SequenceInputs | None = None
    ):
        self.source, self.numbers, self.inputs = source, numbers, inputs

    @property
    def of_sounds(self) -> bool:
        return isinstance(self.inputs, SoundInputs)

    def __call__(self, row: int, side: int) -> str:
        record = self.source[int(self.numbers[row])]
        if isinstance(self.inputs, SequenceInputs):
            (packed,) = record["sequences"].crops([self.inputs.packing])
            pixels = shown(self.inputs.prepare(torch.from_numpy(packed)[None]), self.inputs)[0, 0].numpy()
            return data_uri(np.asarray(Image.fromarray(pixels).resize((side, side)))[:, :, None])
        if self.of_sounds:
            return data_uri(self._spectrogram(*self._heard(record["audio"]), side))
        picture = record["image"]
        square = min(picture.height, picture.width)
        top, left = (picture.height - square) / 2, (picture.width - square) / 2
        (pixels,) = picture.crops([Cut(top, left, square, square, (side, side))])
        return data_uri(pixels)

    def with_clip(self, row: int, side: int, most: int) -> tuple[str, Clip]:
        """The same of a sound, and the sound itself as a clip of at most `most` characters, from one reading."""
        wave, length = self._heard(self.source[int(self.numbers[row])]["audio"])
        picture = data_uri(self._spectrogram(wave, length, side))
        return picture, clip(wave[0, :length], self.inputs.rate, most)

    def _heard(self, recording: Recording) -> tuple[np.ndarray, int]:
        """What the encoder hears, [1, samples], and how many of these there are before the silence added to them."""
        (wave,) = recording.crops([self.inputs.centre(*recording.extent)])
        return wave, min(length_at(*recording.extent, self.inputs.rate), self.inputs.samples)

    def _spectrogram(self, wave: np.ndarray, length: int, side: int) -> np.ndarray:
        rows = max(round(length / self.inputs.samples * self.inputs.frames), 1)
        pixels = shown(self.inputs.prepare(torch.from_numpy(wave)[None])[:, :, :rows], self.inputs)
        return np.asarray(Image.fromarray(pixels[0, 0].numpy()).resize((side, side)))[:, :, None]
