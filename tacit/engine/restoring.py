"""What monitors see of methods that give back pixels and compare no embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from tacit.engine.monitors import about_mean


@torch.no_grad()
def restoring_signals(first: Tensor, second: Tensor, term: Tensor, nothing: Tensor) -> dict[str, Tensor]:
    """Signals of a `Step` from features [B, D] of two views of each record, a loss and that of a decoder of zeros.

    The loss as a share of that of the mean colour is 1 for a decoder that says nothing.
    """
    return {
        "features": first.detach(),
        **about_mean(torch.cat([first, second])),
        "metric/l1_of_mean_colour": term.detach() / nothing,
    }
