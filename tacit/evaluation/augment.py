"""How fine-tuning changes its training images: RandAugment, random erasing and repeats, all drawn by the record."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from tacit.data import Batches
from tacit.data.batches import epoch_order
from tacit.views import Inputs, Views, rng

RANDAUGMENT = 1 << 41  # view numbers that no method has
ERASING = 1 << 42


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


class Augmented(Dataset):
    """Crops after RandAugment (Cubuk et al. 2020), with a number to draw erasing by; both of (seed, epoch, record).

    `augment`: torchvision's (operations, magnitude of 30), timm's settings as in "rand-m9-mstd0.5-inc1", or None.
    RandAugment is for colour pictures of bytes; others are left as they are.
    """

    def __init__(self, views: Views, augment: tuple[int, int] | str | None, inputs: Inputs):
        self.views = views
        if isinstance(augment, str):
            hints = {
                "translate_const": int(inputs.size * 0.45), "img_mean": tuple(round(255 * m) for m in inputs.mean),
                "interpolation": getattr(Image.Resampling, inputs.interpolation.upper()),
                "magnitude_max": 9.99,  # at 10 it posterizes to no bits, which Pillow refuses
            }  # fmt: skip
            change = rand_augment_transform(augment, hints)
            self.change = lambda x: np.asarray(change(Image.fromarray(x)))
        elif augment is not None:
            change = v2.RandAugment(*augment, interpolation=v2.InterpolationMode.BILINEAR)
            self.change = lambda x: change(torch.from_numpy(x.transpose(2, 0, 1))).numpy().transpose(1, 2, 0)
        else:
            self.change = None

    def __getitem__(self, key: tuple[int, int]) -> dict:
        sample = self.views[key]
        (crop,) = sample["crops"]
        if self.change is not None and crop.dtype == np.uint8 and crop.shape[2] == 3:
            with kept_generators():
                seed_generators(self._number(key[0], sample["index"], RANDAUGMENT))
                sample["crops"] = [self.change(crop.copy())]
        sample["params"][0]["erase"] = self._number(key[0], sample["index"], ERASING)
        return sample

    def _number(self, epoch: int, index: int, of: int) -> int:
        return int(rng(self.views.seed, epoch, index, of).integers(2**62))


def erase(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2020) in place, of normalised [B, C, H, W], image i drawn by number i of [B].

    With `probability` a rectangle of 2 to 33 % of the area, of sides at most 10 to 3, is filled with normal noise.
    """
    eraser = RandomErasing(probability, mode="pixel", device=images.device)
    with kept_generators():
        for image, number in zip(images, numbers.tolist(), strict=True):
            seed_generators(number)
            eraser(image)
    return images


class Repeated(Batches):
    """Repeated augmentation (Hoffer et al. 2020; DeiT takes three): a record stands in a batch `repeats` times.

    An epoch has as many steps as without, and meets the first 1 / repeats of its order. The repeats of a record have
    epoch numbers of their own, `epoch * repeats + repeat`, and so are drawn each by itself.
    """

    def __init__(self, *args, repeats: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.repeats = repeats

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for step in range(self.start_step, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.source, self.seed, epoch)
            first = step % self.steps_per_epoch * self.batch_size
            places = [divmod(place, self.repeats) for place in range(first, first + self.batch_size)]
            yield [(epoch * self.repeats + again, int(order[i])) for i, again in places]
