"""One image, decoded once and no larger than its crops need."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from tacit.errors import BadRecord

EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
        ".bmp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".avif",
        ".npy",
    ]
)
ORIENTATION = 0x0112  # the EXIF tag
RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIGNATURES = {
    b"<": "HTML or XML",
    b"PK": "a zip",
    b"%PDF": "a PDF",
    b"{": "JSON",
    b"\x1f\x8b": "gzip",
    b"MZ": "a program",
}

# Pillow refuses more than twice its warning limit (about 179 megapixels); below that a large picture is a picture.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Cut(NamedTuple):
    """A rectangle of the full-scale picture, in pixels from its top left, and the size [h, w] it is resized to."""

    top: float
    left: float
    height: float
    width: float
    size: tuple[int, int]
    interpolation: str = "bilinear"
    flip: bool = False


class Picture:
    """A picture of `channels` channels from an encoded file or an array [H, W] or [H, W, C].

    `height` and `width` are known before anything is decoded, at full scale and after EXIF rotation. Everything that
    can be wrong with a file raises `BadRecord` with a short reason.

    Values come as uint8, or as float32 in [0, 1] where the file holds 16 bits or floats. Grey becomes colour by
    repetition and colour grey by its luma; palettes and CMYK become RGB, alpha is dropped unless four channels are
    asked for; of an animation the first frame counts. Any other number of channels must be just what is asked for.
    """

    def __init__(self, data: bytes | np.ndarray, channels: int = 3):
        self.channels = channels
        self._image: Image.Image | None = None
        self._array: np.ndarray | None = None
        self._jpeg: bytes | None = None  # of a colour JPEG that is stored upright
        if isinstance(data, np.ndarray):
            self._array = _checked(data, channels)
        elif data[:6] == b"\x93NUMPY":
            self._array = _checked(_decode(lambda: np.load(io.BytesIO(data), allow_pickle=False)), channels)
        elif _is_tiff(data) and _wants_tifffile(data, channels):
            self._array = _checked(_read_tiff(data), channels)
        else:
            self._image = _open(data)
        if self._array is not None:
            self.height, self.width = self._array.shape[:2]
        else:
            self.width, self.height = self._image.size
            orientation = _decode(self._image.getexif).get(ORIENTATION, 1)
            self._turned = orientation != 1
            if orientation >= 5:
                self.width, self.height = self.height, self.width
            if self._image.format == "JPEG" and self._image.mode == "RGB" and channels == 3 and not self._turned:
                self._jpeg = data

    @property
    def extent(self) -> tuple[int, int]:
        """What views draw by: height and width."""
        return self.height, self.width

    def check(self) -> None:
        """Raises `BadRecord` if the picture cannot be decoded."""
        self.array()

    def crops(self, cuts: list[Cut]) -> list[np.ndarray]:
        """Each cut as [h, w, C]. A JPEG is decoded at 1/2, 1/4 or 1/8 scale where no cut can tell."""
        if self._array is not None:
            return [crop_array(self._array, cut) for cut in cuts]
        shrink = min(min(cut.height / cut.size[0], cut.width / cut.size[1]) for cut in cuts)
        pays = _pays(self.width, self.height) and all(map(_on_pixels, cuts))
        if pays and shrink < 2 and (pixels := self._whole_jpeg()) is not None:
            return [_resized(pixels, cut) for cut in cuts]
        image = self._pixels(shrink)
        fy, fx = image.size[1] / self.height, image.size[0] / self.width
        if pays and image.mode == "RGB" and fy == fx == 1:
            pixels = np.asarray(image)
            return [_resized(pixels, cut) for cut in cuts]
        return [self._spread(_crop(image, cut, fy, fx)) for cut in cuts]

    def array(self) -> np.ndarray:
        """The whole picture at full scale: [H, W, C]."""
        return self._array if self._array is not None else self._spread(_hwc(np.asarray(self._pixels(1.0))))

    def _spread(self, pixels: np.ndarray) -> np.ndarray:
        """Deep grey stays one band until here, since Pillow resizes only one of floats."""
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 and self.channels == 3 else pixels

    def _pixels(self, shrink: float) -> Image.Image:
        image = self._image

        def load() -> Image.Image:
            if image.format == "JPEG" and shrink >= 2:
                image.draft(image.mode, (int(image.width // shrink) + 1, int(image.height // shrink) + 1))
            image.load()
            return _in_channels(ImageOps.exif_transpose(image) if self._turned else image, self.channels)

        return _decode(load)

    def _whole_jpeg(self) -> np.ndarray | None:
        """The bytes [H, W, 3] that Pillow would give, by torchcodec in two thirds of the time; None where it is no such
        JPEG, or one in which Pillow is to find the fault."""
        if self._jpeg is None or _jpeg_decoder() is None:
            return None
        try:
            with _unheard():
                return _jpeg_decoder()(self._jpeg).permute(1, 2, 0).numpy()
        except (RuntimeError, OSError):  # the second where stderr is closed, or no file can be opened any more
            return None


@cache
def _jpeg_decoder() -> Callable[[bytes], Tensor] | None:
    """torchcodec's, where there is a build of it for this machine."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):
        return None
    return decode_jpeg


@cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


@contextmanager
def _unheard() -> Iterator[None]:
    """In a worker process: without what libjpeg writes to stderr, which names no file, of damage that it repairs."""
    if get_worker_info() is None:
        yield
        return
    kept = os.dup(2)
    try:
        os.dup2(_nowhere(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _decode(read):
    """Decoders meet hostile bytes and raise nearly anything; every failure is this one record's, never the run's."""
    try:
        return read()
    except BadRecord:
        raise
    except Image.DecompressionBombError as error:
        raise BadRecord("too large (more than 179 million pixels)") from error
    except MemoryError as error:
        raise BadRecord("too large for the memory") from error
    except Exception as error:
        raise BadRecord(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What the words of Pillow and NumPy mean: Pillow "cannot load" a file that ends before its pixels begin."""
    text = str(error).lower()
    cut = ("truncated", "incomplete", "not enough", "end of", "cannot load this image")
    if isinstance(error, EOFError) or any(words in text for words in cut):
        return "truncated"
    if "broken data" in text or "could not create decoder" in text:  # the second is WebP's
        return "damaged"
    return f"cannot be decoded ({type(error).__name__})"


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadRecord("empty file")
    try:
        image = _decode_header(data)
    except UnidentifiedImageError as error:
        raise BadRecord(f"not an image{looks_like(data)}") from error
    if 0 in image.size:
        raise BadRecord("no pixels")
    return image


def _decode_header(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadRecord("too large (more than 179 million pixels)") from error
    except Exception as error:  # a plugin that fell over a malformed header
        raise BadRecord(_reason(error)) from error


def looks_like(data: bytes) -> str:
    """What a file is instead, in brackets after a blank; nothing where that cannot be told."""
    head = data[:64].lstrip()
    for start, name in SIGNATURES.items():
        if head.startswith(start):
            return f" (looks like {name})"
    if not any(data[:64]):
        return " (zeros)"
    return " (looks like text)" if all(32 <= b < 127 or b in (9, 10, 13) for b in data[:64]) else ""


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        if channels not in (1, 3):
            raise BadRecord(_channels_differ(1, channels))
        values = _unit(np.asarray(image))
        return Image.fromarray(values)  # mode F, one band: repeated after the crop
    if channels == 1:
        return image if image.mode == "L" else image.convert("L")
    if channels == 3:
        return image if image.mode == "RGB" else image.convert("RGB")
    if channels == 4 and "transparency" in image.info and image.mode == "P":
        return image.convert("RGBA")
    if channels == 4 and image.mode == "RGBA":
        return image
    raise BadRecord(_channels_differ(3 if image.mode in ("P", "CMYK", "YCbCr") else len(image.getbands()), channels))


def _channels_differ(has: int, wants: int) -> str:
    return f"{has} channel{'s' * (has > 1)}, the run expects {wants} (--set channels={has})"


def _crop(image: Image.Image, cut: Cut, fy: float, fx: float) -> np.ndarray:
    left, top = max(cut.left * fx, 0.0), max(cut.top * fy, 0.0)
    right = min((cut.left + cut.width) * fx, image.width)
    bottom = min((cut.top + cut.height) * fy, image.height)
    h, w = cut.size
    resized = image.resize((w, h), RESAMPLE[cut.interpolation], box=(left, top, right, bottom))
    pixels = _hwc(np.asarray(resized))
    return pixels[:, ::-1] if cut.flip else pixels


def _pays(width: int, height: int) -> bool:
    """Whether PyTorch's resizing of bytes is the faster one: of large pictures, where the processor has AVX2."""
    return width * height >= 128 * 128 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _on_pixels(cut: Cut) -> bool:
    return cut.interpolation in ("bilinear", "bicubic") and all(float(side).is_integer() for side in cut[:4])


def _resized(pixels: np.ndarray, cut: Cut) -> np.ndarray:
    """Of uint8 [H, W, 3], as torchvision does it: the crop is cut out first, so that nothing beside it shines in."""
    top, left, height, width = (int(side) for side in cut[:4])
    crop = pixels[top : top + height, left : left + width]
    # In this order PyTorch knows that the channels come last, and takes three quarters of the time.
    x = torch.from_numpy(crop if crop.flags.writeable else crop.copy())[None].permute(0, 3, 1, 2)
    made = F.interpolate(x, cut.size, mode=cut.interpolation, antialias=True)
    return (made.flip(3) if cut.flip else made)[0].permute(1, 2, 0).numpy()


def crop_array(array: np.ndarray, cut: Cut) -> np.ndarray:
    """Pillow resizes one band of any type, and three of uint8 at once."""
    if array.dtype == np.uint8 and array.shape[2] == 3 and _on_pixels(cut) and _pays(*array.shape[:2]):
        return _resized(array, cut)
    if array.dtype == np.uint8 and array.shape[2] == 3:
        return _crop(Image.fromarray(array), cut, 1.0, 1.0)
    bands = [_crop(Image.fromarray(np.ascontiguousarray(array[:, :, c])), cut, 1.0, 1.0) for c in range(array.shape[2])]
    return np.concatenate(bands, axis=2)


def _hwc(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _checked(array: np.ndarray, channels: int) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W] of numbers -> [H, W, channels], uint8 or float32 in [0, 1]."""
    if array.dtype.kind not in "uifb" or array.ndim not in (2, 3):
        raise BadRecord(f"not an image (an array {list(array.shape)} of {array.dtype})")
    if 0 in array.shape:
        raise BadRecord("no pixels")
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.shape[2] != channels and array.shape[0] == channels:
        array = np.moveaxis(array, 0, 2)
    array = array if array.dtype == np.uint8 else _unit(array)
    if array.shape[2] == channels:
        return array
    if array.shape[2] == 1 and channels == 3:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] in (3, 4) and channels == 1:
        luma = array[:, :, :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return (luma.round().astype(np.uint8) if array.dtype == np.uint8 else luma.astype(np.float32))[:, :, None]
    if array.shape[2] == 4 and channels == 3:
        return array[:, :, :3]
    raise BadRecord(_channels_differ(min(shape[0], shape[-1]), channels))


def _unit(values: np.ndarray) -> np.ndarray:
    """Integers over the range of their type, floats as they are: float32 in [0, 1]."""
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype.kind in "ui":
        top = 65535 if values.dtype.itemsize == 4 else np.iinfo(values.dtype).max  # Pillow's I holds 16 bits
        values = values.astype(np.float32) / top
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadRecord("NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise BadRecord(f"values from {low:.4g} to {high:.4g}, floats must lie in 0 to 1")
    return values


def _is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _wants_tifffile(data: bytes, channels: int) -> bool:
    """Pillow reads one page of ordinary colour; several pages or bands as channels, and 16-bit colour, it does not."""
    if channels not in (1, 3):
        return True
    try:
        _decode_header(data)
    except (UnidentifiedImageError, BadRecord):
        return True
    return False


def _read_tiff(data: bytes) -> np.ndarray:
    import tifffile

    def read() -> np.ndarray:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            series = tiff.series[0]
            if int(np.prod(series.shape)) > 2 * Image.MAX_IMAGE_PIXELS * 4:
                raise BadRecord(f"too large ({' x '.join(map(str, series.shape))})")
            return series.asarray()

    return _decode(read)
