"""k-nearest-neighbour classification on the sphere (Wu et al. 2018, section 3.4; as in DINO), blocked and exact."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 26  # similarities held at once, in float32 256 MiB


@torch.no_grad()
def neighbours(bank: Tensor, query: Tensor, k: int, *, block: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of the bank by cosine, for `block` queries at a time, the nearest first.

    Args:
        bank: [N, D]; query: [M, D], on one device. Rows need not be normalised.
        block: queries compared at once; by default as many as keep 2**26 similarities.

    Yields:
        similarity [m, k] and index [m, k]; k is N at most.
    """
    bank = F.normalize(bank.float(), dim=1)
    block = block or max(BLOCK // len(bank), 1)
    held = bank.new_empty(min(block, len(query)), len(bank))  # fresh memory for every block would cost a fifth more
    for part in query.split(block):
        similarity = torch.mm(F.normalize(part.float(), dim=1), bank.T, out=held[: len(part)])
        yield similarity.topk(min(k, len(bank)), dim=1)


def vote(similarity: Tensor, labels: Tensor, *, classes: int, temperature: float | None = 0.07) -> Tensor:
    """The class of each row of neighbours [m, k], given their similarities and labels.

    Votes weigh exp(similarity / temperature). Without a temperature each has one vote, and a tie goes to the class of
    the nearest neighbour among them. Returns [m] int64.
    """
    if temperature is None:
        nearer = 0.5 ** torch.arange(1, similarity.shape[1] + 1, device=similarity.device)  # less than one vote in all
        weight = (1 + nearer).expand_as(similarity)
    else:
        weight = ((similarity - similarity[:, :1]) / temperature).exp()  # the shift changes no winner, nor overflows
    return weight.new_zeros(len(weight), classes).scatter_add_(1, labels, weight).argmax(1)


def knn_predict(
    bank: Tensor,
    labels: Tensor,
    query: Tensor,
    *,
    k: int = 20,
    classes: int,
    temperature: float | None = 0.07,
    block: int | None = None,
) -> Tensor:
    """Each query's class by the vote of its k nearest of the bank.

    Args:
        bank: [N, D]; labels: [N] int64; query: [M, D]. Rows need not be normalised.
        temperature: of the weights exp(cosine / temperature); None for one vote each.
        block: queries compared at once.

    Returns:
        [M] int64.
    """
    found = knn_sweep(bank, labels, query, ks=(k,), classes=classes, temperature=temperature, block=block)
    return found[k]


def knn_sweep(
    bank: Tensor,
    labels: Tensor,
    query: Tensor,
    *,
    ks: tuple[int, ...] = (10, 20, 100, 200),
    classes: int,
    temperature: float | None = 0.07,
    block: int | None = None,
) -> dict[int, Tensor]:
    """`knn_predict` for several k at the cost of the largest. Returns {k: [M] int64}; k beyond N counts as N."""
    predicted: dict[int, list[Tensor]] = {k: [] for k in ks}
    for similarity, index in neighbours(bank, query, max(ks), block=block):
        near = labels[index]
        for k in ks:
            predicted[k].append(vote(similarity[:, :k], near[:, :k], classes=classes, temperature=temperature))
    return {k: torch.cat(parts) for k, parts in predicted.items()}
