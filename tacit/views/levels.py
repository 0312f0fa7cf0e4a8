"""What the levels of a set of recordings are: their mean and deviation, by which spectrograms are normalised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tacit.data import Source
from tacit.data.recording import length_at
from tacit.errors import BadRecord, DataError
from tacit.views.dataset import check_fields
from tacit.views.sound import SoundInputs

RECORDINGS = 1000  # that are listened to, of larger sets


def levels(source: Source, inputs: SoundInputs) -> tuple[float, float]:
    """Mean and standard deviation of the log-mel energies of what is recorded, over all frames and bands.

    Of a set of more than a thousand, so many are taken, evenly spread over it; of each the middle, as long as `inputs`.
    Silence that would be put behind a shorter recording is not counted. Recordings that cannot be read are left out.

    Raises:
        DataError: none can be read, or there are images.
    """
    check_fields(source, {"audio"})
    plain, frame = replace(inputs, mean=(0.0,), std=(1.0,)), int(inputs.rate * inputs.window)  # in samples
    count, total, squares = 0, 0.0, 0.0
    for index in np.unique(np.linspace(0, len(source) - 1, min(len(source), RECORDINGS)).astype(int)):
        try:
            recording = source.record(int(index), ("audio",))["audio"]
            samples = min(length_at(*recording.extent, inputs.rate), inputs.samples)
            (wave,) = recording.crops([inputs.centre(*recording.extent)._replace(samples=max(samples, frame))])
        except BadRecord:
            continue
        rows = 1 + (wave.shape[1] - frame) // inputs.shift  # that lie inside
        x = plain.prepare(torch.from_numpy(wave)[None])[0, 0, :rows].double()
        count, total, squares = count + x.numel(), total + float(x.sum()), squares + float(x.square().sum())
    if not count:
        raise DataError(
            f"None of the recordings of {source.title or 'the data'} can be read, so their levels are unknown."
        )
    mean = total / count
    return mean, max(squares / count - mean * mean, 0.0) ** 0.5
