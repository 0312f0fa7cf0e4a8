"""Verification of temporal order: are some feature vectors in a given order? (Misra et al. 2016; Goulao and Oliveira
2022, arXiv 2209.10901.)"""

from __future__ import annotations

import math
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

ORDERS = torch.tensor(list(permutations(range(3))))  # [6, 3]; the first is the one that counts as right


def arranged(slots: Tensor, order: Tensor) -> Tensor:
    """Rows of three vectors in an order each, end to end: [B, 3, D] and the numbers of `ORDERS` [B] -> [B, 3 D]."""
    places = ORDERS.to(slots.device)[order]  # [B, 3]
    return slots.gather(1, places.unsqueeze(2).expand_as(slots)).flatten(1)


def order_loss(logits: Tensor, order: Tensor) -> Tensor:
    """Binary cross-entropy, in nats, of logits [B] that a row is out of order (label 1; the right order has 0).

    With orders drawn evenly, a head that always says 5 in 6 is at .4506.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy_with_logits(logits.float(), (order > 0).float())


@torch.no_grad()
def order_accuracies(logits: Tensor) -> Tensor:
    """Shares of rows judged rightly in each order: logits [B, 6], a column an order -> [6].

    Out of order is what is more so than the five in six that are before anything is seen: logits above ln 5. (Above 0
    a head would have to be sure before it called anything right.)
    """
    said = logits > math.log(len(ORDERS) - 1)
    said[:, 0] = ~said[:, 0]
    return said.float().mean(0)


@torch.no_grad()
def preferred(logits: Tensor, other: Tensor) -> Tensor:
    """How often the logit of one order is below that of another, [B] each -> scalar; equal ones count half."""
    return ((logits < other).float() + 0.5 * (logits == other).float()).mean()
