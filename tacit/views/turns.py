"""Views turned by quarters, and by how many (Gidaris et al. 2018, arXiv 1803.07728)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.data import Cut
from tacit.views.crop import Crop
from tacit.views.inputs import Inputs


@dataclass(frozen=True)
class Turned:
    """A crop turned clockwise by 0 to 3 quarters, each equally likely: `{"image": [B, C, H, H], "turn": [B]}`."""

    crop: Crop

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
        return self.crop.draw(rng, height, width) | {"turn": int(rng.integers(4))}

    def cut(self, params: dict[str, Any]) -> Cut:
        return self.crop.cut(params)

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.crop.finish(images, params)
        x = found["image"]
        for quarters in (1, 2, 3):
            rows = (params["turn"] == quarters).nonzero().flatten()
            x[rows] = x[rows].rot90(-quarters, (2, 3))
        return found | {"image": x, "turn": params["turn"]}
