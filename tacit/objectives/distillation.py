"""Self-distillation: a view predicts the distribution that a teacher gives to another view of the same record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tacit.errors import UsageError


@torch.no_grad()
def sharpen(logits: Tensor, temperature: float, center: Tensor | None = None) -> Tensor:
    """`softmax((logits - center) / temperature)` over the last dimension, in float32 and without gradient.

    Args:
        logits: [..., K], of a teacher.
        temperature: below the student's, or the targets collapse to uniform ones (Caron et al. 2021, section 5.3).
        center: [1, K], subtracted from every row; nothing for none.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if center is not None:
            logits = logits - center.float()
        return (logits / temperature).softmax(-1)


def soft_cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between distributions and the softmax of logits, in float32; no gradient reaches the targets.

    Args:
        targets: [B, K], rows that sum to one.
        logits: [B, K], of the student.
        temperature: divides the logits.

    Returns:
        The mean over B of `-Σ_k targets_k · log softmax(logits / temperature)_k`.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float() / temperature, targets.detach().float())


def masked_cross_entropy(targets: Tensor, logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """The masked-patch loss of iBOT as in DINOv2 (Zhou et al. 2021, eq. 2; Oquab et al. 2023, section 4), in float32.

    Args:
        targets: [M, K], distributions of the teacher for the M hidden patches of the batch, image by image; no gradient
            reaches them.
        logits: [M, K], of the student for the same patches.
        mask: [B, N] or [B, rows, cols] bool, M of it True: which patches these are.
        temperature: divides the logits.

    Returns:
        The mean over all B images of the mean cross-entropy over an image's hidden patches, 0 for an image without any:
        images count alike however much of them is hidden, and one that is whole makes the loss smaller.
    """
    with torch.autocast(logits.device.type, enabled=False):
        mask = mask.flatten(1)
        each = F.cross_entropy(logits.float() / temperature, targets.detach().float(), reduction="none")  # [M]
        weight = (1 / mask.sum(1, keepdim=True).clamp_min(1)).expand(mask.shape)[mask]  # [M]
        return (each * weight).sum() / len(mask)


def mean_in_parts(loss: Callable[..., Tensor], part: int, *rows: Tensor) -> Tensor:
    """`loss(*rows)` of rows [M, ...] of which it is a mean, of `part` of them at a time, whose logits are not kept but
    computed again for the gradient: what has many rows and outputs fits into little memory. 0 for all at once."""
    if not part or len(rows[0]) <= part:
        return loss(*rows)
    parts = zip(*(row.split(part) for row in rows), strict=True)
    each = [checkpoint(loss, *some, use_reentrant=False) * len(some[0]) for some in parts]
    return torch.stack(each).sum() / len(rows[0])


def with_mirrored(x: Tensor, share: float) -> Tensor:
    """Row i of [B, …] becomes `share` of itself and the rest of row B - 1 - i, its partner in `views.mixed`."""
    return share * x + (1 - share) * x.flip(0)


def across_views(
    targets: Sequence[Tensor], logits: Sequence[Tensor], temperature: float, shares: Sequence[float] | None = None
) -> Tensor:
    """Every view predicts the target of every other view (Caron et al. 2021, eq. 3; Caron et al. 2020, eq. 2).

    The mean over the pairs (i, v), v != i, of `soft_cross_entropy(targets[i], logits[v])`. With two targets and V views
    this is also SwAV's `1/2 Σ_i 1/(V - 1) Σ_{v != i}`. The cross-entropy is linear in its targets, so each view meets
    the sum of its targets: one softmax and one product a view, however many pairs.

    Args:
        targets: G x [B, K], rows that sum to one.
        logits: V x [B, K], V >= G; the first G are of the very crops of the targets, in the same order.
        temperature: divides the logits.
        shares: V numbers, how much of image i a mixed image i of each view is (`views.mixed`): its target is mixed
            alike (EsViT's official code). None where images are not mixed.

    Raises:
        UsageError: there is no pair, or more targets than views.
    """
    views, given = len(logits), len(targets)
    if not 0 < given <= views or views < 2:
        raise UsageError(f"{given} targets and {views} views: give at least one target, two views and a view a target.")
    every = torch.stack([target.detach().float() for target in targets]).sum(0)  # [B, K]
    wanted = [every - targets[v].detach().float() if v < given else every for v in range(views)]
    if shares is not None:
        wanted = [with_mirrored(w, share) for w, share in zip(wanted, shares, strict=True)]
    if given == 1:  # the only target's own crop predicts nothing
        wanted, logits = wanted[1:], logits[1:]
    total = sum(soft_cross_entropy(w, s, temperature) for w, s in zip(wanted, logits, strict=True))
    return total / (given * (views - 1))
