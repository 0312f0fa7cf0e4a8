"""Queues of past keys (He et al. 2020, section 3.2) and of past embeddings (Caron et al. 2020, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.distributed import gather, rank, world_size


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


class EmbeddingQueue(nn.Module):
    """The last embeddings of each view, the newest first, with which few records share many prototypes (SwAV).

    `rows` [V, L, D] starts as zeros, of which `filled` are embeddings. Both are buffers, so a checkpoint holds them,
    and the same on all ranks.
    """

    def __init__(self, views: int, width: int, length: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(views, length, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @property
    def full(self) -> bool:
        """Whether every row holds an embedding; never of a queue without rows."""
        length = self.rows.shape[1]
        return length > 0 and int(self.filled) >= length

    def share(self) -> Tensor:
        """This rank's part of the rows, [V, L / ranks, D]: all ranks together hold the queue once."""
        return self.rows.tensor_split(world_size(), dim=1)[rank() % world_size()]

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Put `embeddings` [V, B, D], those of all ranks in the order of the ranks, before the others."""
        new = gather(embeddings.transpose(0, 1)).transpose(0, 1).to(self.rows.dtype)
        self.rows.copy_(torch.cat([new, self.rows], dim=1)[:, : self.rows.shape[1]])
        self.filled += new.shape[1]


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
