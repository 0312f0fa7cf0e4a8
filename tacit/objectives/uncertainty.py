"""Several tasks in one loss, each weighed by a learned number (Kendall et al. 2018, arXiv 1705.07115)."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.errors import UsageError

FORMS = ("log_variance", "scaled_log_variance", "deviation")


def uncertain(loss: Tensor, s: Tensor, form: str = "log_variance", share: float = 1.0) -> Tensor:
    """A task's loss under its learned uncertainty, as SiT's published versions have it; all shapes [].

    | form                | value                                  | of                        |
    |---------------------|----------------------------------------|---------------------------|
    | log_variance        | `exp(-share s) loss + s / 2`           | SiT 2021, official code   |
    | scaled_log_variance | `share exp(-s) loss + s / 2`           | the same, its first state |
    | deviation           | `loss / (2 s^2) + ln(1 + s^2)`         | SiT of June 2022          |

    Args:
        loss: of the task. s: its learned number. share: 1, or 1/2 for an L1.

    Raises:
        UsageError: another form.
    """
    if form not in FORMS:
        raise UsageError(f"form = {form!r}: choose one of {', '.join(FORMS)}.")
    if form == "deviation":
        return 0.5 / s.square() * loss + torch.log1p(s.square())
    if form == "log_variance":
        return torch.exp(-share * s) * loss + 0.5 * s
    return share * torch.exp(-s) * loss + 0.5 * s
