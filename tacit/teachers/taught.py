"""A head with a teacher (Caron et al. 2021, DINO; Li et al. 2021, EsViT, and Oquab et al. 2023, DINOv2, have two)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.teachers.center import Center
from tacit.teachers.ema import ema_update, momentum_copy


class TaughtHead(nn.Module):
    """`student`, which is trained, `teacher`, its average over time, and `center` [1, K], of the teacher's logits.

    `of`: another one whose networks this one shares, in place of `student`, with a center of its own; that other moves
    them.
    """

    def __init__(
        self, student: nn.Module | None, prototypes: int, center_momentum: float = 0.9, of: TaughtHead | None = None
    ):
        super().__init__()
        self.student = student if of is None else of.student
        self.teacher = momentum_copy(student) if of is None else of.teacher
        self.shares = of is not None
        self.mean = Center(prototypes, center_momentum)

    @property
    def center(self) -> Tensor:
        return self.mean.center

    def follow(self, logits: Sequence[Tensor], momentum: float) -> None:
        """After the update: the center takes in the teacher's logits [..., K] of the step, the teacher the student."""
        self.mean.update(torch.cat([x.flatten(0, -2) for x in logits]))
        if not self.shares:
            ema_update(self.teacher, self.student, momentum)
