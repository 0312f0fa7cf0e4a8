"""What monitors see of methods that give back pixels and compare no embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def restoring_signals(first: Tensor, second: Tensor, term: Tensor, nothing: Tensor) -> dict[str, Tensor]:
    """Signals of a `Step` from features [B, D] of two views of each record, a loss and that of a decoder of zeros.

    Nothing keeps such features away from a common direction, so what tells records apart is what is left of them about
    their mean. The loss as a share of that of the mean colour is 1 for a decoder that says nothing.
    """
    unit = [F.normalize((x - x.mean(0)).float(), dim=1) for x in (first.detach(), second.detach())]
    return {
        "features": first.detach(),
        "embeddings": torch.cat(unit),
        "positives": torch.cat(unit[::-1]),
        "metric/l1_of_mean_colour": term.detach() / nothing,
    }
