"""Queues of past keys, the negatives of momentum contrast (He et al. 2020, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.distributed import gather


class KeyQueue(nn.Module):
    """One ring of K keys a view pipeline, all turning on one pointer. Everything is a buffer, so a checkpoint holds it.

    `keys` [V, D, K] starts as random unit columns; `length` K must be a multiple of the global batch
    (`queue_problems`), so that a batch never straddles the end of the ring.
    """

    def __init__(self, views: int, width: int, length: int):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(views, width, length), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.long))

    @property
    def length(self) -> int:
        return self.keys.shape[2]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest columns with `keys` [V, B, D], those of all ranks in the order of the ranks."""
        rows = gather(keys.transpose(0, 1))  # [B of all ranks, V, D]
        total = len(rows)
        if self.length % total:
            raise ValueError(f"a queue of {self.length} keys cannot take {total} at once: {self.length} % {total} > 0")
        start = int(self.pointer)
        self.keys[:, :, start : start + total] = rows.permute(1, 2, 0).to(self.keys.dtype)
        self.pointer.fill_((start + total) % self.length)
        self.enqueued += total

    def age(self, batch: int) -> float:
        """Mean age in steps of the keys held, for a global batch of `batch` (random start keys count as none held)."""
        held = min(int(self.enqueued), self.length) / batch
        return (held + 1) / 2 if held else 0.0


def queue_problems(length: int, batch: int, name: str = "queue_size") -> list[str]:
    """Why a queue of `length` cannot serve a global batch of `batch` records; empty when it can."""
    if length >= batch and length % batch == 0:
        return []
    below, above = max(length // batch, 1) * batch, (length // batch + 1) * batch
    near = f"{below}" if below == above else f"{below} or {above}"
    return [
        f"{name} = {length}: must be a multiple of the global batch ({batch}), since a batch may not straddle the end "
        f"of the queue; {length} = {length // batch} x {batch} + {length % batch}. "
        f"Set {name}={near}, or another batch size."
    ]
