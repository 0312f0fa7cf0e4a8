"""Contrast under labels: pull records of one class together, push those of other classes away, within a batch.

Similarities are s_ij = <z_i, z_j> of L2-normalised rows. P(i) are the other rows of i's class, N(i) the rows of other
classes. An anchor i without positives contributes nothing and is not counted; where none has any, the losses are 0.
Of several ranks the caller gathers rows and labels (`tacit.distributed.gather_with_grad`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MINING = ("all", "semi_hard")


def anchors(labels: Tensor) -> Tensor:
    """Which rows of labels [B] have another row of their class: bool [B]. A batch without any teaches nothing."""
    return _pairs(labels)[0].any(1)


def supcon(z: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """SupCon (Khosla et al. 2020, eq. 2): the mean over anchors i, and over p in P(i), of
    `-log(exp(s_ip/t) / Σ_{a != i} exp(s_ia/t))`.

    The sum runs over the other positives too, unlike that of `labelled_nt_xent`.

    Args:
        z: [B, D], of any length, normalised here. labels: [B] int64. temperature: t, over 0.

    Returns:
        A scalar in float32.
    """
    with torch.autocast(z.device.type, enabled=False):
        s, (same, _) = _similarities(z) / temperature, _pairs(labels)
        others = s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -torch.inf)
        surprise = others.logsumexp(1, keepdim=True) - s if len(s) > 1 else s
        per_anchor = surprise.masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp_min(1)
        return _mean(per_anchor, same.any(1))


def labelled_nt_xent(z: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """NT-Xent whose pairs are given by labels: the mean over i and p in P(i) of
    `-log(exp(s_ip/t) / (exp(s_ip/t) + Σ_{n in N(i)} exp(s_in/t)))`.

    With one pair of each class in the batch it is the N-pair loss (Sohn 2016, eq. 6) of normalised vectors.

    Args, returns: as of `supcon`.
    """
    with torch.autocast(z.device.type, enabled=False):
        s, (same, other) = _similarities(z) / temperature, _pairs(labels)
        negatives = s.masked_fill(~other, -torch.inf).logsumexp(1, keepdim=True)  # -inf where there are none
        negatives = torch.where(other.any(1, keepdim=True), negatives, torch.finfo(s.dtype).min)
        return _mean(F.softplus(negatives - s), same)


def triplet_margin(z: Tensor, labels: Tensor, margin: float = 0.2, mining: str = "semi_hard") -> Tensor:
    """Triplets: the mean over (i, p, n) of `max(0, d(i, p) - d(i, n) + margin)`, d the distance of the unit vectors.

    Args:
        z: [B, D], of any length, normalised here. labels: [B] int64. margin: between 0 and 2, where d lies.
        mining: over "all" triplets, or over the "semi_hard" ones, d(i, p) < d(i, n) < d(i, p) + margin (Schroff et al.
            2015, eq. 4). Where there is none the loss is 0.

    Returns:
        A scalar in float32.
    """
    if mining not in MINING:
        raise ValueError(f"mining = {mining!r}: choose one of {', '.join(MINING)}.")
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.float(), dim=1)
        # By differences: of equal vectors the distance is 0, and so is its gradient.
        d = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        same, other = _pairs(labels)
        gap = d[:, :, None] - d[:, None, :]  # [anchor, positive, negative]
        chosen = same[:, :, None] & other[:, None, :]
        if mining == "semi_hard":
            chosen &= (gap < 0) & (gap > -margin)
        return _mean(F.relu(gap + margin), chosen)


def multi_similarity(
    z: Tensor,
    labels: Tensor,
    alpha: float = 2.0,
    beta: float = 50.0,
    threshold: float = 0.5,
    epsilon: float | None = 0.1,
) -> Tensor:
    """Multi-Similarity (Wang et al. 2019, eq. 15): the mean over anchors of
    `log(1 + Σ_p exp(-α (s_ip - λ))) / α + log(1 + Σ_n exp(β (s_in - λ))) / β`.

    Sums are over mined pairs (eq. 12 and 13): negatives with `s_in > min_p s_ip - ε`, positives with `s_ip < max_n s_in
    + ε`. An anchor of which no pair is left counts as 0. Exponents of up to β are summed as logarithms, in float32.

    Args:
        z: [B, D], of any length, normalised here. labels: [B] int64. alpha, beta, threshold: α, β and λ.
        epsilon: ε, or None for all pairs.

    Returns:
        A scalar in float32.
    """
    with torch.autocast(z.device.type, enabled=False):
        s, (same, other) = _similarities(z), _pairs(labels)
        anchor = same.any(1)
        if epsilon is not None:
            hardest_positive = s.detach().masked_fill(~same, torch.inf).amin(1, keepdim=True)
            hardest_negative = s.detach().masked_fill(~other, -torch.inf).amax(1, keepdim=True)
            same, other = (
                same & (s.detach() < hardest_negative + epsilon),
                other & (s.detach() > hardest_positive - epsilon),
            )
        pull, push = _log_one_plus(-alpha * (s - threshold), same), _log_one_plus(beta * (s - threshold), other)
        return _mean(pull / alpha + push / beta, anchor)


def _similarities(z: Tensor) -> Tensor:
    z = F.normalize(z.float(), dim=1)
    return z @ z.T


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are positives and which negatives of which: two bool [B, B]."""
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _log_one_plus(exponents: Tensor, chosen: Tensor) -> Tensor:
    """log(1 + Σ exp) over the chosen of each row: [B, B] -> [B]."""
    zero = exponents.new_zeros(len(exponents), 1)
    return torch.cat([zero, exponents.masked_fill(~chosen, -torch.inf)], dim=1).logsumexp(1)


def _mean(x: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen entries, 0 with a gradient of 0 where there are none."""
    return x.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp_min(1)
