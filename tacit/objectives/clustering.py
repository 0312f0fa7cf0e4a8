"""Online clustering: what the targets are, and what keeps all records from one prototype."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.distributed import gather_with_grad, max_over_ranks, sum_over_ranks
from tacit.errors import UsageError

SINKHORN_OF = ("probabilities", "logits")


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


@torch.no_grad()
def assigned(
    logits: Tensor, temperature: float, *, center: Tensor | None = None, rounds: int = 0, of: str = "probabilities",
    prior: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Targets of a teacher's logits [B, K], centred or shared out by Sinkhorn's rounds, or both, or neither: [B, K].

    Centred, then sharpened, then shared out. Sinkhorn starts from `probabilities`, the softmax of the sharpened logits
    (MSN, official code), or from `logits`, their exponentials (SwAV, DINOv2). Records weigh alike in the first and by
    their partition function in the second, so that a few rounds end elsewhere; many end in the same place.

    Args:
        temperature: divides the logits. center: [1, K], subtracted first; nothing for none.
        rounds: of `sinkhorn`, over all ranks' rows; 0 for a softmax. prior: [K], the prototypes' shares in it.

    Raises:
        UsageError: `of` is neither, or a prior that is none.
    """
    if of not in SINKHORN_OF:
        raise UsageError(f"of = {of!r}: choose one of {', '.join(SINKHORN_OF)}.")
    with torch.autocast(logits.device.type, enabled=False):
        scores = (logits.float() - (0.0 if center is None else center.float())) / temperature
        if of == "probabilities":
            scores = scores.log_softmax(-1)
        return sinkhorn(scores, epsilon=1.0, iterations=rounds, prior=prior)


def me_max(probabilities: Tensor, prior: Tensor | None = None) -> Tensor:
    """How far the mean prediction is from using all prototypes alike: ln K minus its entropy (Assran et al. 2022, MSN).

    With a prior it is the divergence KL(mean || prior), which asks for the prior's shares in place of equal ones
    (Assran et al. 2023, PMSN, "The Hidden Uniform Cluster Prior"). Give it the predictions of the student, of all its
    views: the gradient flows through them. Of a teacher's, which have none, it would change nothing.

    Args:
        probabilities: [B, K], as many rows on every rank; the mean is over all ranks, with gradient.
        prior: [K], positive, up to a factor; nothing for equal shares.

    Returns:
        A scalar in float32: 0 where the mean is the prior, ln K where all is on one of K equal prototypes.

    Raises:
        UsageError: the prior is not of length K, or not positive.
    """
    if prior is not None and (prior.shape != probabilities.shape[1:] or not bool((prior > 0).all())):
        raise UsageError(f"prior: must hold {probabilities.shape[1]} shares, all above zero.")
    with torch.autocast(probabilities.device.type, enabled=False):
        mean = gather_with_grad(probabilities.float().mean(0, keepdim=True)).mean(0)
        shares = torch.ones_like(mean) if prior is None else prior.to(mean)
        logs = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()  # 0 ln 0 is 0
        return (mean * (logs - (shares / shares.sum()).log())).sum()


def falling_shares(count: int, power: float) -> Tensor:
    """Shares [K] of prototypes that fall with their rank to this power, for data with rare classes (PMSN): k^-power."""
    shares = torch.arange(1, count + 1, dtype=torch.float32) ** -power
    return shares / shares.sum()


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
