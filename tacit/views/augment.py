"""RandAugment and random erasing, as timm and torchvision do them, each image by a number of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tacit.views.inputs import Inputs


@contextmanager
def kept_generators() -> Iterator[None]:
    """The generators of Python, NumPy and torch (of the CPU) are afterwards where they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def seed_generators(seed: int) -> None:
    """Those three, and no generator of a GPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  timm draws there
    torch.random.default_generator.manual_seed(seed)


def rand_augment(picture: np.ndarray, augment: tuple[int, int] | str, inputs: Inputs, number: int) -> np.ndarray:
    """RandAugment (Cubuk et al. 2020) of a picture [H, W, 3] of bytes, drawn by `number`; others stay as they are.

    `augment`: torchvision's (operations, magnitude of 30), or timm's settings as in "rand-m9-mstd0.5-inc1".
    """
    if picture.dtype != np.uint8 or picture.shape[2] != 3:
        return picture
    with kept_generators():
        seed_generators(number)
        return _change(augment, inputs)(picture.copy())


@lru_cache(maxsize=16)
def _change(augment: tuple[int, int] | str, inputs: Inputs) -> Callable[[np.ndarray], np.ndarray]:
    from PIL import Image

    if isinstance(augment, str):
        from timm.data.auto_augment import rand_augment_transform

        hints = {
            "translate_const": int(inputs.size * 0.45), "img_mean": tuple(round(255 * m) for m in inputs.mean),
            "interpolation": getattr(Image.Resampling, inputs.interpolation.upper()),
            "magnitude_max": 9.99,  # at 10 it posterizes to no bits, which Pillow refuses
        }  # fmt: skip
        change = rand_augment_transform(augment, hints)
        return lambda x: np.asarray(change(Image.fromarray(x)))
    from torchvision.transforms import v2

    change = v2.RandAugment(*augment, interpolation=v2.InterpolationMode.BILINEAR)
    return lambda x: change(torch.from_numpy(x.transpose(2, 0, 1))).numpy().transpose(1, 2, 0)


def erase(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2020) in place, of normalised [B, C, H, W], image i drawn by number i of [B].

    With `probability` a rectangle of 2 to 33 % of the area, of sides at most 10 to 3, is filled with normal noise.
    """
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(probability, mode="pixel", device="cpu")  # noise of a GPU would be no image's own
    with kept_generators():
        for image, number in zip(images, numbers.tolist(), strict=True):
            seed_generators(number)
            eraser(image)
    return images
