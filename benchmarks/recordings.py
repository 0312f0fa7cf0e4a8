"""Recordings to time with: ten seconds each, as AudioSet's clips are, at the rate that is asked for. Made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

SECONDS = 10


def recordings(folder: Path, count: int, rate: int = 32_000) -> Path:
    """So many .wav files of 16 bits and one channel: a falling or rising tone that comes and goes, in noise."""
    rng, t = np.random.default_rng(0), np.arange(SECONDS * rate) / rate
    for number in range(count):
        low, rise, beat = rng.uniform(100, 1000), rng.uniform(-50, 500), rng.uniform(0.5, 4)
        tone = np.sin(2 * np.pi * (low + rise * t / 2) * t) * np.sin(2 * np.pi * beat * t) ** 2
        wave = 0.3 * tone + rng.normal(0, 0.05, len(t))
        soundfile.write(folder / f"{number:03d}.wav", wave, rate, subtype="PCM_16")
    return folder
