"""The image view of the joint-embedding systems: a random crop, a flip and photometry, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tacit.data import Cut
from tacit.views import photometry
from tacit.views.augment import erase, rand_augment
from tacit.views.inputs import Inputs

JITTERS = ("brightness", "contrast", "saturation", "hue")


class View(Protocol):
    """What one branch of a method sees. Parameters are drawn where the record is, pixels changed in batches."""

    name: str
    inputs: Inputs
    field: str  # the picture of the record it reads; `image` where there is no such attribute
    grouped: bool  # whether it is told the record's group; not where there is no such attribute

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        """Everything random about this view of a picture of that size."""
        ...

    def cut(self, params: dict[str, Any]) -> Cut:
        """What to read of the picture."""
        ...

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """[B, C, H, W] uint8 or float in [0, 1] and parameters [B] -> `{"image": float32 [B, C, H, W], …}`."""
        ...


@dataclass(frozen=True)
class Crop:
    """RandomResizedCrop, flip, colour jitter, grayscale, Gaussian blur, solarize, normalise; in that order.

    scale:   range of the crop's share of the area; `ratio` of its width to its height (torchvision's meaning)
    jitter:  (brightness, contrast, saturation, hue) of torchvision's ColorJitter, in a random order, chance jitter_p
    blur:    radius drawn from `blur_sigma`, in pixels, with chance blur_p; cut off at `blur_reach` pixels, or where a
             Gaussian of the largest radius has ended
    clip_sides: a crop that would not fit has its sides cut to the picture's, instead of being drawn again (BYOL)
    brightness_adds: jitter shifts brightness instead of scaling it (BYOL, SimCLR)
    field:   the picture of the record that is read; see `Source.fields`
    whole:   no crop: all of the picture, each side resized to the input's
    augment: RandAugment's settings, applied to the crop before all else (`rand_augment`); none by default
    erasing: chance that a rectangle is filled with noise, after all else (`erase`)
    """

    inputs: Inputs
    name: str = "crop"
    field: str = "image"
    whole: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] | None = None
    jitter_p: float = 0.0
    gray_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_reach: int | None = None
    clip_sides: bool = False
    brightness_adds: bool = False
    solarize_p: float = 0.0
    solarize_threshold: float = 128 / 255
    augment: tuple[int, int] | str | None = None
    erasing: float = 0.0

    def notes(self) -> list[str]:
        """What of this view does not apply to the channels at hand."""
        if self.inputs.channels != 3 and self.augment:
            return [f"{self.name}: {self.inputs.channels} channels are no colours, so RandAugment is left out."]
        if self.inputs.channels == 3 or not (self.jitter or self.gray_p):
            return []
        return [
            f"{self.name}: {self.inputs.channels} channels are not red, green and blue, so saturation, hue and "
            "grayscale are left out and contrast turns about the mean of the channels."
        ]

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        if self.whole:
            top, left, h, w = 0, 0, height, width
        else:
            area = clipped_area if self.clip_sides else random_area
            top, left, h, w = area(rng, height, width, self.scale, self.ratio)
        b, c, s, turn = self.jitter or (0.0, 0.0, 0.0, 0.0)
        u = rng.random(10)  # always all of them, so that a changed chance changes nothing else
        params = {
            "top": top,
            "left": left,
            "height": h,
            "width": w,
            "flip": bool(u[0] < self.flip),
            "jitter": bool(self.jitter) and bool(u[1] < self.jitter_p),
            "brightness": (not self.brightness_adds) + b * (2 * u[2] - 1),
            "contrast": 1 + c * (2 * u[3] - 1),
            "saturation": 1 + s * (2 * u[4] - 1),
            "hue": turn * (2 * u[5] - 1),
            "gray": bool(u[6] < self.gray_p),
            "blur": self._sigma(u[8]) if u[7] < self.blur_p else 0.0,
            "solarize": bool(u[9] < self.solarize_p),
            "order": tuple(int(i) for i in rng.permutation(4)),
        }
        for name in ("augment", "erasing"):  # a number to draw by, last, so that nothing else changes
            if getattr(self, name):
                params[name] = int(rng.integers(2**62))
        return params

    def _sigma(self, u: float) -> float:
        low, high = self.blur_sigma
        return low + (high - low) * u

    def cut(self, params: dict[str, Any]) -> Cut:
        size, how = (self.inputs.size, self.inputs.size), self.inputs.interpolation
        return Cut(*(params[k] for k in ("top", "left", "height", "width")), size, how, params["flip"])

    def change(self, pixels: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """What is done to a crop [H, W, C] where the record is read."""
        return rand_augment(pixels, self.augment, self.inputs, params["augment"]) if self.augment else pixels

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        if images.device.type == "cpu" and has_compiler():
            from tacit.views import fused

            x = fused.crops(images, params, self)
        else:
            x = self.photometry(images, params)
        return {"image": erase(x, params["erasing"], self.erasing) if self.erasing else x}

    def photometry(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        """All but erasing, in batches; what `fused` does to one record after another."""
        x = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if images.dtype == torch.uint8:
            x.div_(255)
        if self.jitter:
            self._jitter(x, params)
        _change(x, params["gray"], photometry.grayscale)
        if self.blur_p:
            reach = self.blur_reach or math.ceil(4 * self.blur_sigma[1])
            _change(x, params["blur"] > 0, photometry.gaussian_blur, params["blur"], reach)
        if self.solarize_p:
            _change(x, params["solarize"], photometry.solarize, self.solarize_threshold)
        return self.inputs.prepare(x)

    def _jitter(self, x: Tensor, params: dict[str, Tensor]) -> None:
        for place in range(4):
            for number, name in enumerate(JITTERS):
                rows = params["jitter"] & (params["order"][:, place] == number)
                how = photometry.shift if name == "brightness" and self.brightness_adds else getattr(photometry, name)
                _change(x, rows, how, params[name])


@dataclass(frozen=True)
class Around:
    """A crop that carries more: what such a view does not say otherwise is its crop's. Its own draws come after those
    of the crop, which is what it would be without."""

    crop: Crop | Around

    @property
    def name(self) -> str:
        return self.crop.name

    @property
    def inputs(self) -> Inputs:
        return self.crop.inputs

    @property
    def field(self) -> str:
        return self.crop.field

    @property
    def grouped(self) -> bool:
        return getattr(self.crop, "grouped", False)

    def notes(self) -> list[str]:
        return self.crop.notes()

    def cut(self, params: dict[str, Any]) -> Cut:
        return self.crop.cut(params)

    def change(self, pixels: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        return self.crop.change(pixels, params)


def compiles_first() -> bool:
    """Whether the first batch of a CPU waits while its loops are compiled, once on this machine."""
    if not has_compiler():
        return False
    from tacit.views import fused

    return not fused.kept()


@cache
def has_compiler() -> bool:
    """Whether numba, which there may be no build of for a new Python, is at hand."""
    return find_spec("numba") is not None


def _change(x: Tensor, rows: Tensor, how, *amounts) -> None:
    """Apply `how` to the records of `x` that `rows` [B] picks, in place, with their own amounts."""
    picked = rows.nonzero().flatten()
    if len(picked):
        x[picked] = how(x[picked], *(a[picked] if isinstance(a, Tensor) else a for a in amounts))


def random_area(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) as torchvision's RandomResizedCrop draws them: ten tries, then the centre."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = min(round(width / ratio[0]), height)
    elif width / height > ratio[1]:
        w = min(round(height * ratio[1]), width)
    return (height - h) // 2, (width - w) // 2, h, w


def clipped_area(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) drawn once, its sides cut to the picture's (Grill et al. 2020, the published code)."""
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w = min(max(round(math.sqrt(area * aspect)), 1), width)
    h = min(max(round(math.sqrt(area / aspect)), 1), height)
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
