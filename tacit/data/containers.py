"""Containers of film and sound, through PyAV: what a file is, and what is in it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tacit.data.picture import looks_like
from tacit.errors import BadRecord, MissingExtra

FILMS = frozenset([".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts"])
PICTURES = {b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image"}
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # an .mp4 or .mov begins with
STARTS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x30\x26\xb2\x75", b"FLV", b"OggS")


def is_film(head: bytes) -> bool:
    """Whether a file that begins so is of a container that may hold film. Others are not given to FFmpeg at all, which
    would follow a list of other files."""
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    stream = head[:1] == b"\x47" and head[188:189] in (b"", b"\x47")
    return head[4:8] in BOXES or head.startswith(STARTS) or avi or stream


def pyav(what: str = "Reading films", extra: str = "video") -> Any:
    """Raises `MissingExtra`."""
    try:
        import av
    except ImportError as error:
        raise MissingExtra(what, "av", extra) from error
    return av


def head_of(path: str | os.PathLike) -> bytes:
    """The first 256 bytes of a file. Raises `BadRecord`."""
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        raise BadRecord.of(error) from error
    if not head:
        raise BadRecord("empty file")
    return head


def open_film(path: str | os.PathLike) -> Any:
    """A container of PyAV. Raises `BadRecord`, `MissingExtra`."""
    av, head = pyav(), head_of(path)
    if not is_film(head):
        other = next((f" (looks like {what})" for start, what in PICTURES.items() if head.startswith(start)), None)
        raise BadRecord(f"not a video{other or looks_like(head)}")
    return opened(av, os.fspath(path))


def opened(av: Any, where: str | BinaryIO) -> Any:
    try:
        return av.open(where)
    except (av.error.FFmpegError, OSError) as error:
        raise BadRecord("truncated or damaged") from error


def moving(container: Any) -> Any | None:
    """The first stream of pictures that is not the cover of a song."""
    cover = int(pyav().stream.Disposition.attached_pic)
    return next((s for s in container.streams.video if not int(s.disposition) & cover), None)


def seconds_of(stream: Any) -> float:
    """How long a stream lasts, by its own word or by its container's; 0 where neither knows."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    said = stream.metadata.get("DURATION", "").split(":")  # Matroska's: 00:00:03.200000000
    if len(said) == 3:
        try:
            return math.fsum(float(part) * unit for part, unit in zip(said, (3600, 60, 1), strict=True))
        except ValueError:
            pass
    return (stream.container.duration or 0) / 1e6


def begins(stream: Any) -> float:
    """The time, in seconds, of a stream's beginning."""
    return float((stream.start_time or 0) * stream.time_base)


class Held(NamedTuple):
    """What a file holds: pictures, sound, and how long (of the pictures, where there are any)."""

    video: bool
    audio: bool
    seconds: float


def probe(path: str | Path) -> Held:
    """Reads the heading alone. Raises `BadRecord`."""
    with open_film(path) as container:
        video, audio = moving(container), next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise BadRecord("neither video nor sound in it")
        return Held(video is not None, audio is not None, seconds_of(video or audio))
