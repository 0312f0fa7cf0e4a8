"""What little the parts need to know of other processes."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number among all, as its launcher says, before anything is initialised: 0 when it is alone."""
    return next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_items(items: list) -> list:
    """The items of all ranks, in the order of the ranks. Every rank must call it."""
    if world_size() == 1:
        return items
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in the order of the ranks, without gradient: [B, …] -> [W * B, …]."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
