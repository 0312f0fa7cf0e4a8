"""Self-distillation between regions: each one imitates the region of another view that resembles it most."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
