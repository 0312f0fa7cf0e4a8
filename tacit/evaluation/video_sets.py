"""Videos with a mask a frame, in DAVIS's layout or in plain folders, and how their files are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tacit.data import Cut, Picture
from tacit.data.picture import EXTENSIONS
from tacit.errors import BadRecord, DataError

VOID = 255  # of the palette: neither object nor background; DAVIS counts it as background here


class Video(NamedTuple):
    """Frames in their order, and the palette mask of each."""

    name: str
    frames: list[Path]
    masks: list[Path]


def open_videos(root: str | os.PathLike, split: str = "val", resolution: str = "480p") -> list[Video]:
    """The videos of a DAVIS folder (see `davis`), or of frames/VIDEO/ with masks/VIDEO/ of equal stems (.png).

    Raises:
        DataError: neither layout, or files that are missing.
    """
    root = Path(root)
    if (root / "ImageSets").is_dir():
        return davis(root, split, resolution)
    if not (root / "frames").is_dir() or not (root / "masks").is_dir():
        raise DataError(
            f"{root} is not laid out as videos. It must hold JPEGImages/{resolution}, Annotations/{resolution} and "
            f"ImageSets/2017/{split}.txt (DAVIS-2017), or frames/VIDEO/ with pictures and masks/VIDEO/ with palette "
            ".png of equal stems."
        )
    names = sorted(path.name for path in (root / "frames").iterdir() if path.is_dir())
    if not names:
        raise DataError(f"{root / 'frames'} holds no folder; each video has one of its own, with its frames.")
    return [_video(name, root / "frames" / name, root / "masks" / name, EXTENSIONS) for name in names]


def davis(root: str | os.PathLike, split: str = "val", resolution: str = "480p") -> list[Video]:
    """The videos that ImageSets/2017/SPLIT.txt names, in JPEGImages/RESOLUTION and Annotations/RESOLUTION.

    Raises:
        DataError: a list or folder is not there, a frame lacks its mask, or a video has fewer than three frames.
    """
    listing = Path(root) / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.is_file():
        raise DataError(f"{listing} does not exist. Give the folder that holds ImageSets, JPEGImages and Annotations.")
    frames, masks = (Path(root) / folder / resolution for folder in ("JPEGImages", "Annotations"))
    names = filter(None, map(str.strip, listing.read_text(encoding="utf-8").splitlines()))
    videos = [_video(name, frames / name, masks / name, {".jpg"}) for name in names]
    if not videos:
        raise DataError(f"{listing} names no video.")
    return videos


def _video(name: str, frames: Path, masks: Path, endings: frozenset[str] | set[str]) -> Video:
    found = sorted(path for path in frames.glob("*") if path.suffix.lower() in endings and path.name[0] != ".")
    wanted = [masks / f"{frame.stem}.png" for frame in found]
    if len(found) < 3:
        what = ".jpg frames" if endings == {".jpg"} else "frames"
        raise DataError(
            f"{frames} holds {len(found)} {what}; the first is given and the last is not scored, so at least 3 are "
            "needed."
        )
    if lost := [mask for mask in wanted if not mask.is_file()]:
        raise DataError(f"{lost[0]} does not exist ({len(lost)} of {len(wanted)} masks of {name} are missing).")
    return Video(name, found, wanted)


def read_mask(path: Path) -> np.ndarray:
    """[H, W] uint8, the numbers of objects; `DataError` for what is no palette mask."""
    try:
        with Image.open(path) as image:
            mask = np.asarray(image)
    except OSError as error:
        raise DataError(f"{path} cannot be read as a mask: {error}") from error
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{path} is no palette mask: its pixels must be numbers of objects, one byte each.")
    return mask


def read_frame(path: Path, size: tuple[int, int], full: tuple[int, int], channels: int, how: str) -> Tensor:
    """[C, *size] of a frame that must be `full` (height, width) as its mask is; `DataError` where it is not."""
    try:
        picture = Picture(path.read_bytes(), channels)
        (pixels,) = picture.crops([Cut(0, 0, picture.height, picture.width, size, how)])
    except BadRecord as error:
        raise DataError(f"{path}: {error}.") from error
    if (picture.height, picture.width) != full:
        raise DataError(f"{path} is {picture.height} x {picture.width}, its mask {full[0]} x {full[1]}.")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
