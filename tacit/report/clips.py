"""Sounds as data URIs: MP3 inside the page, which every browser plays."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np

from tacit.data.recording import soundfile

MOST_SECONDS = 12.0  # of a clip; the published methods for sounds hear 10 s or less
MP3_RATES = frozenset([8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])


class Clip(NamedTuple):
    """A sound to play: its data URI, how long it lasts, and what it was cut from, both in seconds."""

    uri: str
    seconds: float
    whole: float


def clip(wave: np.ndarray, rate: int, most: int) -> Clip:
    """[n] float32 at `rate` (Hz) as a URI of at most `most` characters, from 2,000 on; of what is too long, the middle.

    It is as loud as `wave`; beyond [-1, 1] a player clips. Too large a clip is halved until it fits, since how much
    a second takes depends on the sound.

    Raises:
        MissingExtra: soundfile is not installed.
    """
    length = min(len(wave), int(MOST_SECONDS * rate))
    while len(uri := _uri(_middle(wave, length), rate)) > most and length > 1:
        length //= 2
    return Clip(uri, length / rate, len(wave) / rate)


def _middle(wave: np.ndarray, length: int) -> np.ndarray:
    start = (len(wave) - length) // 2
    return wave[start : start + length]


def _uri(wave: np.ndarray, rate: int) -> str:
    """MP3; WAV of 16 bits, five to ten times as large, where libsndfile writes no MP3 and at rates that MP3 has not."""
    as_mp3 = rate in MP3_RATES and "MP3" in soundfile().available_formats()
    kind, mime = ("MP3", "audio/mpeg") if as_mp3 else ("WAV", "audio/wav")
    buffer = io.BytesIO()
    soundfile().write(buffer, wave, rate, format=kind)
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
