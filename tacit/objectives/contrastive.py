"""Contrastive objectives: pull two views of a record together, push other records away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.distributed import gather, gather_with_grad, rank, world_size


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE with a shared bank of negatives (van den Oord et al. 2018, eq. 4; He et al. 2020, eq. 1).

    Args:
        query: [B, D], L2-normalised.
        key: [B, D], L2-normalised; row n is the positive of query n.
        negatives: [D, K], L2-normalised columns, the same for every query.
        temperature: divides every similarity.

    Returns:
        The mean over B of `-log(exp(q·k/t) / (exp(q·k/t) + Σ_j exp(q·n_j/t)))`, in float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, negatives = query.float(), key.float(), negatives.float()
        positive = (query * key).sum(1, keepdim=True)  # [B, 1]
        logits = torch.cat([positive, query @ negatives], dim=1) / temperature  # [B, 1 + K]
        target = torch.zeros(len(query), dtype=torch.long, device=query.device)
        return F.cross_entropy(logits, target)


def batch_info_nce(query: Tensor, key: Tensor, temperature: float, groups: Tensor | None = None) -> Tensor:
    """InfoNCE whose negatives are the keys of the batch, in one direction (Chen, Xie and He 2021, algorithm 1).

    Args:
        query: [B, D], of any length, normalised here.
        key: [B, D], of any length, normalised here; row n is the positive of query n, the other rows of all ranks are
            its negatives. No gradient reaches the keys.
        temperature: divides every similarity; the loss is multiplied by twice that.
        groups: [B] int64; the keys of other records of a query's group (slices of its exam) are no negatives of it.

    Returns:
        `2t` times the mean over B of `-log(exp(q·k/t) / Σ_m exp(q·k_m/t))`, in float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, keys = F.normalize(query.float(), dim=1), gather(F.normalize(key.detach().float(), dim=1))
        target = torch.arange(len(query), device=query.device) + _first(query)
        logits = query @ keys.T / temperature
        if groups is not None:
            kin = groups[:, None] == gather(groups)
            logits = logits.masked_fill(kin.scatter(1, target[:, None], False), -torch.inf)
        return 2 * temperature * F.cross_entropy(logits, target)


def info_nce_across_views(keys: Sequence[Tensor], queries: Sequence[Tensor], temperature: float) -> Tensor:
    """Every view is a query for the key of every other view: the mean over the pairs (i, v), v != i, of
    `batch_info_nce(queries[v], keys[i])`, as `across_views` takes them.

    Args:
        keys: G x [B, D]. queries: V x [B, D], V >= G and at least two; the first G are of the very crops of the keys.
    """
    pairs = [(q, k) for i, k in enumerate(keys) for v, q in enumerate(queries) if v != i]
    return sum(batch_info_nce(q, k, temperature) for q, k in pairs) / len(pairs)


def nt_xent(a: Tensor, b: Tensor, temperature: float, *, across_ranks: bool = True) -> Tensor:
    """NT-Xent of two views (Chen et al. 2020, eq. 1), the sum of its two directions.

    Args:
        a: [B, D], of any length, normalised here.
        b: [B, D], of any length, normalised here; row n is the positive of row n of `a`, all other rows of both views
            on all ranks are the negatives of both, with gradient.
        temperature: divides every similarity.
        across_ranks: False for the negatives of this rank alone (SiT).

    Returns:
        The mean over B of the cross-entropy of `a`'s row plus that of `b`'s: twice the mean over the 2B rows. Float32.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
        every_a, every_b = (gather_with_grad(a), gather_with_grad(b)) if across_ranks else (a, b)
        target = torch.arange(len(a), device=a.device) + (_first(a) if across_ranks else 0)
        own = F.one_hot(target, len(every_a)).bool()

        def direction(anchor: Tensor, others: Tensor, same: Tensor) -> Tensor:
            unlike = (anchor @ same.T).masked_fill(own, -torch.inf)
            return F.cross_entropy(torch.cat([anchor @ others.T, unlike], dim=1) / temperature, target)

        return direction(a, every_b, every_a) + direction(b, every_a, every_b)


def _first(own: Tensor) -> int:
    """Where this rank's rows start among those of all ranks."""
    return rank() * len(own) if world_size() > 1 else 0
