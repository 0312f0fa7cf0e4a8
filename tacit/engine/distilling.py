"""What DINO and those that build on it share: crops, heads, temperatures, the teacher's pace (Caron et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tacit.engine.recipe import DINORecipe
from tacit.engine.schedules import Progress, cosine, linear
from tacit.heads import PrototypeHead
from tacit.settings import setting
from tacit.teachers import TaughtHead


@dataclass(frozen=True)
class Taught(DINORecipe):
    """DINO's values, but for what keeps targets from collapse; methods change the defaults."""

    global_area: tuple[float, float] = setting((0.4, 1.0), "shares of the image's area a large crop holds", low=0.001)
    local_area: tuple[float, float] = setting((0.05, 0.4), "shares of the image's area a small crop holds", low=0.001)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    prototypes: int = setting(65536, "outputs of each head", low=2)
    hidden: int = setting(2048, "hidden width of the heads", low=1)
    bottleneck: int = setting(256, "width of the embeddings that are compared with prototypes", low=1)
    norm_last_layer: bool = setting(True, "prototypes keep length 1; without, a little better and less stable")
    freeze_last_layer: float = setting(1.0, "epochs in which the student's prototypes stay as they are", low=0)
    drop_path: float = setting(0.1, "stochastic depth of the student's last block", low=0, high=0.99)
    student_temperature: float = setting(0.1, "divides the student's logits", low=1e-3)
    teacher_temperature: float = setting(0.04, "divides the teacher's logits, once warm", low=1e-3)
    teacher_temperature_start: float = setting(0.04, "the same at the start", low=1e-3)
    teacher_temperature_epochs: int = setting(0, "epochs in which it goes from one to the other", low=0)
    center_momentum: float = setting(0.9, "of the running mean of the teacher's logits", low=0, high=1)
    momentum: float = setting(0.996, "of the teacher at the first step; rises to 1 by a cosine", low=0, high=1)


@dataclass(frozen=True)
class Distilling(Taught):
    """The same, with DINO's centring."""

    centering: bool = setting(True, "subtract the running mean of the teacher's logits; without it, it collapses")


def temperature_at(s: Taught, progress: Progress) -> float:
    """The teacher's, step by step; DINO's own rises by the epoch."""
    start, end, epochs = s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs
    return linear(progress.epoch, start, end, epochs)


def momentum_at(s: Taught, progress: Progress) -> float:
    return cosine(progress.step, progress.steps, s.momentum, 1.0)


def taught_head(
    s: Taught, width: int, prototypes: int | None = None, bottleneck: int | None = None,
    of: TaughtHead | None = None,
) -> TaughtHead:  # fmt: skip
    """A head for features of this width, and its teacher.

    Args:
        prototypes, bottleneck: where they differ from those of `s`.
        of: a head whose networks serve here too, as they are, with a center of their own for logits of another kind.
    """
    prototypes = prototypes or s.prototypes
    if of is not None:
        return TaughtHead(None, prototypes, s.center_momentum, of=of)
    head = PrototypeHead(
        width, prototypes, hidden=s.hidden, bottleneck=bottleneck or s.bottleneck, norm_last_layer=s.norm_last_layer
    )
    return TaughtHead(head, prototypes, s.center_momentum)


def watched(features: Tensor, z: Tensor, zt: Tensor, targets: Tensor, momentum: float) -> dict[str, Tensor]:
    """Signals of a student that sees the two large crops first (see `Step`).

    Args:
        features: [B, D], of the first large crop. z: [V B, width], embeddings of the student, view by view.
        zt: [2 B, width], the teacher's of the large crops. targets: [B, K], of the first.
    """
    return {
        "features": features.detach(),
        "embeddings": z[: len(zt)].detach(),
        "positives": zt.roll(len(zt) // 2, 0),  # the teacher's of the other large crop
        "targets": targets,
        "momentum": torch.tensor(momentum),
    }


def hold_last_layers(s: Taught, progress: Progress, *heads: nn.Module) -> None:
    """No gradient for the prototypes of these heads while `freeze_last_layer` lasts; for `before_update`."""
    if progress.epoch < s.freeze_last_layer:
        for parameter in (p for head in heads for p in head.last_layer.parameters()):
            parameter.grad = None
