"""One pass an input size: crops of equal size go through an encoder together (Caron et al. 2020, SwAV), or apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def by_size(
    encode: Callable[[Tensor], Tensor | tuple[Tensor, ...]], images: Sequence[Tensor]
) -> list[Tensor] | list[tuple[Tensor, ...]]:
    """`encode` over consecutive images of equal size at once: V x [B, C, H_v, W_v] -> V x [B, …], in the same order.

    Where `encode` gives several tensors [B, …], V x as many.
    """
    found: list = []
    for _, group in groupby(images, key=lambda x: x.shape[-2:]):
        group = list(group)
        out = encode(torch.cat(group))
        if isinstance(out, tuple):
            found += zip(*(part.chunk(len(group)) for part in out), strict=True)
        else:
            found += out.chunk(len(group))
    return found


def view_by_view(encoder: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """`by_size`, unless a BatchNorm inside would mix the views' statistics: then each view is a batch of its own."""
    if any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        return [encoder(x) for x in images]
    return by_size(encoder, images)
