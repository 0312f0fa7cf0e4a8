"""Contrast under labels for sounds: the loss that the settings name, and what is compared.

After La Quatra et al. 2024 (arXiv 2406.15862), who name the region of a recording and find contrast during fine-tuning
to help. Their abstract says that much; constants not in it are the losses' own papers' or usual ones, and settings.
"""

from __future__ import annotations

from torch import Tensor, nn

from tacit import objectives
from tacit.evaluation.sound_recipes import Settings

TEMPERATURES = {"supcon": 0.1, "nt_xent": 0.07}


def contrast(s: Settings, z: Tensor, labels: Tensor) -> Tensor:
    """The loss that the settings name, of vectors [B, D] and labels [B]."""
    t = s.temperature or TEMPERATURES.get(s.contrast, 0.0)
    if s.contrast == "supcon":
        return objectives.supcon(z, labels, t)
    if s.contrast == "nt_xent":
        return objectives.labelled_nt_xent(z, labels, t)
    if s.contrast == "triplet":
        return objectives.triplet_margin(z, labels, s.margin, s.mining)
    return objectives.multi_similarity(z, labels, epsilon=s.epsilon)


def projector(width: int, out: int) -> nn.Module:
    """What is compared, of the feature: two layers that are thrown away after the training, or nothing for 0."""
    return nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out)) if out else nn.Identity()
