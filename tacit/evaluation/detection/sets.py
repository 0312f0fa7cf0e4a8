"""Images with objects: what every reader gives, and what a detector and the scorer take from it."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.data import Picture
from tacit.errors import BadRecord, DataError
from tacit.evaluation.detection.masks import decode_mask, read_map

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """One object: box (x1, y1, x2, y2) in pixels, half-open; label from 1; `mask` as the file has it, or None.

    A mask is a list of polygons, a run-length code, or the object's value in the scene's instance map. Crowds are left
    out of training and ignored by the score, as in COCO.
    """

    box: Box
    label: int
    area: float
    crowd: bool = False
    mask: Any = None


@dataclass(frozen=True)
class Scene:
    """One image and what is in it; an image with no objects is a negative and stays."""

    id: int
    path: Path
    height: int
    width: int
    things: tuple[Thing, ...] = ()
    map: Path | None = None  # 16-bit instance map, for masks given as values


@dataclass(frozen=True)
class DetectionSet:
    """`skipped` names every image or object that was left out, and why; `clipped` counts boxes cut at the border."""

    scenes: tuple[Scene, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the file, which may have gaps; label i is category_ids[i - 1]
    masks: bool
    skipped: tuple[tuple[str, str], ...] = field(default=())
    clipped: int = 0

    def __len__(self) -> int:
        return len(self.scenes)

    def select(self, rows: list[int] | np.ndarray) -> DetectionSet:
        return replace(self, scenes=tuple(self.scenes[i] for i in rows))

    def __str__(self) -> str:
        things = sum(len(s.things) for s in self.scenes)
        empty = sum(not s.things for s in self.scenes)
        parts = [f"{len(self):,} images ({empty:,} without objects), {things:,} objects of {len(self.classes)} classes"]
        reasons = Counter(reason.split(":")[0] for _, reason in self.skipped)
        parts += [f"{count:,} left out: {reason}" for reason, count in reasons.most_common()]
        if self.clipped:
            parts.append(f"{self.clipped:,} boxes clipped to their image")
        return "; ".join(parts)


def fit_box(box: Any, height: int, width: int) -> tuple[Box, bool]:
    """A box (x1, y1, x2, y2) inside the image, and whether it had to be clipped for more than rounding (1 pixel).

    Raises `BadRecord` for a box that is not four finite numbers, has no area, or lies outside.
    """
    try:
        x1, y1, x2, y2 = (float(v) for v in box)
    except (TypeError, ValueError) as error:
        raise BadRecord(f"a box is not four numbers: {box!r}"[:120]) from error
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        raise BadRecord(f"a box is not four numbers: {box}")
    if x2 <= x1 or y2 <= y1:
        raise BadRecord(f"a box has no area: x {x1:g} to {x2:g}, y {y1:g} to {y2:g}")
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise BadRecord(f"a box lies outside its image: x {x1:g} to {x2:g}, y {y1:g} to {y2:g} of {width} x {height}")
    return inside, max(abs(a - b) for a, b in zip(inside, (x1, y1, x2, y2), strict=True)) > 1


def check_set(found: DetectionSet, where: Path) -> DetectionSet:
    """`found`, or a DataError that names the first thing wrong when nothing is left to learn from."""
    if not found.scenes:
        first = f"; the first: {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise DataError(f"{where} holds no image that can be used ({len(found.skipped):,} left out{first}).")
    if not any(s.things for s in found.scenes):
        raise DataError(f"{where} holds images but no object that can be used. {found}.")
    return found


def read_image(scene: Scene, channels: int = 3) -> Tensor:
    """Float32 [C, H, W] in [0, 1]. Raises `BadRecord` when it cannot be read or is not of the annotated size."""
    try:
        pixels = Picture(scene.path.read_bytes(), channels).array()
    except OSError as error:
        raise BadRecord(f"cannot be read ({type(error).__name__})") from error
    if pixels.shape[:2] != (scene.height, scene.width):
        raise BadRecord(
            f"is {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotations say {scene.width} x {scene.height}"
        )
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def target(scene: Scene, masks: bool = False) -> dict[str, Tensor]:
    """What torchvision's detectors are trained on: boxes [N, 4], labels [N] and masks [N, H, W] uint8; no crowds."""
    things = [t for t in scene.things if not t.crowd]
    found = {
        "boxes": torch.tensor([t.box for t in things], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([t.label for t in things], dtype=torch.int64),
    }
    if masks:
        instances = None if scene.map is None else read_map(scene.map)
        drawn = [decode_mask(t.mask, scene.height, scene.width, instances) for t in things]
        found["masks"] = (
            torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, scene.height, scene.width).byte()
        )
    return found


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name; accents may be one character on disk and two in the annotations, or the other way."""
    for form in (None, "NFC", "NFD"):
        file = folder / (unicodedata.normalize(form, name) if form else name)
        if file.is_file():
            return file
    return None


def image_size(path: Path) -> tuple[int, int]:
    try:
        picture = Picture(path.read_bytes())
    except OSError as error:
        raise BadRecord(f"cannot be read ({type(error).__name__})") from error
    return picture.height, picture.width
