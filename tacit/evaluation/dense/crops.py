"""Training crops of images with their masks: scale, crop, flip and photometric distortion, drawn record by record.

The pipeline of mmsegmentation's ADE20K recipes (MoBY dossier, section 7), on floats instead of bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tacit.data import Cut
from tacit.errors import BadRecord, DataError
from tacit.evaluation.dense.grids import as_floats, nearest
from tacit.evaluation.dense.masks import IGNORE, Segmented
from tacit.views import Inputs, rng
from tacit.views.photometry import hue

TRIES = 20


def scaled(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The size at which the short side is `short`, or the long one `long` where it would be longer."""
    factor = min(short / min(height, width), long / max(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


class Crops(Dataset):
    """`self[(epoch, index)]`: {"image": [C, S, S] prepared, "mask": [S, S], "bad": [(name, reason), …]}.

    Draws depend on (seed, epoch, index) alone. A record that cannot be read is replaced by another and reported.
    `s` is a `finetune.FineTune`.
    """

    def __init__(self, source: Segmented, inputs: Inputs, s: Any, seed: int):
        self.source, self.inputs, self.s, self.seed = source, inputs, s, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        draws, bad = rng(self.seed, epoch, index, 0), []
        for _ in range(TRIES):
            try:
                image, mask = self._crop(index, draws)
                break
            except BadRecord as error:
                bad.append((self.source.names[index], str(error)))
                index = int(draws.integers(len(self.source)))
        else:
            raise DataError(f"{TRIES} records in a row cannot be read, the last: {bad[-1][0]}: {bad[-1][1]}.")
        x = self.inputs.prepare(distort(image[None], draws) if self.s.distort else image[None])[0]
        side = self.s.crop
        whole = x.new_zeros(len(x), side, side)  # the mean colour, as the recipe pads
        whole[:, : x.shape[1], : x.shape[2]] = x
        y = np.full((side, side), IGNORE, np.int16)
        y[: mask.shape[0], : mask.shape[1]] = mask
        return {"image": whole, "mask": torch.from_numpy(y), "bad": bad}

    def _crop(self, index: int, draws: np.random.Generator) -> tuple[Tensor, np.ndarray]:
        """A crop of the rescaled picture, cut from the file's own pixels, no larger than the rescaled picture is."""
        picture, mask = self.source[index]
        ratio = draws.uniform(*self.s.ratio)
        height, width = scaled(picture.height, picture.width, self.s.short * ratio, self.s.long * ratio)
        h, w = min(self.s.crop, height), min(self.s.crop, width)
        small = nearest(mask, height, width)
        for _ in range(10):
            top, left = int(draws.integers(height - h + 1)), int(draws.integers(width - w + 1))
            part = small[top : top + h, left : left + w]
            counts = np.bincount(part[part != IGNORE], minlength=1)
            if self.s.largest_share >= 1 or counts.max() < self.s.largest_share * counts.sum():
                break
        fy, fx = picture.height / height, picture.width / width
        flip = bool(draws.random() < 0.5)
        (pixels,) = picture.crops([Cut(top * fy, left * fx, h * fy, w * fx, (h, w), flip=flip)])
        part = part[:, ::-1] if flip else part
        return torch.from_numpy(as_floats(np.ascontiguousarray(pixels))).permute(2, 0, 1), part


def distort(x: Tensor, draws: np.random.Generator) -> Tensor:
    """Photometric distortion of [1, C, H, W] in [0, 1]: each with probability one half, brightness by up to 32 / 255
    added, contrast and saturation times .5 to 1.5, hue by up to 18 / 180 of the circle; contrast before or after the
    colours by a coin."""
    half = lambda: draws.random() < 0.5  # noqa: E731
    if half():
        x = x + draws.uniform(-32, 32) / 255
    early = half()
    if early and half():
        x = x * draws.uniform(0.5, 1.5)
    x = x.clamp(0, 1)
    if half():
        x = hsv_saturation(x, draws.uniform(0.5, 1.5))
    if half():
        x = hue(x, torch.full((1,), draws.uniform(-18, 18) / 180))
    if not early and half():
        x = x * draws.uniform(0.5, 1.5)
    return x.clamp(0, 1)


def hsv_saturation(x: Tensor, factor: float) -> Tensor:
    """Times `factor` in HSV, at most 1; hue and value stay. [B, 3, H, W]; other channel counts are left as they are."""
    if x.shape[1] != 3:
        return x
    value = x.amax(1, keepdim=True)
    saturation = (value - x.amin(1, keepdim=True)) / value.clamp_min(1e-12)
    change = (saturation * factor).clamp(max=1) / saturation.clamp_min(1e-12)
    return value - (value - x) * change
