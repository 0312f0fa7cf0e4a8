"""Which patches of a mixture come from one image (Chen et al. 2023, MixedAE, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def homologous_contrast(tokens: Tensor, owners: Tensor, temperature: float) -> Tensor:
    """Tokens of one image are each other's positives, all others of the same mixture are negatives; none elsewhere.

    Args:
        tokens: [G, L, D], of any length, normalised here. owners: [G, L], whose each is.
        temperature: divides every similarity.

    Returns:
        The mean over tokens i of `-1/|P(i)| Σ_{j ∈ P(i)} log(exp(z_i·z_j/t) / Σ_{k ≠ i} exp(z_i·z_k/t))` with P(i) the
        others of i's owner, in float32. A token without any counts as 0.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        z = F.normalize(tokens.float(), dim=-1)
        itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        logits = (z @ z.mT / temperature).masked_fill(itself, -torch.inf)
        told = -F.log_softmax(logits, dim=-1)
        positive = (owners.unsqueeze(1) == owners.unsqueeze(2)) & ~itself
        return (told.masked_fill(~positive, 0).sum(-1) / positive.sum(-1).clamp_min(1)).mean()


def homologous_share(chosen: Tensor, owners: Tensor) -> Tensor:
    """The share of chosen keys that are of the query's own image: chosen [G, heads, L, K], owners [G, L] -> []."""
    groups, heads, length, _ = chosen.shape
    of_keys = owners.view(groups, 1, 1, length).expand(-1, heads, length, -1).gather(3, chosen)
    return (of_keys == owners.view(groups, 1, length, 1)).float().mean()
