"""A classifier that teaches another what it says of the same sounds: clip-to-frame distillation (ATST-C2F: Li et al.
2024, arXiv 2306.04186, section III-D; official code).

The paper's teacher hears whole segments (ATST-Clip) and its student is to tell of frames (ATST-Frame). In the official
code the frozen teacher drops paths and normalises by its batches; here it speaks as it does when it is asked.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation.fine_tune import Classifier
from tacit.views import SoundInputs


def check_teacher(teacher: Classifier, encoder: Encoder) -> None:
    """Raises `UsageError` unless the teacher reads spectrograms like the encoder's, as long or shorter."""
    own, other = encoder.inputs, teacher.encoder.inputs
    if not isinstance(own, SoundInputs) or not isinstance(other, SoundInputs):
        raise UsageError("A teacher and its student read the same spectrogram, and one of these takes the waveform.")
    if replace(other, frames=own.frames) != own:
        raise UsageError(
            f"The teacher reads other spectrograms ({other.front}, {other.rate:,} Hz, {other.mels} bands, …) than the "
            f"student ({own.front}, {own.rate:,} Hz, {own.mels} bands, …). Pre-train both with the same rate, bands "
            "and normalisation."
        )
    if other.frames > own.frames:
        raise UsageError(
            f"The teacher reads {other.seconds:.2f} s at a time, the student {own.seconds:.2f} s, and a teacher may "
            "not read more. Pre-train the student with a larger size."
        )


@torch.no_grad()
def logits_in_pieces(teacher: Classifier, x: Tensor) -> Tensor:
    """[B, classes] of spectrograms [B, 1, T, F], as long as the teacher's or longer: of the mean over its own pieces.

    What is left at the end counts as a piece if it is more than half of one, and is then read together with what lies
    before it, where the paper's is filled up.
    """
    size, length = teacher.encoder.inputs.frames, x.shape[2]
    starts = list(range(0, length - size + 1, size))
    if length - starts[-1] - size > size / 2:
        starts.append(length - size)
    f = torch.stack([teacher.encoder(x[:, :, start : start + size]) for start in starts]).mean(0)
    return teacher.head(teacher.neck(f))
