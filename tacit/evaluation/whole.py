"""Whole pictures at sizes of their own, or squeezed into a square, and what an encoder makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tacit.data import Cut, Picture
from tacit.data.picture import EXTENSIONS
from tacit.errors import BadRecord, DataError
from tacit.views import Inputs


def fitted(height: float, width: float, scale: float, unit: int) -> tuple[int, int]:
    """(height, width) times `scale`, each to the nearest multiple of `unit`, and one of it at the least."""
    return tuple(max(round(side * scale / unit), 1) * unit for side in (height, width))


def square(picture: Picture, index: int, *, size: int, how: str) -> Cut:
    """All of it, squeezed into a square as in DINO's copy detection."""
    return Cut(0, 0, picture.height, picture.width, (size, size), how)


def scaled(picture: Picture, index: int, *, short: int, unit: int, how: str) -> Cut:
    """All of it with its short side at `short`, or at its own size with 0, to the nearest multiples of `unit`."""
    scale = short / min(picture.height, picture.width) if short else 1.0
    return Cut(0, 0, picture.height, picture.width, fitted(picture.height, picture.width, scale, unit), how)


def shrunk(picture: Picture, index: int, *, long: int, unit: int, how: str, boxes: Sequence | None = None) -> Cut:
    """All of it with its long side at most `long`, or the part in its box (left, top, right, bottom) at that scale.

    Raises `BadRecord` where a box holds no pixel of the picture.
    """
    box = boxes[index] if boxes is not None else None
    left, top, right, bottom = box if box is not None else (0, 0, picture.width, picture.height)
    left, top = max(left, 0), max(top, 0)
    height, width = min(bottom, picture.height) - top, min(right, picture.width) - left
    if height < 1 or width < 1:
        raise BadRecord(f"its box {tuple(box)} holds no pixel of {picture.width} x {picture.height}")
    scale = min(long / max(picture.height, picture.width), 1.0)
    return Cut(top, left, height, width, fitted(height, width, scale, unit), how)


@dataclass(frozen=True)
class Pictures(Dataset):
    """`self[i]`: (i, [C, H, W] float32 in [0, 1], ""), or (i, None, reason) for what cannot be read."""

    paths: tuple[Path, ...]
    cut: Callable[[Picture, int], Cut] | partial
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        try:
            picture = Picture(self.paths[index].read_bytes(), self.channels)
            return index, pixels(picture, self.cut(picture, index)), ""
        except OSError as error:
            return index, None, error.strerror or str(error)
        except BadRecord as error:
            return index, None, str(error)


def pixels(picture: Picture, cut: Cut) -> Tensor:
    """[C, H, W] float32 in [0, 1] of a cut."""
    (image,) = picture.crops([cut])
    image = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


@torch.no_grad()
def vectors(
    describe: Callable[[Tensor], Tensor],
    pictures: Pictures,
    inputs: Inputs,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, list[int], list[tuple[int, str]]]:
    """`describe` of prepared images [B, C, H, W]: features [N, D], which they are of, (which, why) of the others.

    Args:
        batch_size: over 1 only where all pictures come in one size.

    Raises:
        DataError: none can be read, or features that are no numbers.
    """
    rows, index, bad = [], [], []
    for batch in DataLoader(pictures, batch_size=batch_size, num_workers=workers, collate_fn=list):
        bad += [(i, why) for i, image, why in batch if image is None]
        good = [(i, image) for i, image, _ in batch if image is not None]
        if good:
            x = describe(inputs.prepare(torch.stack([image for _, image in good]).to(device))).float().cpu()
            if not torch.isfinite(x).all():
                raise DataError(f"The features of {pictures.paths[good[0][0]]} are not numbers: the encoder is broken.")
            rows.append(x)
            index += [i for i, _ in good]
        if progress is not None:
            progress(len(index) + len(bad), len(pictures))
    if not rows:
        raise DataError(f"None of {len(pictures):,} pictures can be read; {pictures.paths[bad[0][0]]}: {bad[0][1]}.")
    return torch.cat(rows), index, bad


def pictures_in(folder: Path) -> list[Path]:
    """Pictures in a folder and those in it, by name."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    return sorted(path for path in found if path.is_file())
