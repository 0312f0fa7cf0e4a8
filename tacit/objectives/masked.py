"""Masked modelling of sequences: what stands at the positions that were chosen, told from the others (Devlin et al.
2018, BERT, of tokens; L1 of features as in its successors for speech)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def token_loss(logits: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen positions of the cross-entropy; 0 where none is.

    logits: [..., V]; tokens: [...] int64; chosen: [...] bool.
    """
    rows = logits[chosen].float()
    if not len(rows):
        return rows.sum()
    return F.cross_entropy(rows, tokens[chosen])


def feature_loss(predicted: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen positions of the mean over dimensions of |predicted - target|; 0 where none is.

    predicted, targets: [..., D]; chosen: [...] bool. What targets are elsewhere, NaN too, is never looked at.
    """
    rows = predicted[chosen].float()
    if not len(rows):
        return rows.sum()
    return (rows - targets[chosen].float()).abs().mean()
