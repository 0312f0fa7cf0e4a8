"""Pictures as data URIs: small JPEGs inside the page, so that it needs nothing else."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from tacit.data import Cut, Recording, Source
from tacit.data.recording import length_at
from tacit.data.transcript import SentenceCut
from tacit.errors import BadRecord
from tacit.report.clips import Clip, clip
from tacit.views import FilmInputs, SequenceInputs, SoundInputs, WaveInputs, shown
from tacit.views.kinds import AnyInputs

FRAMES = 3  # of a film that are shown: where what the encoder looks at begins, its middle and its end
GAP = 2  # pixels between them
RATE = 16_000  # of the sounds of films, in Hz


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

    Of sounds, for which `inputs` say how, the spectrogram of the middle; of short ones no more than there is. Of films
    the frame in the middle.
    """

    def __init__(self, source: Source, numbers: np.ndarray, inputs: AnyInputs | None = None):
        self.source, self.numbers, self.inputs = source, numbers, inputs

    @property
    def of_sounds(self) -> bool:
        return isinstance(self.inputs, SoundInputs | WaveInputs)

    @property
    def of_films(self) -> bool:
        return isinstance(self.inputs, FilmInputs)

    def __call__(self, row: int, side: int) -> str:
        if self.of_films:
            return self.strip(row, side, frames=1)
        if isinstance(self.inputs, SequenceInputs):
            (packed,) = self._record(row, "sequences").crops([self.inputs.packing])
            pixels = shown(self.inputs.prepare(torch.from_numpy(packed)[None]), self.inputs)[0, 0].numpy()
            return data_uri(np.asarray(Image.fromarray(pixels).resize((side, side)))[:, :, None])
        if self.of_sounds:
            return data_uri(self._spectrogram(*self._heard(self._record(row, "audio")), side))
        picture = self._record(row, "image")
        square = min(picture.height, picture.width)
        top, left = (picture.height - square) / 2, (picture.width - square) / 2
        (pixels,) = picture.crops([Cut(top, left, square, square, (side, side))])
        return data_uri(pixels)

    def strip(self, row: int, side: int, frames: int = FRAMES) -> str:
        """Of a film the central square of so many frames, spread over what the encoder looks at, one below the other;
        of one alone that in the middle."""
        film = self._record(row, "video")
        cut = self.inputs.centre(*film.extent)
        last = len(cut.times) - 1
        which = np.linspace(0, last, frames).round().astype(int) if frames > 1 else [last // 2]
        (pixels,) = film.crops([cut._replace(times=np.asarray(cut.times)[which], size=(side, side))])
        between = np.full((frames, GAP, side, 3), 128, np.uint8)
        return data_uri(np.concatenate([pixels, between], axis=1).reshape(-1, side, 3)[:-GAP])

    def with_clip(self, row: int, side: int, most: int) -> tuple[str, Clip]:
        """The same of a sound, and the sound itself as a clip of at most `most` characters, from one reading."""
        wave, length = self._heard(self._record(row, "audio"))
        picture = data_uri(self._spectrogram(wave, length, side))
        return picture, clip(wave[0, :length], self.inputs.rate, most)

    def sound(self, row: int, most: int) -> Clip | None:
        """Of a film the sound of what the encoder looks at, if it has any that can be read."""
        try:
            recording = self._record(row, "audio")
            if recording is None:
                return None
            piece = WaveInputs(RATE, self.inputs.seconds, normalise=False, fixed=True)
            (wave,) = recording.crops([piece.centre(*recording.extent)])
        except BadRecord:
            return None
        return clip(wave[0, : length_at(*recording.extent, RATE)], RATE, most)

    def words(self, row: int) -> str | None:
        """Of a clip the sentence that is nearest to its middle, if there is one that can be read."""
        try:
            said = self._record(row, "text")
        except BadRecord:
            return None
        return None if said is None else said.crops([SentenceCut(None, None, 1)])[0][0]

    def has(self, field: str) -> bool:
        return field in self.source.fields

    def _record(self, row: int, field: str) -> Any:
        return self.source.record(int(self.numbers[row]), (field,))[field]

    def _heard(self, recording: Recording) -> tuple[np.ndarray, int]:
        """What the encoder hears, [1, samples], and how many of these there are before the silence added to them."""
        (wave,) = recording.crops([self.inputs.centre(*recording.extent)])
        return wave, min(length_at(*recording.extent, self.inputs.rate), self.inputs.samples)

    def _spectrogram(self, wave: np.ndarray, length: int, side: int) -> np.ndarray:
        inputs = self.inputs.log_mel if isinstance(self.inputs, WaveInputs) else self.inputs
        rows = max(round(length / self.inputs.samples * inputs.frames), 1)
        pixels = shown(inputs.prepare(torch.from_numpy(wave)[None])[:, :, :rows], inputs)
        return np.asarray(Image.fromarray(pixels[0, 0].numpy()).resize((side, side)))[:, :, None]
