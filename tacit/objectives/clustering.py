"""Online clustering: prototypes share the records among themselves by optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.distributed import max_over_ranks, sum_over_ranks
from tacit.errors import UsageError


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3, prior: Tensor | None = None) -> Tensor:
    """Soft assignments of records to prototypes, the prototypes used alike (Caron et al. 2020, section 3.1 and eq. 5).

    `exp(scores / epsilon)` is scaled `iterations` times, first so that each prototype holds its share of all ranks'
    records, then so that each record is assigned once. It works with logarithms, so nothing over- or underflows.

    Args:
        scores: [B, K], similarities of the records of this rank to the prototypes; to use a queue, rows of it as well.
        epsilon: the smaller, the harder the assignments.
        iterations: 0 gives the softmax of the scores.
        prior: [K], non-negative, the prototypes' shares up to a factor; nothing for equal ones.

    Returns:
        [B, K] in float32, without gradient; every row sums to one.

    Raises:
        UsageError: the prior is not of length K, negative or zero everywhere.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.float() / epsilon
        shares = torch.zeros(scores.shape[1], device=scores.device) if prior is None else _logs(prior, scores)
        logs = scores
        for _ in range(iterations):
            # What the prototypes were scaled by so far is no part of `logs`: a share of zero would leave inf - inf.
            scaled = scores + (shares - _log_sum_of_rows(logs))
            logs = scores - scaled.logsumexp(1, keepdim=True)
        return (scaled if iterations else scores).softmax(1)


def _logs(prior: Tensor, scores: Tensor) -> Tensor:
    if prior.shape != scores.shape[1:] or bool((prior < 0).any()) or not bool(prior.sum() > 0):
        raise UsageError(f"prior: must hold {scores.shape[1]} shares, none negative and not all zero.")
    return prior.to(scores).log()


def _log_sum_of_rows(logs: Tensor) -> Tensor:
    """log Σ exp over the rows of all ranks: [B, K] -> [K]."""
    own = logs.logsumexp(0)
    largest = max_over_ranks(own)
    return largest + sum_over_ranks((own - largest).exp()).log()


def assignment_entropy(q: Tensor) -> Tensor:
    """Entropy in nats of the mean of the assignments `q` [B, K]: ln K if all prototypes are used alike, 0 if only one.

    It looks at the rows it is given; for those of all ranks `gather` them first.
    """
    mean = q.detach().float().mean(0)
    return torch.special.entr(mean).sum()
