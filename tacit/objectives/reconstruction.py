"""Reconstruction: pixels as targets, and means over what was hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, N, patch patch C], row by row; within a patch (row, column, channel), channels fastest."""
    x = images.unfold(2, patch, patch).unfold(3, patch, patch)  # [B, C, h, w, p, p]
    return x.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, rows: int, cols: int) -> Tensor:
    """The inverse of `patchify`: [B, rows cols, patch patch C] -> [B, C, rows patch, cols patch]."""
    x = patches.unflatten(1, (rows, cols)).unflatten(3, (patch, patch, -1))  # [B, h, w, p, p, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalise_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch [..., D] minus its mean, over the root of its unbiased variance + eps; channels as one (MAE, 3)."""
    patches = patches.float()
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + eps).sqrt()


def denormalise_patches(patches: Tensor, of: Tensor, eps: float = 1e-6) -> Tensor:
    """The inverse of `normalise_patches`, with the mean and variance of the patches `of`: both [..., D]."""
    of = of.float()
    return patches.float() * (of.var(-1, keepdim=True) + eps).sqrt() + of.mean(-1, keepdim=True)


def repainted(images: Tensor, mask: Tensor, predicted: Tensor, patch: int, normalised: bool) -> dict[str, Tensor]:
    """What reports show of a masked system: "input", "masked" and "reconstruction", each [B, C, H, W] as the images.

    Hidden patches are grey, which is 0 in prepared images, and then as predicted; visible ones stay as they are.

    Args:
        images: [B, C, H, W], prepared. mask: [B, h, w] bool, True where hidden. predicted: [B, h w, patch patch C].
        normalised: the predictions are of `normalise_patches`, and get their patch's own mean and variance back.
    """
    rows, cols = mask.shape[1:]
    hidden = mask.flatten(1).unsqueeze(-1)
    patches = patchify(images, patch)
    told = denormalise_patches(predicted, patches) if normalised else predicted
    shown = {"input": patches, "masked": patches.masked_fill(hidden, 0), "reconstruction": patches.where(~hidden, told)}
    return {name: unpatchify(x, patch, rows, cols) for name, x in shown.items()}


def repainted_picture(images: Tensor, mask: Tensor, picture: Tensor) -> dict[str, Tensor]:
    """`repainted` with a whole picture [B, C, h, w] of any size, prepared alike, in the place of predicted patches."""
    hidden = to_pixels(mask, images)
    picture = F.interpolate(picture.float(), images.shape[2:], mode="bilinear")
    return {"input": images, "masked": images.masked_fill(hidden, 0), "reconstruction": images.where(~hidden, picture)}


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True, of the whole batch as one; 0 if it is nowhere. Both [B, ...], one shape
    or broadcast to it; in float32."""
    mask = torch.broadcast_to(mask, values.shape)
    return (values.float() * mask).sum() / mask.sum().clamp_min(1)


def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean distance of values where `mask` is True, of the whole batch as one (GMML, official code), in float32.

    Args:
        prediction, target: [B, C, H, W], or any one shape. No gradient reaches the target.
        mask: bool, of that shape or broadcast to it; without, all values count.
    """
    distance = (prediction.float() - target.detach().float()).abs()
    return distance.mean() if mask is None else masked_mean(distance, mask)


def to_pixels(mask: Tensor, images: Tensor) -> Tensor:
    """A mask of patches [B, h, w] at the size of `images` [B, C, H, W], whose patches tile it: [B, 1, H, W]."""
    rows, cols = images.shape[2] // mask.shape[1], images.shape[3] // mask.shape[2]
    return mask.repeat_interleave(rows, 1).repeat_interleave(cols, 2).unsqueeze(1)


def window_statistics(images: Tensor, window: int, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and root of the unbiased variance + eps of the window around every pixel, each channel by itself.

    Two [B, C, H, W] in float32. Windows of odd side >= 3 are cut off at the edges, and their pixels counted.
    """
    x = images.float()
    centre = x.mean((2, 3), keepdim=True)  # of a difference of squares, small ones keep more digits
    x = x - centre
    mean, square = (F.avg_pool2d(y, window, 1, window // 2, count_include_pad=False) for y in (x, x.square()))
    count = F.avg_pool2d(torch.ones_like(x[:1, :1]), window, 1, window // 2, count_include_pad=True) * window**2
    variance = (square - mean.square()) * (count / (count - 1))
    return mean + centre, (variance.clamp_min(0) + eps).sqrt()


def normalise_windows(images: Tensor, window: int) -> Tensor:
    """Each pixel minus its window's mean, over its spread: the targets of Swin V2's SimMIM (its published code)."""
    mean, spread = window_statistics(images, window)
    return (images.float() - mean) / spread
