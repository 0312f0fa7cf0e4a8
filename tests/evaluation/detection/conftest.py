"""Images with coloured shapes, their boxes and masks, as a COCO file; nothing here needs an optional package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

NAMES = {3: "circle", 7: "square", 20: "triangle"}  # ids with gaps


def draw(kind: int, x: float, y: float, r: float) -> list[float]:
    """Outline of a shape within r of (x, y), as COCO's polygon."""
    if kind == 3:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = [(x + r * np.cos(a), y + r * np.sin(a)) for a in angles]
    elif kind == 7:
        points = [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    else:
        points = [(x, y - r), (x + r, y + r), (x - r, y + r)]
    return [float(round(v, 2)) for point in points for v in point]


def write_shapes(folder: Path, count: int, *, size: int = 64, seed: int = 0, most: int = 2) -> Path:
    """`count` images size x size + 16 of up to `most` shapes, one in eight without any; returns the COCO file."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        h, w = size, size + 16 * (i % 2)
        image = Image.fromarray(rng.integers(0, 60, (h, w, 3), dtype=np.uint8))
        for _ in range(0 if i % 8 == 7 else int(rng.integers(1, most + 1))):
            kind, r = int(rng.choice(list(NAMES))), float(rng.uniform(size / 8, size / 4))
            x, y = rng.uniform(r, w - r), rng.uniform(r, h - r)
            outline = draw(kind, x, y, r)
            colour = {3: (230, 60, 60), 7: (60, 230, 60), 20: (60, 60, 230)}[kind]
            ImageDraw.Draw(image).polygon(outline, fill=colour)
            xs, ys = outline[0::2], outline[1::2]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": 10 + i, "category_id": kind, "iscrowd": 0,
                    "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                    "area": (max(xs) - min(xs)) * (max(ys) - min(ys)), "segmentation": [outline],
                }
            )  # fmt: skip
        image.save(folder / f"bild-é{i:03d}.png")
        images.append({"id": 10 + i, "file_name": f"bild-é{i:03d}.png", "height": h, "width": w})
    categories = [{"id": k, "name": v} for k, v in NAMES.items()]
    about = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "shapes.json").write_text(json.dumps(about), encoding="utf-8")
    return folder / "shapes.json"


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """16 images of 64 x 64 and 64 x 80 pixels, two of them empty."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), 16)


@pytest.fixture
def edited(shapes, tmp_path):
    """A copy of the annotations, after a change made by the test, beside the images where they lie."""

    def edit(change) -> Path:
        about = json.loads(shapes.read_text(encoding="utf-8"))
        change(about)
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(about), encoding="utf-8")
        return path

    return edit
