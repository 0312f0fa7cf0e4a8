"""Centring of a teacher's logits: no one prototype takes all records (Caron et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tacit.distributed import mean_over_ranks


class Center(nn.Module):
    """The running mean of a teacher's logits. `center` [1, K] is a buffer, zero at first, so a checkpoint holds it."""

    def __init__(self, width: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, width))

    @torch.no_grad()
    def update(self, logits: Tensor | Sequence[Tensor]) -> None:
        """center = momentum * center + (1 - momentum) * mean of the logits over all rows and ranks.

        Args:
            logits: [..., K] or several of them, raw, of as many rows on every rank. Every rank must call it, after the
                loss has used the center.
        """
        parts = [logits] if isinstance(logits, Tensor) else list(logits)
        rows = [part.flatten(0, -2) for part in parts]
        total = torch.stack([part.sum(0, dtype=torch.float32) for part in rows]).sum(0, keepdim=True)
        mean = mean_over_ranks(total / sum(len(part) for part in rows))
        self.center.lerp_(mean.to(self.center.dtype), 1.0 - self.momentum)
