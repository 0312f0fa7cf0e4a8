"""How films are prepared for an encoder, and the view of a film: a piece of it, at a random time and place."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.data.film import FilmCut
from tacit.errors import UsageError
from tacit.views.crop import JITTERS, Crop
from tacit.views.inputs import Inputs, normalise

WAYS = ("vgg", "inception")
# DMVR's colours of films: brightness by so many of 255, saturation, contrast, and hue as a share of the circle.
COLOURS = (32 / 255, 0.4, 0.4, 0.2)
ORDER = tuple(JITTERS.index(name) for name in ("brightness", "saturation", "contrast", "hue"))


@dataclass(frozen=True)
class FilmInputs:
    """Films [3, frames, size, size], `rate` frames a second: values in [0, 1], then minus `mean`, over `std`.

    Of a film shorter than that the frames come round again. `crop` is the share of the short side that the centre crop
    of an evaluation keeps.
    """

    frames: int
    size: int
    rate: float
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bilinear"
    crop: float = 1.0

    channels: ClassVar[int] = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width of what the encoder sees."""
        return self.frames, self.size, self.size

    @property
    def seconds(self) -> float:
        """How long a piece lasts: its span."""
        return self.frames / self.rate

    def at(self, start: float) -> np.ndarray:
        """The times [frames] of a piece that begins at `start` seconds."""
        return start + np.arange(self.frames) / self.rate

    def centre(self, frames: int, rate: float, height: int, width: int) -> FilmCut:
        """The middle in time and place."""
        return self.windows(1, frames, rate, height, width)[0]

    def windows(self, n: int, frames: int, rate: float, height: int, width: int, places: int = 1) -> list[FilmCut]:
        """`n` pieces spread evenly from the beginning to the end of a film, or one from its middle; `places` crops of
        each, spread evenly along the longer side: n x places cuts, those of one time together."""
        free, side = max(frames / rate - self.seconds, 0.0), min(height, width) * self.crop
        shares = [0.5] if n == 1 else [k / (n - 1) for k in range(n)]
        along = [0.5] if places == 1 else [k / (places - 1) for k in range(places)]
        tall, size = height > width, (self.size, self.size)
        return [
            FilmCut(
                self.at(free * share), (height - side) * (place if tall else 0.5),
                (width - side) * (0.5 if tall else place), side, side, size, self.interpolation,
            )
            for share in shares
            for place in along
        ]  # fmt: skip

    def prepare(self, films: Tensor) -> Tensor:
        """uint8, or float in [0, 1], [B, 3, T, H, W] -> normalised float32."""
        x = films.float().div_(255) if films.dtype == torch.uint8 else films.float()
        return normalise(x.flatten(2, 3), self.mean, self.std).unflatten(2, films.shape[2:4])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "film"} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FilmInputs:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "kind"})


@dataclass(frozen=True)
class FilmClip:
    """A piece from a random time, cropped, flipped and coloured alike in all its frames.

    span:     seconds of the longest of the views that belong together, from whose beginning this one begins too; this
              one's own where it is longer
    way:      "vgg": the short side is resized to `resize` times the input's, height and width are each scaled by a
              factor from `jitter_scale` with chance `jitter_scale_p`, and a square of the input's size is cut from
              anywhere (DMVR; a frame that has become smaller than the square is taken whole along that side, where
              DMVR pads it). "inception": a crop of `scale` of the area with an aspect of `ratio` (the paper's)
    colours:  the most that (brightness, contrast, saturation, hue) change, in DMVR's order; brightness is added
    colours_p, gray_p: chances
    of:       the number of the view of the same list that this one begins with, if not by itself
    """

    inputs: FilmInputs
    name: str = "film"
    field: str = "video"
    span: float = 0.0
    of: int | None = None
    way: str = "vgg"
    resize: float = 256 / 224
    jitter_scale: tuple[float, float] = (0.8, 1.2)
    jitter_scale_p: float = 0.8
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colours: tuple[float, float, float, float] | None = COLOURS
    colours_p: float = 0.8
    gray_p: float = 0.0

    timed: ClassVar[bool] = True

    def __post_init__(self):
        if self.way not in WAYS:
            raise UsageError(f"way = {self.way!r}: choose one of {', '.join(WAYS)}.")

    @cached_property
    def _crop(self) -> Crop:
        """What is done to one picture is done to a film: to one as tall as all its frames."""
        return Crop(
            inputs=Inputs(self.inputs.size, 3, self.inputs.mean, self.inputs.std, self.inputs.interpolation),
            scale=self.scale, ratio=self.ratio, flip=self.flip, jitter=self.colours, jitter_p=self.colours_p,
            gray_p=self.gray_p, brightness_adds=True,
        )  # fmt: skip

    def notes(self) -> list[str]:
        return []

    def draw(
        self, rng: np.random.Generator, frames: int, rate: float, height: int, width: int, *, seconds: float
    ) -> dict[str, Any]:
        start = rng.random() * max(seconds - max(self.span, self.inputs.seconds), 0.0)
        if self.way == "vgg":
            top, left, h, w = self._square(rng, height, width)
            params = replace(self._crop, whole=True).draw(rng, h, w) | {"top": top, "left": left}
        else:
            params = self._crop.draw(rng, height, width)
        return params | {"order": ORDER, "start": start, "valid": True}

    def _square(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        u = rng.random(5)
        low, high = self.jitter_scale
        factors = low + (high - low) * u[1:3] if u[0] < self.jitter_scale_p else np.ones(2)
        side = min(height, width) / self.resize  # of the square, before the jitter, in pixels of the film
        h, w = (max(min(round(side / f), most), 1) for f, most in zip(factors, (height, width), strict=True))
        return int(u[3] * (height - h + 1)), int(u[4] * (width - w + 1)), h, w

    def cut(self, params: dict[str, Any]) -> FilmCut:
        size = (self.inputs.size, self.inputs.size)
        box = (params[k] for k in ("top", "left", "height", "width"))
        return FilmCut(self.inputs.at(params["start"]), *box, size, self.inputs.interpolation, params["flip"])

    def absent(self) -> tuple[np.ndarray, dict[str, Any]]:
        """What stands in for the film of a record that has none: grey."""
        rng, (frames, height, width) = np.random.default_rng(0), self.inputs.shape
        params = self.draw(rng, frames, self.inputs.rate, height, width, seconds=0.0)
        grey = np.full((frames, height, width, 3), 128, np.uint8)
        return grey, params | {"jitter": False, "gray": False, "flip": False, "valid": False}

    @torch.no_grad()
    def finish(self, films: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """[B, 3, T, H, W] uint8 -> `{"image": float32 [B, 3, T, H, W], "valid": [B] bool}`; 0 where not valid."""
        x = self._crop.finish(films.flatten(2, 3), params)["image"].unflatten(2, films.shape[2:4])
        if not params["valid"].all():
            x[~params["valid"]] = 0
        return {"image": x, "valid": params["valid"]}
