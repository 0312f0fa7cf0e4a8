"""Shapes on textures with their masks, written as files in the plain layout, ADE20K's and VOC's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"circle": (220, 60, 50), "square": (60, 200, 80), "triangle": (70, 90, 230)}


def draw(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture [side, side, 3] uint8 and its mask [side, side] uint8: 0 background, 1 circle, 2 square, 3 triangle."""
    y, x = np.mgrid[:side, :side]
    texture = (
        110 + 30 * np.sin(x / rng.uniform(1, 4) + y / rng.uniform(1, 4))[..., None] + rng.normal(0, 12, (side, side, 3))
    )
    mask = np.zeros((side, side), np.uint8)
    for number in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
        radius = rng.uniform(0.15, 0.3) * side
        cy, cx = rng.uniform(radius, side - radius, 2)
        dy, dx = (y - cy) / radius, (x - cx) / radius
        inside = {1: dy**2 + dx**2 < 1, 2: np.maximum(abs(dy), abs(dx)) < 0.8, 3: (abs(dx) < (dy + 1) / 2) & (dy < 0.9)}
        mask[inside[int(number)]] = number
    colours = np.array([(0, 0, 0), *COLOURS.values()])[mask]
    picture = np.where(mask[..., None] > 0, colours + rng.normal(0, 15, (side, side, 3)), texture)
    return picture.clip(0, 255).astype(np.uint8), mask


def write_shapes(
    root: Path, train: int = 24, test: int = 12, side: int = 64, layout: str = "plain", seed: int = 0
) -> Path:
    """`train` and `test` pictures in one of the layouts of `open_segmentation`."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        names = [f"{part}_{i:03d}" for i in range(count)]
        where = {
            "plain": (root / part / "images", root / part / "masks"),
            "ade20k": tuple(
                root / k / ("training" if part == "train" else "validation") for k in ("images", "annotations")
            ),
            "voc": (root / "JPEGImages", root / "SegmentationClass"),
        }[layout]
        for folder in where:
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            picture, mask = draw(rng, side)
            Image.fromarray(picture).save(where[0] / f"{name}.{'png' if layout == 'plain' else 'jpg'}")
            stored = Image.fromarray(mask)
            if layout == "voc":
                stored.putpalette([v for c in range(256) for v in (c * 37 % 256, c * 91 % 256, c * 53 % 256)])
            stored.save(where[1] / f"{name}.png")
        if layout == "voc":
            listing = root / "ImageSets" / "Segmentation" / ("train.txt" if part == "train" else "val.txt")
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def write():
    return write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=16)
