"""Testing a segmentation network on whole images or tiles, at one scale or averaged over several and mirror images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tacit.data import Cut, Picture
from tacit.evaluation.dense.crops import scaled
from tacit.evaluation.dense.finetune import FineTune
from tacit.evaluation.dense.grids import as_floats
from tacit.evaluation.dense.heads import upsample
from tacit.evaluation.dense.upernet import UPerNet

Logits = Callable[[Tensor], Tensor]  # [1, C, H, W] -> [1, K, H, W]


@torch.no_grad()
def segment_picture(model: UPerNet, picture: Picture, s: FineTune, device: torch.device | str = "cpu") -> np.ndarray:
    """Classes [H, W] of one picture at its own size; `model` in eval mode.

    The probabilities at every scale of `s.test_ratios`, and of the mirror images with `s.test_flip`, are averaged.
    """
    total, inputs = 0.0, model.encoder.inputs
    for ratio in s.test_ratios:
        size = scaled(picture.height, picture.width, s.short * ratio, s.long * ratio)
        (pixels,) = picture.crops([Cut(0, 0, picture.height, picture.width, size)])
        x = torch.from_numpy(as_floats(np.ascontiguousarray(pixels))).permute(2, 0, 1)[None].to(device)
        x = inputs.prepare(x)
        for flipped in (False, True) if s.test_flip else (False,):
            logits = _forward(model, x.flip(3) if flipped else x, s)
            logits = upsample(logits.flip(3) if flipped else logits, (picture.height, picture.width))
            total = total + logits.softmax(1)
    return total.argmax(1)[0].cpu().numpy()


def _forward(model: UPerNet, x: Tensor, s: FineTune) -> Tensor:
    return tiled(lambda part: model(part)[0], x, s.crop) if s.test == "slide" else model(x)[0]


def tiled(logits: Logits, x: Tensor, crop: int) -> Tensor:
    """Logits of [1, C, H, W] by tiles of side `crop`, two thirds of it apart, averaged where they overlap.

    The last tile of a row or column ends at the border.
    """
    total, count = 0.0, x.new_zeros(1, 1, *x.shape[2:])
    stride = max(crop * 2 // 3, 1)
    tops, lefts = (sorted({min(i, max(n - crop, 0)) for i in range(0, n, stride)}) for n in x.shape[2:])
    for top in tops:
        for left in lefts:
            area = (..., slice(top, top + crop), slice(left, left + crop))
            part = logits(x[area])
            if not torch.is_tensor(total):
                total = part.new_zeros(1, part.shape[1], *x.shape[2:])
            total[area] += part
            count[area] += 1
    return total / count
