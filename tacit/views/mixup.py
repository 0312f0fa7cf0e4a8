"""Images that are mixed with others of their batch (mixup: Zhang et al. 2018; CutMix: Yun et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mixed(views: Sequence[Tensor], mixup: float, cutmix: float) -> tuple[list[Tensor], list[float] | None]:
    """Every view [B, C, H, W] with its images mixed with those of the mirrored places: image i with image B - 1 - i.

    As timm mixes batches: for each view a share is drawn, and, where both are on, a coin for which of the two it is.
    All draws are torch's, on the CPU.

    Args:
        mixup: images are blended by a share from Beta(mixup, mixup); 0 for never.
        cutmix: a rectangle of 1 minus a share from Beta(cutmix, cutmix) of the area, whose middle is anywhere in the
            image, is the partner's, as far as it lies in the image; 0 for never.

    Returns:
        The images, new ones, and how much of image i each is, one share a view; the images as they were and None where
        both are 0.
    """
    if not mixup and not cutmix:
        return list(views), None
    images, shares = zip(*(_mixed(view, mixup, cutmix) for view in views), strict=True)
    return list(images), list(shares)


def _mixed(images: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, float]:
    cuts = cutmix > 0 and (not mixup or bool(torch.rand(()) < 0.5))
    alpha = torch.tensor(cutmix if cuts else mixup)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if not cuts:
        return images * share + images.flip(0) * (1 - share), share
    (top, bottom), (left, right) = (_span(n, (1 - share) ** 0.5) for n in images.shape[2:])
    made = images.clone()
    made[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return made, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])


def _span(length: int, part: float) -> tuple[int, int]:
    half, middle = int(length * part) // 2, int(torch.randint(length, ()))
    return max(middle - half, 0), min(middle + half, length)
