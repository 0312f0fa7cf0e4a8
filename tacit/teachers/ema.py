"""Momentum encoders: slow copies of what is trained."""

from __future__ import annotations

import copy

import torch
from torch import nn


def momentum_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches; `ema_update` moves it. It shares nothing with `module`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student, over parameters alone, in one fused call.

    Buffers (BatchNorm's running statistics) stay each branch's own. Whether this comes before the teacher's forward
    (MoCo, MoBY) or after the optimiser's step (DINO) is for the method to say.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)
