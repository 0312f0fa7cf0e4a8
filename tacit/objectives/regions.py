"""Self-distillation between regions: each one imitates the region of another view that resembles it most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.objectives.distillation import soft_cross_entropy


@torch.no_grad()
def best_match(student: Tensor, teacher: Tensor) -> Tensor:
    """For each region of the student the teacher's most similar one of the same image.

    Args:
        student: [B, T_v, D], features of a view's regions, of any length.
        teacher: [B, T_i, D], features of another view's regions.

    Returns:
        [B, T_v], the position in T_i of the largest cosine similarity; several regions may share one. No gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
        return (student @ teacher.transpose(1, 2)).argmax(-1)


def region_cross_entropy(targets: Tensor, logits: Tensor, index: Tensor, temperature: float) -> Tensor:
    """The region-level loss of EsViT for one pair of views (Li et al. 2022, the region-level task), in float32.

    Args:
        targets: [B, T_i, K], distributions of the teacher's regions; no gradient reaches them.
        logits: [B, T_v, K], of the student's regions.
        index: [B, T_v], which target each student region takes (`best_match`).
        temperature: divides the logits.

    Returns:
        The mean over B and T_v of the cross-entropies, so that a view counts alike however many regions it has.
    """
    with torch.autocast(logits.device.type, enabled=False):
        matched = targets.detach().float().take_along_dim(index[..., None], dim=1)  # [B, T_v, K]
        return F.cross_entropy(logits.float().flatten(0, 1) / temperature, matched.flatten(0, 1))


def across_regions(
    targets: Sequence[Tensor],
    teachers: Sequence[Tensor],
    logits: Sequence[Tensor],
    students: Sequence[Tensor],
    temperature: float,
    shares: Sequence[float] | None = None,
) -> Tensor:
    """The region-level loss of EsViT over all pairs of different views (Li et al. 2022, the region-level task).

    The mean over the pairs (i, v), v != i, of `region_cross_entropy(targets[i], logits[v], best_match(students[v],
    teachers[i]))`; as in `across_views`, each view meets the sum of its targets.

    Args:
        targets: G x [B, T_i, K], distributions of the teacher's regions.
        teachers: G x [B, T_i, D], the features of these regions.
        logits: V x [B, T_v, K], of the student's regions; the first G are of the very crops of the targets. Views may
            have different numbers of regions, and count alike.
        students: V x [B, T_v, D], the features of these regions; no gradient reaches them, nor the teacher's.
        temperature: divides the logits.
        shares: V numbers, how much of image i a mixed image i of each view is (`views.mixed`): its regions are matched
            with those of both images, and the two targets mixed alike. None where images are not mixed.
    """
    total, pairs = 0.0, 0
    for v, (view, features) in enumerate(zip(logits, students, strict=True)):
        others = [i for i in range(len(targets)) if i != v]
        if not others:  # the only target's own crop predicts nothing
            continue
        wanted = sum(_matched(targets[i], features, teachers[i]) for i in others)
        if shares is not None and shares[v] < 1:
            of_partners = sum(_matched(targets[i].flip(0), features, teachers[i].flip(0)) for i in others)
            wanted = shares[v] * wanted + (1 - shares[v]) * of_partners
        total = total + soft_cross_entropy(wanted.flatten(0, 1), view.flatten(0, 1), temperature)
        pairs += len(others)
    return total / pairs


def _matched(targets: Tensor, students: Tensor, teachers: Tensor) -> Tensor:
    """[B, T_v, K]: for each region of the student the target of the teacher's region that resembles it most."""
    return targets.detach().take_along_dim(best_match(students, teachers)[..., None], dim=1)
