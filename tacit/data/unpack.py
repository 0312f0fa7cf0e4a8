"""Frames that cannot be read at a place of their own (compressed arrays, videos), unpacked once into the cache."""

from __future__ import annotations

import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tacit.data.index import cache_folder
from tacit.errors import BadRecord, MissingExtra
from tacit.run import atomic

VIDEOS = frozenset([".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".ogv"])
AT_ONCE = 1 << 24  # bytes
VERSION = 1

Chunks = Iterator[np.ndarray]


def unpacked(path: Path, cache: str | os.PathLike | None, how: str, read: Callable[[Path], Chunks]) -> Path:
    """The .npy file in the cache with the frames that `read(path)` yields; written if it is not there yet.

    `how` names what else the frames depend on. A file that has changed is unpacked anew.

    Raises:
        BadRecord: the file is damaged or holds no frame.
    """
    stat = path.stat()
    known = f"{VERSION} {path.resolve()} {stat.st_size} {stat.st_mtime_ns} {how}"
    target = cache_folder(cache) / f"frames-{hashlib.blake2b(known.encode(), digest_size=12).hexdigest()}.npy"
    if not target.is_file():
        with damage(), atomic(target) as temporary:
            _write(temporary, read(path))
    return target


class damage:
    """Turns what decompressors raise over a broken file into `BadRecord`."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, EOFError):
            raise BadRecord("truncated") from error
        if isinstance(error, gzip.BadGzipFile | zipfile.BadZipFile | zlib.error | ValueError | KeyError):
            raise BadRecord(f"damaged, or no array of numbers ({type(error).__name__})") from error


def _write(target: Path, chunks: Chunks) -> None:
    """One array along the first axis. NumPy leaves room in the heading for a length known at the end."""
    count, heading = 0, {}
    with open(target, "wb") as f:
        for chunk in chunks:
            if not heading:
                described = np.lib.format.dtype_to_descr(chunk.dtype)
                heading = {"descr": described, "fortran_order": False, "shape": (0, *chunk.shape[1:])}
                np.lib.format.write_array_header_1_0(f, heading)
                begun = f.tell()
            f.write(np.ascontiguousarray(chunk).data)
            count += len(chunk)
        if not count:
            raise BadRecord("no frame")
        f.seek(0)
        np.lib.format.write_array_header_1_0(f, {**heading, "shape": (count, *heading["shape"][1:])})
        assert f.tell() == begun


def read_gz(path: Path, first: int | None = None) -> Chunks:
    """The first so many rows of a .npy file inside gzip, a piece at a time."""
    with gzip.open(path) as f:
        version = np.lib.format.read_magic(f)
        of_version = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = of_version(f)
        if dtype.hasobject or fortran or not shape:
            raise ValueError
        row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        left = shape[0] if first is None else min(first, shape[0])
        while left:
            count = min(left, max(AT_ONCE // max(row, 1), 1))
            data = f.read(count * row)
            if len(data) < count * row:
                raise EOFError
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])
            left -= count


def read_video(path: Path, first: int | None, gray: bool, side: int) -> Chunks:
    """Frames [1, H, W] or [1, H, W, 3] of a video file, no larger than `side` on their short side.

    Raises:
        MissingExtra: PyAV is not installed. BadRecord: no video, or a damaged one.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra("reading video files", "av", "video") from error
    kind = "gray" if gray else "rgb24"
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number == first:
                    return
                scale = min(side / min(frame.width, frame.height), 1.0)
                width, height = (max(round(n * scale), 1) for n in (frame.width, frame.height))
                yield frame.reformat(width=width, height=height, format=kind).to_ndarray()[None]
    except (av.error.FFmpegError, IndexError) as error:
        raise BadRecord(f"no video that can be decoded ({type(error).__name__})") from error
