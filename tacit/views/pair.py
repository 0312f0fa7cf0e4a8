"""The two unlike views of a picture that BYOL introduced and MoBY, MoCo v3 and VICReg share (Grill et al. 2020, B)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tacit.errors import UsageError
from tacit.views.crop import Crop
from tacit.views.inputs import Inputs

SIT_PAIRS = ("harsh", "light", "alike")


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


def sit_pair(kind: str, inputs: Inputs, min_area: float, blur_sigma: tuple[float, float]) -> list[Crop]:
    """The views of SiT's published versions (official code).

    Args:
        kind: "harsh" for `unlike_pair` (December 2022). "light" for a first that hardly changes colours and blurs one
            in ten, and a second that always blurs and solarises one in five (June 2022). "alike" for two that always
            change brightness, contrast and saturation, never hue, and never blur (2021).

    Raises:
        UsageError: another kind.
    """
    if kind not in SIT_PAIRS:
        raise UsageError(f"kind = {kind!r}: choose one of {', '.join(SIT_PAIRS)}.")
    first, second = unlike_pair(inputs, min_area=min_area, blur_sigma=blur_sigma)
    if kind == "light":
        light = {"jitter": (0.1, 0.1, 0.1, 0.01), "jitter_p": 0.3, "gray_p": 0.0, "blur_p": 0.1}
        return [replace(first, **light), replace(second, blur_p=1.0)]
    if kind == "alike":
        crop = Crop(inputs=inputs, scale=(min_area, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0)
        return [replace(crop, name=one.name) for one in (first, second)]
    return [first, second]
