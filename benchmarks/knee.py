"""A made set in MRNet's layout: volumes with the build of a joint, some with an effusion on a few slices.

Every exam has bones, a gap, fat around and a slow bias of its own; all of it changes smoothly from slice to slice, so
that neighbours are alike. On five to nine neighbouring slices there is a bright oval with soft edges: fluid in the gap
in a positive, fat of the same size and brightness away from it in a negative. So neither the mean of a slice nor the
number of slices says anything of the label; where the oval lies among the bones does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

PLANES = ("axial", "coronal", "sagittal")


def smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...]) -> np.ndarray:
    """A field [shape] of deviation about one that changes over so many cells."""
    return zoom(rng.normal(size=cells), np.array(shape) / cells, order=3)[tuple(slice(n) for n in shape)]


def volume(rng: np.random.Generator, positive: bool, side: int = 64) -> np.ndarray:
    """[S, side, side] uint8, S from 17 to 30."""
    count = int(rng.integers(17, 31))
    z = np.linspace(-1, 1, count)[:, None, None]
    y, x = np.meshgrid(*(np.linspace(-1, 1, side),) * 2, indexing="ij")
    centre, tilt, wide = rng.normal(0, 0.08, 2), rng.normal(0, 0.2, 2), rng.uniform(0.5, 0.7)
    reach = np.sqrt((1.15 - z**2).clip(0.05))
    u, v = x - centre[0] - tilt[0] * z * 0.3, y - centre[1] - tilt[1] * z * 0.3
    body = 1 / (1 + np.exp((np.hypot(u, v) - 0.95 * reach) * 25))
    gap = rng.uniform(0.05, 0.12) + 0.03 * np.cos(3 * u + rng.uniform(0, 6))
    bone = (np.abs(v) > gap) * (np.abs(u) < wide * reach) * (np.abs(v) < 0.8 * reach)
    image = 0.35 * body + rng.uniform(0.2, 0.35) * gaussian_filter(bone.astype(float), (0.7, 1.2, 1.2))
    image += 0.05 * body * smooth(rng, image.shape, (6, 8, 8))
    half, wide, high = int(rng.integers(2, 5)), rng.uniform(0.2, 0.35), rng.uniform(0.1, 0.16)
    s, side_of = int(rng.integers(half, count - half)), rng.choice([-1, 1])
    fluid, fat = (
        (rng.uniform(-0.25, 0.25), rng.normal(0, 0.04)),
        (rng.uniform(-0.5, 0.5), side_of * rng.uniform(0.4, 0.65)),
    )
    at = fluid if positive else fat
    oval = np.exp(-(((u - at[0]) / wide) ** 2 + ((v - at[1]) / high) ** 2))
    image[s - half : s + half + 1] += 0.3 * oval[s - half : s + half + 1]
    image *= 1 + 0.12 * smooth(rng, image.shape, (3, 3, 3))
    image += rng.normal(0, 0.02, image.shape)
    return (image.clip(0, 1.2) / 1.2 * 255).astype(np.uint8)


def make(
    folder: Path, exams: dict[str, int], *, planes: tuple[str, ...] = ("sagittal",), side: int = 64,
    prevalence: float = 0.5, task: str = "lesion", seed: int = 0,
) -> Path:  # fmt: skip
    """`exams` by part, as {"train": 200, "valid": 120}; `{part}/{plane}/0000.npy` and `{part}-{task}.csv`."""
    number = 0
    for part, count in exams.items():
        rng = np.random.default_rng([seed, number])
        labels = rng.permutation(np.arange(count) < round(prevalence * count)).astype(int)
        lines = []
        for label in labels.tolist():
            for k, plane in enumerate(planes):
                target = folder / part / plane / f"{number:04d}.npy"
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(target, volume(np.random.default_rng([seed, number, k + 1]), bool(label), side))
            lines.append(f"{number:04d},{label}")
            number += 1
        (folder / f"{part}-{task}.csv").write_text("\n".join(lines) + "\n")
    return folder
