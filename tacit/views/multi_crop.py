"""Two large crops and some small ones of a picture (Caron et al. 2020, SwAV; 2021, DINO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tacit.views.crop import Crop
from tacit.views.inputs import Inputs


def multi_crop(
    inputs: Inputs, local_crops: int | Sequence[int], local_size: int | Sequence[int], global_area: tuple[float, float],
    local_area: tuple[float, float], blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> list[Crop]:  # fmt: skip
    """DINO's: the first large crop always blurs, the second one in ten and solarises one in five, small ones half.

    In the order of their sizes, the two large ones first, as a loss over pairs of views needs them. Several numbers of
    small crops go with as many sizes.
    """
    shared = Crop(inputs=inputs, flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray_p=0.2, blur_sigma=blur_sigma)
    counts = [local_crops] if isinstance(local_crops, int) else local_crops
    sizes = [local_size] if isinstance(local_size, int) else local_size
    small = [replace(inputs, size=size) for count, size in zip(counts, sizes, strict=True) for _ in range(count)]
    return [
        replace(shared, name="global 1", scale=global_area, blur_p=1.0),
        replace(shared, name="global 2", scale=global_area, blur_p=0.1, solarize_p=0.2),
        *(
            replace(shared, name=f"local {i + 1}", inputs=one, scale=local_area, blur_p=0.5)
            for i, one in enumerate(small)
        ),
    ]
