"""How the inputs of an encoder are prepared. It travels with the encoder, through every verb and every export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tacit.data import Cut

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Inputs:
    """Images [channels, size, size]: values in [0, 1], then minus `mean`, over `std`.

    `crop` is the share of the short side that the centre crop of an evaluation keeps.
    """

    size: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 0.875

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the encoder sees; other inputs are no squares."""
        return self.size, self.size

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Inputs:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def centre(self, height: int, width: int) -> Cut:
        """Resize the short side to size / crop and take the centre, as one cut."""
        side = min(height, width) * self.crop
        return Cut((height - side) / 2, (width - side) / 2, side, side, (self.size, self.size), self.interpolation)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8, or float in [0, 1], [B, C, H, W] -> normalised float32."""
        x = images.to(torch.float32, memory_format=torch.contiguous_format)
        return normalise(x.div_(255) if images.dtype == torch.uint8 else x, self.mean, self.std)


def normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """[B, C, H, W] minus mean over std, per channel."""
    shape = (1, -1, 1, 1)
    return (x - x.new_tensor(mean).view(shape)) / x.new_tensor(std).view(shape)


def input_spec(
    size: int,
    channels: int = 3,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str = "bilinear",
) -> Inputs:
    """Inputs with ImageNet's statistics, or their averages where the channels are not red, green and blue.

    Small inputs (up to 96 pixels) are not cut for evaluation: there is no border to lose.
    """
    mean = mean or (IMAGENET_MEAN if channels == 3 else (sum(IMAGENET_MEAN) / 3,) * channels)
    std = std or (IMAGENET_STD if channels == 3 else (sum(IMAGENET_STD) / 3,) * channels)
    return Inputs(size, channels, tuple(mean), tuple(std), interpolation, crop=1.0 if size <= 96 else 0.875)
