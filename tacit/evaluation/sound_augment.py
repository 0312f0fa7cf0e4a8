"""What fine-tuning does to sounds: mixing, SpecAugment, resized crops, noise (recipes of AST and of ATST).

All draws are torch's, on the CPU, so that a step's depend on its seed alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.encoders import Encoder
from tacit.evaluation.sound_recipes import Settings
from tacit.views import Excerpt, Heard, log_mixed, resized_crop

ROLL = 10  # rows, at most, that spectrograms with noise are moved by
NOISE = 0.1


def training_view(encoder: Encoder, s: Settings) -> Excerpt | Heard:
    """An excerpt from a random place, and where a resized crop of it lies, if any."""
    excerpt = Excerpt(encoder.inputs)
    return Heard(excerpt, 0.0, s.canvas, s.time, s.bands) if s.resized else excerpt


def changed(
    s: Settings, encoder: Encoder, waves: Tensor, params: dict[str, Tensor], labels: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Waves [B, 1, n] of `training_view`, with labels [B], or several [B, classes] -> what the encoder reads, and
    labels, or shares of classes [B, classes] where sounds were mixed. What is unknown (NaN) of one is unknown of both.
    """
    y, partner, own = labels, None, None
    if s.mixup:
        partner, own = torch.randperm(len(labels)), shares(len(labels), s.mixup, s.mixup_alpha)
        y = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
        y = torch.where(own[:, None] < 1, own[:, None] * y + (1 - own[:, None]) * y[partner], y)
        if s.mixup_of == "waves":
            waves = own.view(-1, 1, 1) * waves + (1 - own.view(-1, 1, 1)) * waves[partner]
    x = encoder.inputs.prepare(waves)
    if s.freq_mask or s.time_mask:
        x = masked(x, s.time_mask, s.freq_mask, -encoder.inputs.mean[0] / encoder.inputs.std[0])
    if partner is not None and s.mixup_of == "levels":
        x = log_mixed(x, x[partner], 1 - own)
    if s.resized:
        x = resized_crop(x, params["place"], s.canvas)
    if s.noise:
        x = x + torch.rand(x.shape) * torch.rand(len(x), 1, 1, 1) * NOISE
        moved = torch.randint(-ROLL, ROLL, (len(x),)).tolist()
        x = torch.stack([one.roll(by, 1) for one, by in zip(x, moved, strict=True)])
    return x, y


def shares(count: int, chance: float, alpha: float) -> Tensor:
    """[count]: how much of itself each keeps, from Beta(alpha, alpha) with that chance, and else all."""
    drawn = torch.distributions.Beta(alpha, alpha).sample((count,))
    return torch.where(torch.rand(count) < chance, drawn, 1.0)


def masked(x: Tensor, rows: int, bands: int, value: float) -> Tensor:
    """SpecAugment (Park et al. 2019) of [B, 1, T, F]: one stretch of time and one of bands is `value`.

    Each is of a length uniform from 0 to `rows` (`bands`) and anywhere. `value`: AST's is a level of 0 before it is
    normalised, which is not the mean.
    """
    hidden = torch.zeros(x.shape, dtype=torch.bool)
    for axis, most in ((2, rows), (3, bands)):
        length = x.shape[axis]
        spans = (torch.rand(len(x)) * min(most, length)).long()
        first = (torch.rand(len(x)) * (length - spans)).long()
        at = torch.arange(length)
        inside = (at >= first[:, None]) & (at < (first + spans)[:, None])  # [B, length]
        hidden |= inside[:, None, :, None] if axis == 2 else inside[:, None, None, :]
    return x.masked_fill(hidden.to(x.device), value)
