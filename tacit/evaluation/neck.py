"""The first layers of a projection head, kept between an encoder and a classifier (SimCLR v2, section 2.2)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from tacit.errors import UsageError

ACTIVATIONS = (nn.ReLU, nn.GELU)


def first_blocks(projector: nn.Module | None, count: int) -> tuple[nn.Sequential, int]:
    """The first `count` blocks of a head, each up to and with its activation, and their output width. A copy.

    A block is Linear, perhaps a norm, and ReLU or GELU; what follows the last activation belongs to no block.

    Raises:
        UsageError: no head, one that is no plain sequence of layers, or one with fewer blocks.
    """
    if projector is None:
        raise UsageError(
            f"fine_tune:neck={count} keeps layers of the projection head, and this encoder comes without one. Give the "
            "folder of a run whose method has a projector, or leave neck out."
        )
    if not isinstance(projector, nn.Sequential):
        raise UsageError(
            f"fine_tune:neck={count} needs a projection head that is a plain sequence of layers; this one is a "
            f"{type(projector).__name__}. Leave neck out."
        )
    ends = [i + 1 for i, layer in enumerate(projector) if isinstance(layer, ACTIVATIONS)]
    if count > len(ends):
        raise UsageError(
            f"fine_tune:neck={count}: the projection head has {len(ends)} layers with an activation. "
            + (f"Take neck={len(ends)} or less." if ends else "Leave neck out.")
        )
    kept = deepcopy(projector[: ends[count - 1]])
    return kept, [layer for layer in kept if isinstance(layer, nn.Linear)][-1].out_features


def drawn_afresh(head: nn.Module, seed: int) -> nn.Module:
    """The same layers with weights drawn by `seed`, and norms that have seen nothing. A copy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = deepcopy(head)
        for layer in head.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return head
