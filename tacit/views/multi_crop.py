"""Two large crops and some small ones of a picture (Caron et al. 2020, SwAV; 2021, DINO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tacit.views.crop import Crop
from tacit.views.inputs import Inputs
from tacit.views.masks import Masked, sometimes_blocks


def multi_crop(
    inputs: Inputs, local_crops: int | Sequence[int], local_size: int | Sequence[int], global_area: tuple[float, float],
    local_area: tuple[float, float], blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> list[Crop]:  # fmt: skip
    """DINO's: the first large crop always blurs, the second one in ten and solarises one in five, small ones half.

    In the order of their sizes, the two large ones first, as a loss over pairs of views needs them. Several numbers of
    small crops go with as many sizes.
    """
    shared = Crop(inputs=inputs, flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray_p=0.2, blur_sigma=blur_sigma)
    large = [replace(shared, blur_p=1.0), replace(shared, blur_p=0.1, solarize_p=0.2)]
    return _named(large, replace(shared, blur_p=0.5), local_crops, local_size, global_area, local_area)


def masked_multi_crop(
    inputs: Inputs, local_crops: int, local_size: int, global_area: tuple[float, float],
    local_area: tuple[float, float], blur_sigma: tuple[float, float], *, cell: int, as_released: bool = False,
    **masks: Any,
) -> list[Crop | Masked]:  # fmt: skip
    """DINOv2's: DINO's with a blur of 9 pixels, and on the two large ones `sometimes_blocks(**masks)` of `cell` pixels.

    The released code blurs with one minus the chance it is given: `as_released` does that too, never in the first large
    crop, nine times in ten in the second, and half the time in the small ones, as intended.
    """
    crops = multi_crop(inputs, local_crops, local_size, global_area, local_area, blur_sigma)
    crops = [replace(crop, blur_reach=4, blur_p=1 - crop.blur_p if as_released else crop.blur_p) for crop in crops]
    sampler = partial(sometimes_blocks, **masks)
    return [*(Masked(crop, sampler, cell) for crop in crops[:2]), *crops[2:]]


def equal_multi_crop(
    inputs: Inputs, local_crops: int, local_size: int, global_area: tuple[float, float],
    local_area: tuple[float, float], blur_sigma: tuple[float, float] = (0.1, 2.0), jitter_strength: float = 1.0,
) -> list[Crop]:  # fmt: skip
    """SwAV's: all crops change colours alike, twice as strongly as DINO's, blur half the time and never solarise.

    In the order of their sizes, the two large ones first (Caron et al. 2020, section 3.2 and the official code).
    """
    jitter = tuple(jitter_strength * reach for reach in (0.8, 0.8, 0.8, 0.2))
    crop = Crop(inputs=inputs, flip=0.5, jitter=jitter, jitter_p=0.8, gray_p=0.2, blur_p=0.5, blur_sigma=blur_sigma)
    return _named([crop, crop], crop, local_crops, local_size, global_area, local_area)


def augmented_multi_crop(
    inputs: Inputs, local_crops: int | Sequence[int], local_size: int | Sequence[int],
    augment: str = "rand-m9-mstd0.5-inc1", erasing: float = 0.25,
) -> list[Crop]:  # fmt: skip
    """Crops of all sizes as for training with labels (DeiT: Touvron et al. 2021; EsViT's `deit_aug`).

    RandAugment and random erasing, no jitter, blur or solarisation; each holds 8 to 100 % of the picture, small or not.
    """
    crop = Crop(inputs=inputs, flip=0.5, augment=augment, erasing=erasing)
    return _named([crop, crop], crop, local_crops, local_size, crop.scale, crop.scale)


def _named(
    large: list[Crop], small: Crop, local_crops: int | Sequence[int], local_size: int | Sequence[int],
    global_area: tuple[float, float], local_area: tuple[float, float],
) -> list[Crop]:  # fmt: skip
    counts = [local_crops] if isinstance(local_crops, int) else local_crops
    sizes = [local_size] if isinstance(local_size, int) else local_size
    inputs = [replace(small.inputs, size=size) for count, size in zip(counts, sizes, strict=True) for _ in range(count)]
    return [
        *(replace(crop, name=f"global {i + 1}", scale=global_area) for i, crop in enumerate(large)),
        *(replace(small, name=f"local {i + 1}", inputs=one, scale=local_area) for i, one in enumerate(inputs)),
    ]
