"""Masks of patches, drawn where the record is: functions of a generator and a grid, and the view that carries one.

A mask is [rows, cols] bool, True where the patch is hidden from the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from tacit.views.crop import Around

Sampler = Callable[[np.random.Generator, int, int], np.ndarray]


def random_mask(rng: np.random.Generator, rows: int, cols: int, *, ratio: float, unit: int = 1) -> np.ndarray:
    """Units of `unit` x `unit` patches, each as likely as any other; int(units (1 - ratio)) of them stay (MAE, 3).

    The count is the same for every record, so that what stays can be stacked.
    """
    high, wide = rows // unit, cols // unit
    hidden = np.ones(high * wide, dtype=bool)
    hidden[rng.permutation(high * wide)[: int(high * wide * (1 - ratio))]] = False
    return hidden.reshape(high, wide).repeat(unit, 0).repeat(unit, 1)


def counted_mask(rng: np.random.Generator, rows: int, cols: int, *, count: int) -> np.ndarray:
    """`count` patches, each as likely as any other."""
    hidden = np.zeros(rows * cols, dtype=bool)
    hidden[rng.permutation(rows * cols)[:count]] = True
    return hidden.reshape(rows, cols)


def span_mask(rng: np.random.Generator, rows: int, cols: int, *, ratio: float, span: int) -> np.ndarray:
    """Spans of `span` rows that may overlap, each over all columns (Baevski et al. 2020, wav2vec 2.0; ATST-Frame).

    There are floor(rows ratio / span + u) of them for a uniform u, two at least, with different first rows, none of
    which is the last that is possible (official code). Since they overlap, much less than `ratio` is hidden: half, of
    250 rows with spans of 5 and a ratio of .65.
    """
    count = min(max(int(rows * ratio / span + rng.random()), 2), rows - span)
    first = rng.choice(rows - span, count, replace=False)
    hidden = np.zeros((rows, cols), dtype=bool)
    hidden[(first[:, None] + np.arange(span)).ravel()] = True
    return hidden


def span_problems(rows: int, ratio: float, span: int) -> list[str]:
    """Why `span_mask` cannot hide and leave some of so many rows; empty when it can."""
    if rows >= 2 * span + 1:
        return []
    return [
        f"mask_span = {span}: {rows} frames have no room for two such spans and something between. Set mask_span="
        f"{max((rows - 1) // 2, 1)} or less, or a larger size."
    ]


def ratio_problems(ratio: float, patches: int, setting: str = "mask_ratio") -> list[str]:
    """Why `random_mask` with that ratio leaves nothing visible, or nothing hidden, of so many patches; or empty."""
    visible = int(patches * (1 - ratio))
    if 0 < visible < patches:
        return []
    what = "none visible" if visible < 1 else "none hidden"
    if patches < 2:
        return [f"{setting} = {ratio:g}: leaves {what} of {patches} patch. Choose a larger size or a smaller patch."]
    most = math.floor(1000 * (1 - 1 / patches) - 1e-6) / 1000
    return [f"{setting} = {ratio:g}: leaves {what} of {patches} patches. Choose one from {1 / patches:.3g} to {most}."]


def block_mask(
    rng: np.random.Generator, rows: int, cols: int, *, count: int, smallest: int = 4, largest: int | None = None,
    aspect: tuple[float, float] = (0.3, 1 / 0.3), tries: int | None = 10,
) -> np.ndarray:  # fmt: skip
    """Rectangles that may overlap, until `count` patches are hidden (Bao et al. 2021, BEiT, algorithm 1).

    A rectangle's area is uniform between `smallest` and what is still to be hidden, `largest` at most, its height over
    its width log-uniform in `aspect`; it never spans the whole grid in either direction, nor hides more than is left.
    Where `tries` in a row do not fit, a little less than `count` is hidden; never more.

    Args:
        tries: nothing to go on until it is exactly `count` (BEiT's code, CAE).
        largest: patches of one rectangle at most; half of the grid by default (DINOv2).
    """
    largest = rows * cols // 2 if largest is None else largest
    hidden = np.zeros((rows, cols), dtype=bool)
    low, high = (math.log(a) for a in aspect)
    left, failed = count, 0
    while left > 0 and (tries is None or failed < tries):
        limit = min(left, largest)
        area = smallest + (limit - smallest) * rng.random()
        shape = math.exp(low + (high - low) * rng.random())
        h, w = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        failed += 1
        if h >= rows or w >= cols:
            continue
        top, start = int(rng.integers(rows - h + 1)), int(rng.integers(cols - w + 1))
        block = hidden[top : top + h, start : start + w]
        new = int(block.size - block.sum())
        if 0 < new <= limit:
            block[:] = True
            left, failed = left - new, 0
    return hidden


def sometimes_blocks(
    rng: np.random.Generator, rows: int, cols: int, *, share: float, ratio: tuple[float, float], smallest: int = 4
) -> np.ndarray:
    """`block_mask` of a ratio uniform in `ratio`, with chance `share`; otherwise nothing is hidden (iBOT, DINOv2)."""
    chosen, u = rng.random(2)
    if chosen >= share:
        return np.zeros((rows, cols), dtype=bool)
    count = int(rows * cols * (ratio[0] + (ratio[1] - ratio[0]) * u))
    return block_mask(rng, rows, cols, count=count, smallest=smallest)


def multi_block_masks(
    rng: np.random.Generator, rows: int, cols: int, *, targets: int = 4, scale: tuple[float, float] = (0.15, 0.2),
    aspect: tuple[float, float] = (0.75, 1.5), context: tuple[float, float] = (0.85, 1.0), tries: int = 20,
) -> np.ndarray:  # fmt: skip
    """Blocks to be told from a context that holds none of them, [1 + targets, rows, cols] (Assran et al. 2023, I-JEPA).

    The first mask leaves the context: a square of a share of the grid uniform in `context`, without the targets. Each
    other mask hides one target. A record's targets have one shape, of a share uniform in `scale` and a height over
    width uniform in `aspect`; they may overlap. Where nothing is left of the context all is drawn anew.

    Raises:
        ValueError: nothing was left `tries` times: the grid is too small for so many blocks of that share.
    """
    for _ in range(tries):
        high, wide = _sides(rows, cols, rng.uniform(*scale), rng.uniform(*aspect))
        blocks = np.stack([_placed(rng, rows, cols, high, wide) for _ in range(targets)])
        seen = _placed(rng, rows, cols, *_sides(rows, cols, rng.uniform(*context), 1.0)) & ~blocks.any(0)
        if seen.any():
            return np.concatenate([~seen[None], blocks])
    raise ValueError(
        f"{targets} blocks of {scale} of {rows} x {cols} patches leave no context. Ask for fewer or smaller."
    )


def _sides(rows: int, cols: int, share: float, aspect: float) -> tuple[int, int]:
    """Height and width of a block of that share of the grid, which has at least a patch and fits in."""
    area = rows * cols * share
    high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(high, 1), rows), min(max(wide, 1), cols)


def _placed(rng: np.random.Generator, rows: int, cols: int, high: int, wide: int) -> np.ndarray:
    mask = np.zeros((rows, cols), dtype=bool)
    top, left = int(rng.integers(rows - high + 1)), int(rng.integers(cols - wide + 1))
    mask[top : top + high, left : left + wide] = True
    return mask


def tube_mask(rng: np.random.Generator, frames: int, rows: int, cols: int, *, ratio: float) -> np.ndarray:
    """One `random_mask` for all frames, [frames, rows, cols], so that nothing can be copied from another frame (Tong et
    al. 2022, VideoMAE, 3.3)."""
    return np.broadcast_to(random_mask(rng, rows, cols, ratio=ratio), (frames, rows, cols)).copy()


def block_problems(grid: int, ratio: tuple[float, float], smallest: int) -> list[str]:
    """Why `block_mask` cannot hide these shares of grid x grid patches in blocks; empty when it can."""
    found, patches = [], grid * grid
    if not 0 < ratio[0] <= ratio[1] < 1 or int(patches * ratio[0]) < 1:
        found.append(
            f"mask_ratio = {ratio[0]:g},{ratio[1]:g}: must rise from one patch or more ({1 / patches:.3g} of the "
            f"{grid} x {grid}) to less than 1, or nothing is hidden or nothing is left."
        )
    if smallest > (grid - 1) ** 2:
        found.append(
            f"mask_block = {smallest}: blocks are smaller than the grid in both directions, and one of {grid} x {grid} "
            f"patches has room for {(grid - 1) ** 2}. Take smaller patches, larger inputs or a smaller mask_block."
        )
    return found


def exact_mask(count: int, smallest: int | None) -> Sampler:
    """A sampler that hides just `count` patches: in blocks of `smallest` and more (BEiT), or each by itself (None)."""
    if smallest is None:
        return partial(counted_mask, count=count)
    return partial(block_mask, count=count, smallest=smallest, largest=count, tries=None)


def count_problems(grid: int, ratio: float, smallest: int) -> list[str]:
    """Why int(ratio patches) of grid x grid cannot be hidden, in blocks of `smallest` or more; empty when they can."""
    count, patches = int(grid**2 * ratio), grid**2
    if not 0 < count < patches:
        return [
            f"mask_ratio = {ratio:g}: hides {count} of {patches} patches, and both hidden and visible ones are needed. "
            + ("Set mask_ratio=0.5." if patches > 1 else "Choose a larger size or a smaller patch.")
        ]
    return [line for line in block_problems(grid, (ratio, ratio), smallest) if line.startswith("mask_block")]


@dataclass(frozen=True)
class Masked(Around):
    """A crop with a mask of its patches: `{"image": [B, C, H, W], "mask": [B, H / cell, W / cell] bool}`.

    sampler: draws the mask, from the record's own generator and after the crop, so that the crop is what it would be
    without; a function, or `functools.partial` of one, that processes can share. cell: pixels of a patch's side.
    """

    sampler: Sampler
    cell: int

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        grid = self.inputs.size // self.cell
        return self.crop.draw(rng, height, width) | {"mask": self.sampler(rng, grid, grid)}

    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.crop.finish(images, params) | {"mask": params["mask"]}
