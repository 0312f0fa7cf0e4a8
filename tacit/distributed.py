"""What little the parts need to know of other processes."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number among all, before anything is initialised as its launcher says: 0 when it is alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return gather(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_with_grad(x: Tensor) -> Tensor:
    """Rows of all ranks in the order of the ranks, with gradient: [B, …] -> [W * B, …], the same B on every rank.

    The backward sums over the ranks what their losses ask of these rows. Averaged over the ranks afterwards, as DDP
    does, the gradients of the weights are those of one process that holds the whole batch, in both ways of use: every
    rank computes the same loss of all rows, or each the mean over its own rows against all. Without DDP's average they
    are W times that. Every rank must call it, forward and backward.
    """
    return x if world_size() == 1 else _Gather.apply(x)


@torch.no_grad()
def shuffle_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all ranks dealt anew: [B, …] -> as many rows for this rank [B, …], and the order [W * B] they are in.

    One permutation, drawn on the first rank, serves all (He et al. 2020, section 3.3, shuffled BatchNorm); alone it is
    the identity. Every rank must call it, with as many rows.
    """
    if world_size() == 1:
        return x, torch.arange(len(x), device=x.device)
    every = gather(x)
    order = torch.randperm(len(every), device=x.device)
    dist.broadcast(order, 0)
    return every[_own(order, len(x))], order


@torch.no_grad()
def unshuffle_rows(x: Tensor, order: Tensor) -> Tensor:
    """What was made of the rows that `shuffle_rows` dealt, back with the ranks and in the places they came from."""
    return x if world_size() == 1 else gather(x)[_own(order.argsort(), len(x))]


def _own(rows: Tensor, count: int) -> Tensor:
    return rows[rank() * count : (rank() + 1) * count]


@torch.no_grad()
def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of the ranks' tensors of one shape, on every rank, without gradient; `x` stays as it is."""
    if world_size() == 1:
        return x.detach()
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of the ranks' tensors of one shape, on every rank, without gradient; `x` stays as it is."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x.detach()


@torch.no_grad()
def max_over_ranks(x: Tensor) -> Tensor:
    """The largest of the ranks' values at each position, on every rank, without gradient; `x` stays as it is."""
    if world_size() == 1:
        return x.detach()
    largest = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest
