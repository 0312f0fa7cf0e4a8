"""Episodes of frames: each record a stack of consecutive frames, with the stacks before and after it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from tacit.data.index import Index, stored, write
from tacit.data.picture import EXTENSIONS, Picture
from tacit.data.unpack import VIDEOS, damage, read_gz, read_video, unpacked
from tacit.errors import BadRecord, DataError, Unknown, UsageError

PREFIX = "episodes:"
ARRAYS = (".npy", ".npz", ".gz")
PICTURES = EXTENSIONS - {".npy"}
NO_FRAMES = ("terminal", "action", "reward", "add_count", "invalid_range")  # arrays that lie beside the frames
FRAME_KEYS = ("observations", "observation", "frames", "images", "arr_0")
TERMINAL_KEYS = ("terminals", "terminal", "dones", "done")


@dataclass(frozen=True)
class Options:
    """frames: of a stack (by default as many as the run has channels); first: frames used of each file or folder;
    edges: "clamp" repeats the first or last stack where an episode has none before or after, "drop" leaves such records
    out; side: the short side, in pixels, that larger frames of a video are reduced to."""

    frames: int | None = None
    first: int | None = None
    edges: str = "clamp"
    side: int = 128

    @classmethod
    def parse(cls, text: str) -> tuple[Path, Options]:
        """`PATH` or `PATH:name=value,…`. Raises `UsageError`."""
        path, colon, rest = text.rpartition(":")
        if not colon or "=" not in rest:
            return Path(text), cls()
        given: dict[str, str | int] = {}
        for item in rest.split(","):
            name, _, value = item.partition("=")
            if name not in cls.__dataclass_fields__:
                raise Unknown("option of episodes", name, cls.__dataclass_fields__)
            if name != "edges" and not (value.isdecimal() and int(value)):
                raise UsageError(f"{PREFIX}{text}: {name} must be a whole number of at least 1, is {value!r}.")
            given[name] = value if name == "edges" else int(value)
        if given.get("edges", "clamp") not in ("clamp", "drop"):
            raise Unknown("way with edges", str(given["edges"]), ("clamp", "drop"))
        return Path(path), cls(**given)


@dataclass
class Episodes:
    """A record is a stack of `frames` consecutive frames of one episode, [H, W, frames] or [H, W, 3 frames].

    `image` begins at frame i, `previous` at i - frames and `next` at i + frames. No stack reaches over the end of an
    episode: with edges "clamp" a neighbour that would begins at the episode's first or last possible frame instead (so
    it overlaps `image`, or is it), with "drop" there is no such record.
    """

    index: Index  # a row an episode
    frames: int
    drop: bool
    depth: int  # channels of one frame
    ends: np.ndarray  # [episodes], records up to and with each
    _open: dict = field(default_factory=dict, repr=False)

    fields = ("image", "previous", "next")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """The episode of a record, and the first frame of its stack, counted in the episode."""
        row = int(np.searchsorted(self.ends, index, side="right"))
        at = index - (int(self.ends[row - 1]) if row else 0)
        return row, at + self.frames * self.drop

    def name(self, index: int) -> str:
        row, at = self.locate(index)
        return f"{self.index.at('name', row)}#{self.index.at('start', row) + at}"

    def read(self, index: int, which: str = "image") -> np.ndarray:
        row, at = self.locate(index)
        last = self.index.at("length", row) - self.frames
        at = {"image": at, "previous": max(at - self.frames, 0), "next": min(at + self.frames, last)}[which]
        stack = [self._frame(row, at + k) for k in range(self.frames)]
        if len({frame.shape for frame in stack}) > 1:
            raise BadRecord("frames of different sizes")
        return np.concatenate(stack, axis=2)

    def stamp(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path in _files(self.index):
            try:
                stat = os.stat(path)
                digest.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
            except OSError:
                digest.update(b"gone ")
        return digest.hexdigest()

    def _frame(self, row: int, at: int) -> np.ndarray:
        """[H, W, depth]"""
        path = self.index.at("array", row)
        if not path:
            names = self.index.table.column("frames")[row].values
            try:
                data = Path(names[at].as_py()).read_bytes()
            except OSError as error:
                raise BadRecord(f"cannot be read ({error.strerror})") from error
            return Picture(data, self.depth).array()
        if path not in self._open:
            try:
                self._open[path] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise BadRecord("the frames are gone; begin again, so that they are unpacked") from error
        frame = np.array(self._open[path][self.index.at("start", row) + at])
        if frame.ndim == 3 and frame.shape[0] in (1, 3, 4) and frame.shape[2] not in (1, 3, 4):
            frame = np.moveaxis(frame, 0, 2)
        return Picture(frame, self.depth).array()


def open_episodes(root: Path, options: Options, channels: int, cache: str | os.PathLike | None) -> Episodes:
    """Episodes below `root`: folders of frames, .npy and .npz arrays, .gz of the DQN Replay data, and videos.

    A folder of images is one episode, its frames in the order of the numbers in their names. An array [T, H, W(, C)]
    is one, or as many as the flags beside it say: `terminal_*` for `observation_*` or for any other name, or a key
    `terminals` of an .npz. A flag marks the last frame of an episode.

    Raises:
        DataError: no episode of at least one stack. UsageError: frames that do not fill the channels.
    """
    root, frames = root.resolve(), options.frames or channels
    if channels % frames or channels // frames not in (1, 3):
        raise UsageError(
            f"frames={frames}: so many frames have {frames} channels if grey and {3 * frames} in colour; the run "
            f"expects {channels}. Set frames={channels}, or --set channels={frames}."
        )
    depth = channels // frames
    how = f"{root} {options.first} {options.side} {depth}"
    path, index = stored("episodes", how, cache, _unchanged)
    if index is None:
        index = _build(root, path, options, depth, cache)
    lengths = index.table.column("length").to_numpy()
    counts = np.maximum(lengths - (3 * frames if options.edges == "drop" else frames) + 1, 0)
    if not counts.sum():
        need = 3 * frames if options.edges == "drop" else frames
        raise DataError(f"{root}: no episode has {need} frames; the longest has {int(lengths.max())}.")
    return Episodes(index, frames, options.edges == "drop", depth, np.cumsum(counts))


def _unchanged(facts: dict) -> bool:
    try:
        return all(os.stat(path).st_mtime_ns == stamp for path, stamp in facts["stamps"]) and all(
            os.path.isfile(path) for path in facts["unpacked"]
        )
    except OSError:
        return False


def _build(root: Path, where: Path, options: Options, depth: int, cache: str | os.PathLike | None) -> Index:
    rows: list[tuple[str, str, int, int, list[str]]] = []
    stamps, skipped = [], []
    for folder, below, files in os.walk(root):
        below[:] = sorted(b for b in below if not b.startswith((".", "__MACOSX")))
        stamps.append((folder, os.stat(folder).st_mtime_ns))
        files = sorted((f for f in files if not f.startswith(".")), key=natural)
        pictures = [os.path.join(folder, f) for f in files if Path(f).suffix.lower() in PICTURES][: options.first]
        if pictures:
            rows.append((os.path.relpath(folder, root), "", 0, len(pictures), pictures))
        for file in _recordings(files):
            path = Path(folder, file)
            name = os.path.relpath(path, root)
            stamps += [(str(p), os.stat(p).st_mtime_ns) for p in (path, _flags_beside(path)) if p is not None]
            try:
                array, ends = _frames(path, options, depth, cache)
                rows += [(name, array, a, b - a, []) for a, b in _episodes(array, ends, options.first)]
            except BadRecord as error:
                skipped.append((name, str(error)))
            except OSError as error:
                skipped.append((name, f"cannot be read ({error.strerror})"))
    if not rows:
        reasons = f" {skipped[0][0]}: {skipped[0][1]}." if skipped else ""
        raise DataError(
            f"{root} holds no episode.{reasons} Episodes are folders of images, {', '.join(ARRAYS)} arrays "
            f"[T, H, W(, C)], and videos."
        )
    names, arrays, starts, lengths, pictures = zip(*rows, strict=True)
    columns = {
        "name": pa.array(names, pa.large_string()),
        "array": pa.array(arrays, pa.large_string()),
        "start": pa.array(starts, pa.int64()),
        "length": pa.array(lengths, pa.int64()),
        "frames": pa.array(pictures, pa.large_list(pa.large_string())),
    }
    mine = sorted({a for n, a in zip(names, arrays, strict=True) if a and a != str(root / n)})
    facts = {"classes": None, "skipped": skipped, "notes": [], "stamps": stamps, "unpacked": mine}
    return write(where, columns, facts)


def fingerprint(episodes: Episodes) -> str:
    """Changes with names, boundaries and the way of stacking."""
    digest = hashlib.blake2b(f"{episodes.frames} {episodes.drop} {episodes.depth}".encode(), digest_size=16)
    digest.update(episodes.index.fingerprint().encode())
    for column in ("start", "length"):
        digest.update(episodes.index.table.column(column).to_numpy().tobytes())
    return digest.hexdigest()


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts frame_10 after frame_9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _recordings(files: list[str]) -> Iterator[str]:
    """Files that hold frames; where some are called observations, other arrays beside them are not."""
    arrays = [f for f in files if f.lower().endswith(ARRAYS) and not any(word in f.lower() for word in NO_FRAMES)]
    observed = [f for f in arrays if "observation" in f.lower()]
    chosen = set(observed or arrays)
    return (f for f in files if f in chosen or Path(f).suffix.lower() in VIDEOS)


def _flags_beside(path: Path) -> Path | None:
    for name in (path.name.replace("observation", "terminal"), f"terminal_{path.name}"):
        if name != path.name and path.with_name(name).is_file():
            return path.with_name(name)
    return None


def _frames(path: Path, options: Options, depth: int, cache) -> tuple[str, np.ndarray | None]:
    """A .npy file of all frames, and the flags [T] of episodes' ends if there are any."""
    suffix, first = path.suffix.lower(), options.first
    if suffix in VIDEOS:
        how = f"{first} {options.side} {depth}"
        return str(unpacked(path, cache, how, lambda p: read_video(p, first, depth == 1, options.side))), None
    ends = None
    if suffix == ".npz":
        with damage(), np.load(path, allow_pickle=False) as inside:
            key = next((k for k in FRAME_KEYS if k in inside), None)
            if key is None:
                raise BadRecord(f"no frames (its arrays are {', '.join(inside.files)}; call one observations)")
            flags = next((k for k in TERMINAL_KEYS if k in inside), None)
            ends = inside[flags] if flags is not None else None
        array = unpacked(path, cache, f"{key} {first}", lambda p: iter([np.load(p)[key][:first]]))
    elif suffix == ".gz":
        array = unpacked(path, cache, f"{first}", lambda p: read_gz(p, first))
    else:
        array = path
    if (beside := _flags_beside(path)) is not None and ends is None:
        with damage():
            gz = beside.suffix == ".gz"
            ends = np.concatenate(list(read_gz(beside))) if gz else np.load(beside, allow_pickle=False)
    return str(array), ends


def _episodes(array: str, flags: np.ndarray | None, first: int | None) -> list[tuple[int, int]]:
    """[start, end) of every episode."""
    with damage():
        shape = np.load(array, mmap_mode="r", allow_pickle=False).shape
    if len(shape) not in (3, 4) or min(shape[1:3]) < 1:
        raise BadRecord(f"frames are [T, H, W] or [T, H, W, C]; this array is {list(shape)}")
    length = shape[0] if first is None else min(first, shape[0])
    if flags is None:
        return [(0, length)] if length else []
    flags = np.asarray(flags).reshape(-1)
    if len(flags) < length:
        raise BadRecord(f"{len(flags)} terminal flags for {shape[0]} frames")
    ends = np.flatnonzero(flags[:length]) + 1
    bounds = np.unique(np.concatenate([[0], ends, [length]])).tolist()
    return list(pairwise(bounds))


def _files(index: Index) -> Iterator[str]:
    """Every file that frames are read from."""
    yield from sorted({a for a in index.table.column("array").to_pylist() if a})
    for row in index.table.column("frames"):
        yield from (name.as_py() for name in row.values or ())
