"""Inputs of encoders as pictures for people."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.views.film import FilmInputs
from tacit.views.kinds import AnyInputs
from tacit.views.sequences import SequenceInputs
from tacit.views.sound import SoundInputs
from tacit.views.wave import WaveInputs

STRIP = 4  # frames of a film that are shown, one beside the other


def shown(x: Tensor, inputs: AnyInputs, like: Tensor | None = None) -> Tensor:
    """[n, C, H, W] as an encoder gets them -> uint8.

    Spectrograms [n, 1, frames, mels] become [n, 1, mels, frames]: time to the right, low frequencies at the bottom, and
    as bright as makes the range of `like` (of themselves by default) visible. Films [n, C, T, H, W] become a strip of
    frames spread over them [n, C, H, 4 W], waveforms [n, 1, samples] their spectrograms [n, 3, mels, frames], grey.
    Feature sequences [n, 1, m] become [n, 1, dimensions, positions of the longest]: time to the right, one modality
    below another, black where nothing is.
    """
    if isinstance(inputs, WaveInputs):
        return shown(inputs.log_mel.prepare(x), inputs.log_mel).expand(-1, 3, -1, -1)
    if isinstance(inputs, FilmInputs):
        frames = np.linspace(0, x.shape[2] - 1, min(STRIP, x.shape[2])).round().astype(int)
        x = x[:, :, frames].transpose(2, 3).flatten(3)
    x = x.detach().float()
    if isinstance(inputs, SequenceInputs):
        wide = max(inputs.lengths)
        rows = [F.interpolate(part.transpose(1, 2), wide, mode="nearest") for part in inputs.parts(x).values()]
        if inputs.vocabulary:
            rows[0] = 6 * rows[0] / inputs.vocabulary - 3
        return (((torch.cat(rows, 1) + 3) / 6).clamp(0.1, 1).nan_to_num(0) * 255).round().to(torch.uint8)[:, None]
    if isinstance(inputs, SoundInputs):
        low, high = np.quantile((x if like is None else like).detach().float().cpu().numpy(), (0.01, 0.995))
        x = ((x - low) / max(high - low, 1e-6)).transpose(2, 3).flip(2)
    else:
        mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
        x = x * std + mean
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
