"""What training does to an image and its objects: flips, one of many sizes, and DETR's crop between two of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Target = dict[str, Tensor]


def augment(
    image: Tensor,
    target: Target,
    rng: np.random.Generator,
    *,
    shorts: Sequence[int],
    long: int,
    crop_shorts: Sequence[int] = (),
    crop: tuple[int, int] = (384, 600),
) -> tuple[Tensor, Target]:
    """One draw of the training pipeline for an image [C, H, W].

    Flip with probability 1/2; then a resize to one of `shorts`; where `crop_shorts` is not empty, in half of the cases
    a resize to one of them and a crop with sides from `crop` come before (Carion et al. 2020, as in Swin's recipe).
    """
    if rng.random() < 0.5:
        image, target = flip(image, target)
    if len(crop_shorts) and rng.random() < 0.5:
        image, target = resize(image, target, int(rng.choice(crop_shorts)), long)
        h, w = (int(rng.integers(min(n, crop[0]), min(n, crop[1]) + 1)) for n in image.shape[-2:])
        top, left = (int(rng.integers(n - k + 1)) for n, k in zip(image.shape[-2:], (h, w), strict=True))
        image, target = cut(image, target, top, left, h, w)
    return resize(image, target, int(rng.choice(shorts)), long)


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Left and right exchanged."""
    width = image.shape[-1]
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    found = {**target, "boxes": target["boxes"].new_empty(len(x1), 4)}
    for i, column in enumerate((width - x2, y1, width - x1, y2)):
        found["boxes"][:, i] = column
    if "masks" in target:
        found["masks"] = target["masks"].flip(-1)
    return image.flip(-1), found


def resize(image: Tensor, target: Target, short: int, long: int) -> tuple[Tensor, Target]:
    """The short side becomes `short`, or less, so that the long one is at most `long`. Shapes are kept."""
    h, w = image.shape[-2:]
    scale = min(short / min(h, w), long / max(h, w))
    size = [max(round(h * scale), 1), max(round(w * scale), 1)]
    found = dict(target)
    ratio = target["boxes"].new_tensor([size[1] / w, size[0] / h] * 2)
    found["boxes"] = target["boxes"] * ratio
    if "masks" in target:
        masks = target["masks"][:, None].float()
        found["masks"] = (
            F.interpolate(masks, size=size)[:, 0].byte() if len(masks) else masks.new_zeros(0, *size).byte()
        )
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], found


def cut(image: Tensor, target: Target, top: int, left: int, height: int, width: int) -> tuple[Tensor, Target]:
    """The rectangle alone, and the objects that reach into it; there may be none."""
    boxes = target["boxes"] - target["boxes"].new_tensor([left, top] * 2)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    stay = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    found = {**target, "boxes": boxes[stay], "labels": target["labels"][stay]}
    if "masks" in target:
        found["masks"] = target["masks"][stay, top : top + height, left : left + width]
    return image[:, top : top + height, left : left + width], found
