"""Views turned by quarters, and by how many (Gidaris et al. 2018, arXiv 1803.07728)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.views.crop import Around


@dataclass(frozen=True)
class Turned(Around):
    """A crop turned clockwise by 0 to 3 quarters, each equally likely: `{"image": [B, C, H, H], "turn": [B]}`."""

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        return self.crop.draw(rng, height, width) | {"turn": int(rng.integers(4))}

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.crop.finish(images, params)
        x = found["image"]
        for quarters in (1, 2, 3):
            rows = (params["turn"] == quarters).nonzero().flatten()
            x[rows] = x[rows].rot90(-quarters, (2, 3))
        return found | {"image": x, "turn": params["turn"]}
