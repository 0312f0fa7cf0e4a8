"""Contrast under labels for sounds: settings, recipes and the loss they name.

After La Quatra et al. 2024 (arXiv 2406.15862), who name the region of a recording and find contrast during fine-tuning
to help. Their abstract says that much; constants not in it are the losses' own papers' or usual ones, and settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tacit import objectives
from tacit.precision import CHOICES
from tacit.settings import setting

LOSSES = ("none", "supcon", "nt_xent", "triplet", "multi_similarity")
STAGES = ("before", "auxiliary")
TEMPERATURES = {"supcon": 0.1, "nt_xent": 0.07}


@dataclass(frozen=True)
class Settings:
    contrast: str = setting("none", "loss under labels, beside or before cross-entropy", choices=LOSSES)
    stage: str = setting("auxiliary", "contrast before cross-entropy, alone, or auxiliary, added to it", choices=STAGES)
    contrast_weight: float = setting(1.0, "of the contrast, where it is added", low=0)
    contrast_epochs: int = setting(5, "most epochs of contrast, where it comes before", low=1)
    temperature: float | None = setting(None, "of supcon and nt_xent; .1 and .07 if not given", low=1e-3)
    margin: float = setting(0.2, "of triplet", low=0, high=2)
    mining: str = setting("semi_hard", "which triplets count", choices=objectives.MINING)
    epsilon: float | None = setting(0.1, "of multi_similarity's mining; empty for all pairs", low=0)
    projection: int = setting(128, "numbers that are compared, made of the feature by two layers; 0: itself", low=0)
    epochs: int = setting(10, "most epochs of cross-entropy", low=1)
    batch_size: int = setting(32, "recordings of a step", low=4)
    batch_classes: int = setting(8, "classes of a step, with as many recordings each", low=2)
    lr: float = setting(1e-5, "of the encoder", low=0)
    head_lr: float = setting(1e-4, "of what is new above it", low=0)
    weight_decay: float = setting(0.01, "of AdamW, of matrices", low=0)
    warmup: float = setting(0.1, "share of the steps in which rates rise; then they fall to 0 in a line", low=0, high=1)
    clip: float = setting(1.0, "longest gradient of encoder and classifier", low=1e-6)
    seconds: float = setting(10.0, "of a recording that a speech model of transformers hears at most", low=0.05)
    precision: str = setting("auto", "32, bf16, or auto: bf16 where the hardware has it", choices=CHOICES)

    @property
    def before(self) -> bool:
        return self.contrast != "none" and self.stage == "before"

    @property
    def beside(self) -> bool:
        return self.contrast != "none" and self.stage == "auxiliary"


RECIPES = {
    # For large speech models.
    "speech": Settings(),
    # For our own small encoders: rates fifty times as high, and for longer; chosen by reasoning, not by trial.
    "small": Settings(epochs=20, contrast_epochs=10, lr=5e-4, head_lr=2e-3),
}


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
