"""Volumes of slices as scanners and people keep them: .npy, NIfTI, series of DICOM files; read, or refused by name."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.unpack import damage
from tacit.errors import BadRecord, MissingExtra

PLANES = ("sagittal", "coronal", "axial")  # slices that follow each other along x, y and z of the body
THICK = 1.5  # a voxel so many times longer in one direction than in the others says which way slices follow
SQUARE = 1.25  # most that a pixel may be longer than wide; crops stretch a picture by a third
CLIP = (0.5, 99.5)  # percentiles


@dataclass(frozen=True)
class Volume:
    """slices: [S, H, W] of numbers. plane: one of `PLANES`, or "" where the file does not say. patient: a digest."""

    slices: np.ndarray
    plane: str = ""
    patient: str = ""


@dataclass(frozen=True)
class Range:
    """What a series' values are between, at the percentiles `CLIP`, and of the values in [0, 1] between them mean and
    mean square."""

    low: float
    high: float
    mean: float
    square: float


class trouble(damage):
    """Turns whatever a reader of foreign files raises into `BadRecord`."""

    def __exit__(self, kind, error, trace) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, OSError) and error.strerror:
            raise BadRecord(f"cannot be read ({error.strerror})") from error
        if isinstance(error, Exception) and not isinstance(error, BadRecord | MissingExtra):
            raise BadRecord(f"damaged, or not what its name says ({type(error).__name__})") from error


def read_npy(path: Path) -> Volume:
    """[S, H, W], memory-mapped.

    Raises:
        BadRecord: pickled objects, a damaged file, or slices that are not first.
    """
    try:
        with trouble():
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except BadRecord as error:
        if any(word in str(error.__cause__) for word in ("pickle", "Python objects")):
            raise BadRecord("pickled objects, which are not loaded; store an array of numbers") from error
        raise
    if not isinstance(array, np.ndarray):
        raise BadRecord("several arrays; store one a file")
    if array.ndim == 3 and array.shape[0] == array.shape[1] > array.shape[2]:
        raise BadRecord(f"slices seem to be last in {list(array.shape)}; they must be first, as [S, H, W]")
    return Volume(array)


def read_nifti(path: Path, plane: str = "") -> Volume:
    """[S, H, W] towards the right, the front or the head; rows from the head or front, columns from front or right.

    Args:
        plane: how to cut where voxels are about as long in all directions. Thick slices stay what they are.

    Raises:
        MissingExtra: nibabel is not installed. BadRecord: not three dimensions, or spacing that is none.
    """
    nibabel = _module("nibabel", "NIfTI volumes")
    with trouble():
        image = nibabel.load(path)
        shape = tuple(image.shape)
    if len(shape) < 3 or any(n > 1 for n in shape[3:]):
        raise BadRecord(f"{len(shape)} dimensions, {list(shape)}; a volume has 3")
    with trouble():
        zooms, affine = np.array(image.header.get_zooms()[:3], dtype=np.float64), np.asarray(image.affine)
    if not (np.isfinite(zooms).all() and (zooms > 0).all() and np.isfinite(affine).all()) or not np.linalg.det(
        affine[:3, :3]
    ):
        raise BadRecord(f"voxels of {_by(zooms)} mm, or axes that span no space")
    with trouble():
        image = nibabel.as_closest_canonical(image)
        array = np.asarray(image.dataobj).reshape(image.shape[:3])
        zooms = np.array(image.header.get_zooms()[:3], dtype=np.float64)
    natural = _thick(zooms)
    axis = PLANES.index(natural or plane) if natural or plane else None
    if axis is None:
        raise BadRecord("voxels as long as wide, so slices can be cut in any plane; say which, as in plane=sagittal")
    _check_pixels(np.delete(zooms, axis))
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    return Volume(np.moveaxis(array, axis, 0)[:, ::-1, ::-1].transpose(0, 2, 1), natural or plane)


def _thick(zooms: np.ndarray) -> str:
    order = np.argsort(zooms)
    return PLANES[order[2]] if zooms[order[2]] > THICK * zooms[order[1]] else ""


def _check_pixels(spacing: Iterable[float]) -> None:
    wide, long = sorted(float(s) for s in spacing)
    if not (np.isfinite([wide, long]).all() and wide > 0):
        raise BadRecord(f"pixels of {_by((wide, long))} mm")
    if long > SQUARE * wide:
        raise BadRecord(f"pixels of {_by((wide, long))} mm, which are not square")


def _by(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths)


def _module(name: str, of: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"reading {of}", name, "volumes") from error


def is_dicom(path: Path) -> bool:
    """By its ending, or, without one, by the letters DICM behind 128 bytes."""
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_series(files: Sequence[Path]) -> tuple[dict[tuple[str, str], list[Path]], list[tuple[Path, str]]]:
    """Files by (study, series), from their headers; and those that have none, as (file, reason)."""
    dicom = _module("pydicom", "DICOM series")
    found: dict[tuple[str, str], list[Path]] = {}
    bad = []
    for path in files:
        try:
            with trouble():
                head = dicom.dcmread(path, stop_before_pixels=True)
                uids = (str(head.get("StudyInstanceUID", "")), str(head.get("SeriesInstanceUID", "")))
        except BadRecord as error:
            bad.append((path, str(error)))
        else:
            found.setdefault(uids, []).append(path)
    return found, bad


def read_dicom(files: Sequence[Path]) -> Volume:
    """The slices of a series in the order of their places, towards the right, the front or the head, as stored.

    Raises:
        MissingExtra: pydicom is not installed. BadRecord: several orientations or sizes, a slice that is missing or
            there twice, colour, several frames a file, or pixels that cannot be decoded.
    """
    dicom = _module("pydicom", "DICOM series")
    with trouble():
        heads = [dicom.dcmread(path) for path in files]
    if any(int(h.get("NumberOfFrames", 1) or 1) > 1 for h in heads):
        raise BadRecord("several frames in a file; export one a file, or NIfTI")
    if any(int(h.get("SamplesPerPixel", 1)) != 1 for h in heads):
        raise BadRecord("pictures in colour; a series has one channel")
    if len(sizes := {(h.get("Rows"), h.get("Columns")) for h in heads}) > 1:
        raise BadRecord(f"slices of {len(sizes)} sizes")
    for h in heads:
        if h.get("PixelSpacing") is not None:
            _check_pixels(h.PixelSpacing)
    order, plane = _ordered(heads)
    with trouble():
        slices = np.stack([_pixels(heads[i]) for i in order])
    patient = str(heads[0].get("PatientID", "") or "")
    digest = hashlib.blake2b(patient.encode(), digest_size=8).hexdigest() if patient else ""  # no name is kept
    return Volume(slices, plane, digest)


def _pixels(head: Any) -> np.ndarray:
    values = head.pixel_array.astype(np.float32) * float(head.get("RescaleSlope", 1) or 1)
    values += float(head.get("RescaleIntercept", 0) or 0)
    return -values if head.get("PhotometricInterpretation") == "MONOCHROME1" else values


def _ordered(heads: Sequence[Any]) -> tuple[list[int], str]:
    """Slices in their order, and the plane they lie in."""
    numbers = [h.get("InstanceNumber") for h in heads]
    names = [str(i if n is None else int(n)) for i, n in enumerate(numbers)]
    axes, places = ([h.get(f"Image{what}Patient") for h in heads] for what in ("Orientation", "Position"))
    if any(x is None for x in (*axes, *places)):
        if None in numbers:
            raise BadRecord("slices without places and numbers")
        where, plane = np.array(numbers, dtype=np.float64), ""
    else:
        axes = np.array(axes, dtype=np.float64)
        if np.abs(axes - axes[0]).max() > 0.01:
            raise BadRecord("slices of several orientations in one series, as of a localiser")
        normal = np.cross(axes[0, :3], axes[0, 3:])
        main = int(np.abs(normal).argmax())
        towards = np.sign(normal[main]) * (1 if main == 2 else -1)  # DICOM counts to the left and the back
        where, plane = np.array(places, dtype=np.float64) @ normal * towards, PLANES[main]
    order = np.argsort(where, kind="stable").tolist()
    gaps = np.diff(where[order])
    if not len(gaps):
        return order, plane
    usual = float(np.median(gaps[gaps > 1e-3])) if (gaps > 1e-3).any() else 0.0
    if (near := gaps <= 0.05 * usual).any() or not usual:
        i = int(near.argmax())
        raise BadRecord(f"two slices at one place (numbers {names[order[i]]} and {names[order[i + 1]]})")
    if (far := gaps > 1.5 * usual).any():
        i = int(far.argmax())
        raise BadRecord(f"a slice is missing between numbers {names[order[i]]} and {names[order[i + 1]]}")
    return order, plane


def measured(slices: np.ndarray) -> Range:
    """The range of a series [S, H, W], of two slices or more.

    Raises:
        BadRecord: not three dimensions, one slice, no numbers, NaN or infinite values, or one value throughout.
    """
    if slices.ndim != 3:
        raise BadRecord(f"{slices.ndim} dimensions, {list(slices.shape)}; a volume has 3")
    if slices.dtype.kind not in "uif":
        raise BadRecord(f"no numbers ({slices.dtype})")
    if 0 in slices.shape:
        raise BadRecord("no pixels")
    if len(slices) < 2:
        raise BadRecord("one slice only")
    values = np.asarray(slices)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadRecord("NaN or infinite values")
    low, high = (float(v) for v in np.percentile(values, CLIP))
    if low >= high:  # a few bright pixels in the dark
        low, high = float(values.min()), float(values.max())
    if low >= high:
        raise BadRecord(f"the same value everywhere ({low:g})")
    unit = scaled(values, low, high)
    return Range(low, high, float(unit.mean(dtype=np.float64)), float(np.square(unit).mean(dtype=np.float64)))


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 in [0, 1]: 0 at `low` and below, 1 at `high` and above."""
    return ((values.astype(np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)
