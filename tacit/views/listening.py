"""What BYOL-A does to a spectrogram, and ATST after it: another sound in the background, and a resized crop of it.

Spectrograms are [B, 1, frames, bands]. What is random is the record's (`Heard`); which sound lies in the background is
found in the last ones heard (`Backgrounds`), which belong to the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.views.crop import Around
from tacit.views.masks import Sampler


@dataclass(frozen=True)
class Heard(Around):
    """An excerpt with what it takes to change it: `{"image", "loudness": [B], "pick": [B], "place": [B, 4]}`.

    loudness: of the background, uniform in [0, `background`); pick: which one, uniform in [0, 1)
    place:    (top, left, height, width) of the crop on a canvas that is `canvas` times as long as the excerpt, which
              lies in its middle; height a share from `time` of the frames, width one from `bands` of the bands, cut to
              the canvas
    sampler:  draws the mask [tokens, 1] of whole columns of `cell` frames, in "mask" then; after all else
    """

    background: float = 0.4
    canvas: float = 1.5
    time: tuple[float, float] = (0.6, 1.5)
    bands: tuple[float, float] = (0.6, 1.5)
    sampler: Sampler | None = None
    cell: int = 4

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        params = self.crop.draw(rng, height, width)
        frames, mels = self.inputs.shape
        loudness, pick = rng.random(2)
        most = int(frames * self.canvas), mels
        high, wide = (
            int(np.clip(int(rng.uniform(*scale) * n), 1, limit))
            for scale, n, limit in zip((self.time, self.bands), (frames, mels), most, strict=True)
        )
        place = [int(rng.integers(limit - n + 1)) for limit, n in zip(most, (high, wide), strict=True)]
        params |= {"loudness": self.background * loudness, "pick": pick, "place": np.array([*place, high, wide])}
        return params if self.sampler is None else params | {"mask": self.sampler(rng, frames // self.cell, 1)}

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        own = ("loudness", "pick", "place", *(() if self.sampler is None else ("mask",)))
        return self.crop.finish(images, params) | {name: params[name] for name in own}


class Backgrounds(nn.Module):
    """The last `length` spectrograms of each of several views, unmixed, the oldest overwritten first.

    `rows` [views, length, frames, bands] are of half precision. They and their count are buffers: checkpoints hold
    them. Every process has those that it has heard itself.
    """

    def __init__(self, views: int, length: int, shape: tuple[int, int]):
        super().__init__()
        self.register_buffer("rows", torch.zeros(views, length, *shape, dtype=torch.float16))
        self.register_buffer("heard", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def mixed(self, view: int, x: Tensor, loudness: Tensor, pick: Tensor) -> Tensor:
        """`x` with one of the view's last sounds behind it, as loud as `loudness` [B] says; alone if there are none."""
        held = min(int(self.heard), self.rows.shape[1])
        if not held:
            return x
        chosen = self.rows[view, (pick * held).long().clamp_max(held - 1)]
        return log_mixed(x, chosen[:, None].to(x.dtype), loudness)

    @torch.no_grad()
    def hear(self, images: Tensor) -> None:
        """Keep spectrograms [views, B, frames, bands], as they were before they were mixed."""
        length = self.rows.shape[1]
        images = images[:, -length:]
        places = (int(self.heard) + torch.arange(images.shape[1], device=images.device)) % length
        self.rows[:, places] = images.to(self.rows.dtype)
        self.heard += images.shape[1]


def log_mixed(x: Tensor, behind: Tensor, loudness: Tensor) -> Tensor:
    """log((1 - a) e^x + a e^z) for a = `loudness` [B] (Niizumi et al. 2021, BYOL-A, eq. 1; on values as they are)."""
    a = loudness.to(x).view(-1, 1, 1, 1)
    return ((1 - a) * x.exp() + a * behind.exp() + torch.finfo(x.dtype).eps).log()


@torch.no_grad()
def resized_crop(x: Tensor, place: Tensor, canvas: float) -> Tensor:
    """Crops of a canvas with `x` [B, 1, T, F] in its middle and 0 around, resized to T x F: bicubic, corner on corner.

    Args:
        place: [B, 4], top, left, height and width on the canvas. canvas: its length as a multiple of T.
    """
    spare = int(x.shape[2] * canvas) - x.shape[2]
    laid = F.pad(x, (0, 0, spare // 2, spare - spare // 2))
    out = torch.empty_like(x)
    for row, (top, left, high, wide) in enumerate(place.tolist()):
        crop = laid[row : row + 1, :, top : top + high, left : left + wide]
        out[row : row + 1] = F.interpolate(crop, x.shape[2:], mode="bicubic", align_corners=True)
    return out
