"""Images with masks: class numbers read as they are stored, paired with their pictures, record by record."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tacit.data import Picture
from tacit.errors import BadRecord, DataError, UsageError

IGNORE = -1  # in every mask that `Segmented` gives out; what the files use is the layout's


@dataclass(frozen=True)
class Segmented:
    """Records by number: `source[i]` is (Picture, mask [H, W] int16 of 0 … classes - 1 and `IGNORE`).

    images, masks: paths of equal order; names: what to call a record
    classes:       how many there are
    ignore:        the value in the files that counts as no class, or None
    zero_is_none:  0 is no class and 1 is the first (ADE20K's `reduce_zero_label`)
    foreground:    every value but 0 is class 1 (instance maps, black-and-white masks)
    skipped:       (name, reason) of files that were refused when the folder was listed
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    names: tuple[str, ...]
    classes: int
    ignore: int | None = 255
    zero_is_none: bool = False
    foreground: bool = False
    channels: int = 3
    title: str = ""
    skipped: tuple[tuple[str, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Picture, np.ndarray]:
        """Raises `BadRecord` for a file that cannot be read or a mask of another size than its image, and `DataError`
        for a value that is no class: that is not one bad file but a wrong number of classes."""
        picture = Picture(_bytes(self.images[index], "image"), self.channels)
        mask = self.mask(index)
        if mask.shape != (picture.height, picture.width):
            height, width = mask.shape
            raise BadRecord(f"the mask is {width} x {height}, the image {picture.width} x {picture.height}")
        return picture, mask

    def mask(self, index: int) -> np.ndarray:
        """Class numbers [H, W] int16, `IGNORE` where there is none."""
        values = stored_values(self.masks[index])
        if self.foreground:
            ignored = values == self.ignore if self.ignore is not None else np.zeros(values.shape, bool)
            return np.where(ignored, IGNORE, values != 0).astype(np.int16)
        mask = values.astype(np.int64) - self.zero_is_none
        if self.ignore is not None:
            mask[values == self.ignore] = IGNORE
        wrong = (mask >= self.classes) | (mask < (IGNORE if self.zero_is_none or self.ignore == -1 else 0))
        if self.ignore is not None:
            wrong &= values != self.ignore
        if wrong.any():
            first = int(self.zero_is_none)
            ignored = f", {self.ignore} is ignored" if self.ignore is not None else ""
            raise DataError(
                f"{self.masks[index]} holds the value {int(values[wrong].max())}; there are {self.classes} classes, "
                f"{first} to {self.classes - 1 + first}{ignored}. Set classes and ignore to what the masks mean, or "
                "foreground=True for maps of instances."
            )
        return mask.astype(np.int16)

    def select(self, rows: Sequence[int]) -> Segmented:
        """The records with these numbers."""
        chosen = {f: tuple(getattr(self, f)[int(i)] for i in rows) for f in ("images", "masks", "names")}
        return replace(self, **chosen)


def classes_in(source: Segmented) -> np.ndarray:
    """Which classes are in each mask: int8 [N, K] of 1 and 0; 0 throughout for masks that cannot be read."""
    found = np.zeros((len(source), source.classes), np.int8)
    for i in range(len(source)):
        try:
            there = np.unique(source.mask(i))
        except BadRecord:
            continue  # counted and reported when the record is read
        found[i, there[there != IGNORE]] = 1
    return found


def stored_values(path: Path) -> np.ndarray:
    """The integers of a mask file, [H, W]: palette and grey PNG or TIFF of 1, 8 or 16 bits, or .npy.

    Raises `BadRecord` with a short reason: nothing there, damaged, colours or fractions instead of class numbers.
    """
    data = _bytes(path, "mask")
    try:
        if data[:6] == b"\x93NUMPY":
            values = np.load(io.BytesIO(data), allow_pickle=False)
        elif path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            values = tifffile.imread(io.BytesIO(data))
        else:
            with Image.open(io.BytesIO(data)) as image:
                if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
                    raise BadRecord(f"the mask is a picture in {image.mode}, not of class numbers")
                values = np.asarray(image)
    except BadRecord:
        raise
    except UnidentifiedImageError as error:
        raise BadRecord("the mask is not an image") from error
    except Exception as error:  # decoders meet hostile bytes and raise nearly anything
        cut = any(words in str(error).lower() for words in ("truncated", "not enough", "broken", "end of"))
        what = "is truncated" if cut else f"cannot be decoded ({type(error).__name__})"
        raise BadRecord(f"the mask {what}") from error
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise BadRecord(f"the mask is an array {list(values.shape)} of {values.dtype}, not class numbers [H, W]")
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def _bytes(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadRecord(f"no such {what}") from error
    except OSError as error:
        raise BadRecord(f"the {what} cannot be read ({error.strerror})") from error
    if not data:
        raise BadRecord(f"the {what} is an empty file")
    return data


def count_classes(masks: Sequence[Path], *, ignore: int | None, zero_is_none: bool = False) -> int:
    """The largest class number of the masks and one: what there is when nobody says how many classes there are.

    Raises `DataError` where that cannot be what is meant: instance maps, black and white, one class.
    """
    seen: set[int] = set()
    for path in masks:
        try:
            seen |= set(np.unique(stored_values(path)).tolist())
        except BadRecord:
            continue  # counted and reported when the record is read
    where = masks[0].parent if masks else "the folder"
    if not seen:
        raise DataError(f"None of the {len(masks):,} masks of {where} can be read.")
    if len(seen) == 2 and 0 in seen and max(seen) > 1:
        raise DataError(
            f"The masks of {where} hold the values 0 and {max(seen)} only. Set foreground=True to read them as "
            "background and foreground, or classes to how many there are."
        )
    named = seen - {ignore} - ({0} if zero_is_none else set())
    if len(named) < 2:
        raise DataError(f"The masks of {where} hold one class ({sorted(seen)}); there is nothing to tell apart.")
    if max(named) > 1000:
        raise DataError(
            f"The masks of {where} hold values up to {max(named)}. Maps of instances are read with foreground=True; "
            "set classes if these are classes."
        )
    return max(named) + 1 - zero_is_none


def check_same_classes(train: Segmented, test: Segmented) -> None:
    if (train.classes, train.channels) != (test.classes, test.channels):
        raise UsageError(
            f"The training masks have {train.classes} classes and {train.channels} channels, the test masks "
            f"{test.classes} and {test.channels}. Open both with the same classes and channels."
        )
