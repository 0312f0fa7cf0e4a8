"""Masks of patches, drawn where the record is: functions of a generator and a grid, and the view that carries one.

A mask is [rows, cols] bool, True where the patch is hidden from the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data import Cut
from tacit.views.crop import Crop
from tacit.views.inputs import Inputs

Sampler = Callable[[np.random.Generator, int, int], np.ndarray]


def random_mask(rng: np.random.Generator, rows: int, cols: int, *, ratio: float, unit: int = 1) -> np.ndarray:
    """Units of `unit` x `unit` patches, each as likely as any other; int(units (1 - ratio)) of them stay (MAE, 3).

    The count is the same for every record, so that what stays can be stacked.
    """
    high, wide = rows // unit, cols // unit
    hidden = np.ones(high * wide, dtype=bool)
    hidden[rng.permutation(high * wide)[: int(high * wide * (1 - ratio))]] = False
    return hidden.reshape(high, wide).repeat(unit, 0).repeat(unit, 1)


def ratio_problems(ratio: float, patches: int, setting: str = "mask_ratio") -> list[str]:
    """Why `random_mask` with that ratio leaves nothing visible, or nothing hidden, of so many patches; or empty."""
    visible = int(patches * (1 - ratio))
    if 0 < visible < patches:
        return []
    what = "none visible" if visible < 1 else "none hidden"
    if patches < 2:
        return [f"{setting} = {ratio:g}: leaves {what} of {patches} patch. Choose a larger size or a smaller patch."]
    most = math.floor(1000 * (1 - 1 / patches) - 1e-6) / 1000
    return [f"{setting} = {ratio:g}: leaves {what} of {patches} patches. Choose one from {1 / patches:.3g} to {most}."]


@dataclass(frozen=True)
class Masked:
    """A crop with a mask of its patches: `{"image": [B, C, H, W], "mask": [B, H / cell, W / cell] bool}`.

    sampler: draws the mask, from the record's own generator and after the crop, so that the crop is what it would be
    without; a function, or `functools.partial` of one, that processes can share. cell: pixels of a patch's side.
    """

    crop: Crop
    sampler: Sampler
    cell: int

    @property
    def name(self) -> str:
        return self.crop.name

    @property
    def inputs(self) -> Inputs:
        return self.crop.inputs

    @property
    def field(self) -> str:
        return self.crop.field

    def notes(self) -> list[str]:
        return self.crop.notes()

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        grid = self.inputs.size // self.cell
        return self.crop.draw(rng, height, width) | {"mask": self.sampler(rng, grid, grid)}

    def cut(self, params: dict[str, Any]) -> Cut:
        return self.crop.cut(params)

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.crop.finish(images, params) | {"mask": params["mask"]}
