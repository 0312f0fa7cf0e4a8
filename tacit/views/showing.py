"""Inputs of encoders as pictures for people."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tacit.views.film import FilmInputs
from tacit.views.inputs import Inputs
from tacit.views.sound import SoundInputs
from tacit.views.wave import WaveInputs

STRIP = 4  # frames of a film that are shown, one beside the other


def shown(x: Tensor, inputs: Inputs | SoundInputs | FilmInputs | WaveInputs, like: Tensor | None = None) -> Tensor:
    """[n, C, H, W] as an encoder gets them -> uint8.

    Spectrograms [n, 1, frames, mels] become [n, 1, mels, frames]: time to the right, low frequencies at the bottom, and
    as bright as makes the range of `like` (of themselves by default) visible. Films [n, C, T, H, W] become a strip of
    frames spread over them [n, C, H, 4 W], waveforms [n, 1, samples] their spectrograms [n, 3, mels, frames], grey.
    """
    if isinstance(inputs, WaveInputs):
        return shown(inputs.log_mel.prepare(x), inputs.log_mel).expand(-1, 3, -1, -1)
    if isinstance(inputs, FilmInputs):
        frames = np.linspace(0, x.shape[2] - 1, min(STRIP, x.shape[2])).round().astype(int)
        x = x[:, :, frames].transpose(2, 3).flatten(3)
    x = x.detach().float()
    if isinstance(inputs, SoundInputs):
        low, high = np.quantile((x if like is None else like).detach().float().cpu().numpy(), (0.01, 0.995))
        x = ((x - low) / max(high - low, 1e-6)).transpose(2, 3).flip(2)
    else:
        mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
        x = x * std + mean
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
