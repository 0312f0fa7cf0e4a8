"""The two unlike views of a picture that BYOL introduced and MoBY, MoCo v3 and VICReg share (Grill et al. 2020, B)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tacit.views.crop import Crop
from tacit.views.inputs import Inputs


def unlike_pair(
    inputs: Inputs, *, min_area: float, blur_sigma: tuple[float, float], names: tuple[str, str] = ("view 1", "view 2"),
    **changes: Any,
) -> list[Crop]:  # fmt: skip
    """The first always blurs and never solarises, the second blurs one in ten and solarises one in five.

    Args:
        min_area: smallest share of the picture's area in a crop. blur_sigma: range of the blur's radius, in pixels.
        changes: whatever else of `Crop` differs, in both.
    """
    shared = Crop(
        inputs=inputs, scale=(min_area, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8,
        gray_p=0.2, blur_sigma=blur_sigma, **changes,
    )  # fmt: skip
    return [
        replace(shared, name=names[0], blur_p=1.0, solarize_p=0.0),
        replace(shared, name=names[1], blur_p=0.1, solarize_p=0.2),
    ]
