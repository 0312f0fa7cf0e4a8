"""Photometric changes of a batch, each record by its own amount: [B, C, H, W] floats in [0, 1], amounts [B].

They mean what torchvision's and Pillow's functions of the same names mean, without the rounding to bytes in between.
Where a change needs red, green and blue, other channel counts are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def _per_record(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def luma(x: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]; the mean of the channels when they are not three."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    r, g, b = x.split(1, dim=1)
    return r * LUMA[0] + g * LUMA[1] + b * LUMA[2]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * _per_record(factor)).clamp_(0, 1)


def shift(x: Tensor, amount: Tensor) -> Tensor:
    return (x + _per_record(amount)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from, or towards, the record's mean luma."""
    f = _per_record(factor)
    mean = luma(x).mean((2, 3), keepdim=True)
    return (x * f).add_(mean * (1 - f)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x
    f = _per_record(factor)
    return (x * f).add_(luma(x) * (1 - f)).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of a full circle, in HSV."""
    if x.shape[1] != 3:
        return x
    r, g, b = x.unbind(1)
    value, spread = x.amax(1), x.amax(1) - x.amin(1)
    safe = torch.where(spread > 0, spread, 1.0)
    h = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    h = (h + 6 * shift.view(-1, 1, 1)) % 6  # sixths of the circle; grey has no spread, so its hue does not matter
    # Channel n of HSV to RGB is value - spread * max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6 and n = 5, 3, 1.
    k = (h.unsqueeze(1) + h.new_tensor([5, 3, 1]).view(1, 3, 1, 1)) % 6
    return value.unsqueeze(1) - spread.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)


def grayscale(x: Tensor) -> Tensor:
    return luma(x).expand_as(x) if x.shape[1] == 3 else x


def solarize(x: Tensor, threshold: float) -> Tensor:
    """Invert what is at or above the threshold."""
    return torch.where(x >= threshold, 1 - x, x)


def gaussian_blur(x: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels cut off at `reach`, edges repeated: two products with banded matrices."""
    height, width = x.shape[2:]
    offset = torch.arange(-reach, reach + 1, device=x.device)
    weight = torch.exp(-0.5 * (offset / sigma.view(-1, 1)) ** 2)
    weight = weight / weight.sum(1, keepdim=True)  # [B, T]
    rows, columns = _band(weight, offset, height), _band(weight, offset, width)
    return rows.unsqueeze(1) @ x @ columns.unsqueeze(1).transpose(2, 3)


def _band(weight: Tensor, offset: Tensor, length: int) -> Tensor:
    """[B, length, length]: row i holds the weights around i; those beyond an edge fall on the edge."""
    index = (torch.arange(length, device=weight.device).view(-1, 1) + offset).clamp_(0, length - 1)  # [length, T]
    shape = (len(weight), *index.shape)
    band = weight.new_zeros(len(weight), length, length)
    return band.scatter_add_(2, index.expand(shape), weight.unsqueeze(1).expand(shape))
