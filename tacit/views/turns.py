"""Views turned: by quarters, and by how many (Gidaris et al. 2018, arXiv 1803.07728), or a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class Tilted(Around):
    """A crop turned about its middle by an angle drawn from [-degrees, degrees], before anything is done to its values.

    What comes in at the corners is mirrored at the edges, not black: a black wedge would be a target of its own.
    """

    degrees: float = 10.0

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        return self.crop.draw(rng, height, width) | {"tilt": float(rng.uniform(-self.degrees, self.degrees))}

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        x = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        return self.crop.finish(tilt(x, params["tilt"]) if self.degrees else x, params)


def tilt(images: Tensor, degrees: Tensor) -> Tensor:
    """[B, C, H, W] turned clockwise by [B] degrees about the middle, bilinear, mirrored at the edges."""
    angle = degrees.to(images) * (torch.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    aspect = images.shape[2] / images.shape[3]  # `affine_grid` counts each side from -1 to 1
    rows = torch.stack([torch.stack([cos, sin * aspect, zero], 1), torch.stack([-sin / aspect, cos, zero], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
