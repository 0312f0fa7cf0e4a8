"""One film, of which no more frames are decoded than its cuts need."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tacit.data.containers import begins, moving, open_film, pyav, seconds_of
from tacit.data.episodes import PICTURES, natural
from tacit.data.picture import Cut, Picture, crop_array
from tacit.errors import BadRecord

NEAR = 1e-3  # seconds: containers round times to as much
FAR = 5.0  # seconds that are rather jumped over than decoded, where key frames are not known
SLACK = 0.05  # share of its length that a film may lack at the end
LAST = 0.5  # seconds, the least that it may lack


class FilmCut(NamedTuple):
    """The frames to take, by their times [T] in seconds, and what of each: see `Cut`.

    A time beyond the end is a time of the film begun anew: shorter films go round.
    """

    times: Sequence[float] | np.ndarray
    top: float
    left: float
    height: float
    width: float
    size: tuple[int, int]
    interpolation: str = "bilinear"
    flip: bool = False


class Film:
    """A film from a file that PyAV reads, or from a folder of frames and a rate; all of it, or from `start` to `end`.

    `frames`, `rate` (frames a second, the mean where it varies), `height`, `width` and `seconds` are known before
    anything is decoded. Height and width are those of the frames as stored: one that is shown turned by 90 degrees is
    turned after the cut. `decoded` counts the frames decoded so far. Pixels are taken for square. Everything that can
    be wrong raises `BadRecord` with a short reason.

    Args:
        path: a file, or a folder of pictures in the order of the numbers in their names.
        rate: of a folder's frames, a second.
        start, end: of the part that is the film, in seconds.

    Raises:
        MissingExtra: PyAV is not installed.
    """

    def __init__(
        self, path: str | os.PathLike, rate: float | None = None, start: float = 0.0, end: float | None = None
    ):
        self._reader: _Reader = _Folder(Path(path), rate or 0.0) if os.path.isdir(path) else _Coded(path)
        self.rate, self.height, self.width = self._reader.rate, self._reader.height, self._reader.width
        self.start = start
        self.seconds = min(math.inf if end is None else end, self._reader.seconds) - start
        if self.seconds <= 0:
            raise BadRecord("no frame" if not start else f"ends before {start:g} s")
        whole = start == 0 and self.seconds == self._reader.seconds
        self.frames = self._reader.frames if whole else max(round(self.seconds * self.rate), 1)

    @property
    def extent(self) -> tuple[int, float, int, int]:
        """What views draw by: frames, their rate, height and width."""
        return self.frames, self.rate, self.height, self.width

    @property
    def decoded(self) -> int:
        return self._reader.decoded

    def check(self) -> None:
        """Raises `BadRecord` if the frames in the middle cannot be decoded."""
        times = [self.seconds / 2]
        self.crops([FilmCut(times, 0, 0, self.height, self.width, (min(self.height, 32), min(self.width, 32)))])

    def crops(self, cuts: list[FilmCut]) -> list[np.ndarray]:
        """Each cut as uint8 [T, H, W, 3]: of every time the frame that is shown then."""
        wanted = sorted(
            (self.start + float(time) % self.seconds, number, place)
            for number, cut in enumerate(cuts)
            for place, time in enumerate(cut.times)
        )
        made: list[list[np.ndarray]] = [[None] * len(cut.times) for cut in cuts]
        plain = [Cut(*cut[1:]) for cut in cuts]
        last: tuple[int, Any] = (-1, None)
        kept: dict[int, np.ndarray] = {}
        for (_, number, place), (which, frame) in zip(wanted, self._reader.shown([w[0] for w in wanted]), strict=True):
            if which != last[0]:
                last, kept = (which, frame), {}
            if number not in kept:
                kept[number] = self._reader.crop(last[1], plain[number])
            made[number][place] = kept[number]
        return [np.stack(frames) for frames in made]

    def each(self, cut: FilmCut) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of one time after another, which must rise and lie in the film: what `crops` stacks, of films
        that are too long for that."""
        plain, last, kept = Cut(*cut[1:]), -1, None
        for which, frame in self._reader.shown([self.start + float(time) for time in cut.times]):
            if which != last:
                last, kept = which, self._reader.crop(frame, plain)
            yield kept


class _Reader(Protocol):
    rate: float
    frames: int
    height: int
    width: int
    seconds: float
    decoded: int

    def shown(self, times: list[float]) -> Iterator[tuple[int, Any]]:
        """For each of the sorted times, the number of the frame shown then, as it comes, and that frame."""
        ...

    def crop(self, frame: Any, cut: Cut) -> np.ndarray:
        """[h, w, 3] uint8."""
        ...


class _Coded:
    """Through PyAV: from the key frame before what is wanted."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self._open()
        average = self.stream.average_rate or self.stream.guessed_rate or self.stream.base_rate
        self.rate = float(average or 0)
        self.seconds = seconds_of(self.stream)
        self.height, self.width = self.stream.codec_context.height, self.stream.codec_context.width
        if not self.rate or not self.height or not self.width:
            raise BadRecord("no frame")
        self.frames = self.stream.frames or max(math.ceil(self.seconds * self.rate - 1e-3), 1)
        self.seconds = self.seconds or self.frames / self.rate
        self.decoded = 0
        self.colours = pyav().video.reformatter.VideoReformatter()  # one for all frames, since it takes long to make

    def _open(self) -> None:
        self.container = open_film(self.path)
        self.stream = moving(self.container)
        if self.stream is None:
            raise BadRecord("no video in it")
        self.stream.codec_context.thread_count = 1  # the workers share the cores
        self.first = begins(self.stream)
        self.fresh = True

    def shown(self, times: list[float]) -> Iterator[tuple[int, Any]]:
        done, begun = 0, -1
        while done < len(times):  # once for every stretch without a jump
            held, at, jumped, begun = None, -math.inf, begun == done, done
            for frame, time in self._from(times[done]):
                while done < len(times) and held is not None and times[done] < time - NEAR:
                    yield self.decoded - 1, held  # which is shown until this one
                    done += 1
                held, at = frame, time
                while done < len(times) and times[done] <= time + NEAR:
                    yield self.decoded, held
                    done += 1
                jumped &= begun == done
                if done == len(times) or (not jumped and self._jump(at, times[done])):
                    break
            else:
                if held is None or times[done] > at + max(LAST, SLACK * self.seconds) + 1 / self.rate:
                    raise BadRecord("truncated")
                while done < len(times):
                    yield self.decoded, held
                    done += 1

    def _from(self, time: float) -> Iterator[tuple[Any, float]]:
        """Frames and their times from one on that is not after `time`, or from the first."""
        for early in (0.0, 1.0, 4.0) if self._indexed else (2.0, 6.0):
            if time - early <= 0 or not self._seek(time - early):
                break
            frames = self._frames()
            found = next(frames, None)
            if found is not None and found[1] <= time + NEAR:
                yield found
                yield from frames
                return
        if not self.fresh:
            self._open()
        yield from self._frames()

    def _seek(self, time: float) -> bool:
        av = pyav()
        try:
            self.fresh = False
            self.container.seek(int((time + self.first) / self.stream.time_base), stream=self.stream)
        except (av.error.FFmpegError, OSError):
            return False
        return True

    @property
    def _indexed(self) -> bool:
        """Whether key frames are known; of MPEG's streams FFmpeg learns places as it goes, and not of what frames."""
        return len(self.stream.index_entries) > 0 and not self.container.format.name.startswith("mpeg")

    def _jump(self, at: float, time: float) -> bool:
        """Whether a key frame lies between the frame at hand and that which is wanted next."""
        if time - at <= 2 / self.rate:
            return False
        if not self._indexed:
            return time - at > FAR
        entries = self.stream.index_entries
        found = entries.search_timestamp(int((time + self.first) / self.stream.time_base))
        if found < 0:
            return False
        return float(entries[found].timestamp * self.stream.time_base) - self.first > at + 2 / self.rate

    def _frames(self) -> Iterator[tuple[Any, float]]:
        av, time = pyav(), -1 / self.rate
        self.fresh = False
        try:
            for frame in self.container.decode(self.stream):
                self.decoded += 1
                known = frame.pts is not None and frame.time_base
                time = float(frame.pts * frame.time_base) - self.first if known else time + 1 / self.rate
                yield frame, time
        except (av.error.FFmpegError, OSError) as error:
            raise BadRecord("truncated or damaged") from error

    def crop(self, frame: Any, cut: Cut) -> np.ndarray:
        if (frame.height, frame.width) != (self.height, self.width):
            raise BadRecord("frames of different sizes")
        turns = round((frame.rotation or 0) / 90) % 4
        size = cut.size[::-1] if turns % 2 else cut.size
        pixels = self.colours.reformat(frame, format="rgb24").to_ndarray()
        made = crop_array(pixels, cut._replace(size=size, flip=False))
        made = np.rot90(made, turns) if turns else made
        return made[:, ::-1] if cut.flip else made


class _Folder:
    """Pictures, each shown for one over the rate."""

    def __init__(self, path: Path, rate: float):
        try:
            names = [n for n in os.listdir(path) if Path(n).suffix.lower() in PICTURES and not n.startswith(".")]
        except OSError as error:
            raise BadRecord.of(error) from error
        if not names:
            raise BadRecord("no frame")
        if rate <= 0:
            raise BadRecord("frames without a rate (clips:PATH:rate=25, or a column `rate`)")
        self.paths = [path / name for name in sorted(names, key=natural)]
        self.rate, self.frames, self.seconds, self.decoded = rate, len(names), len(names) / rate, 0
        self.height, self.width = self._picture(0).extent

    def _picture(self, number: int) -> Picture:
        try:
            return Picture(self.paths[number].read_bytes(), 3)
        except OSError as error:
            raise BadRecord.of(error) from error

    def shown(self, times: list[float]) -> Iterator[tuple[int, Any]]:
        last, picture = -1, None
        for time in times:
            number = min(int((time + NEAR) * self.rate), self.frames - 1)
            if number != last:
                last, picture = number, self._picture(number)
                self.decoded += 1
            yield number, picture

    def crop(self, frame: Picture, cut: Cut) -> np.ndarray:
        if frame.extent != (self.height, self.width):
            raise BadRecord("frames of different sizes")
        pixels = frame.crops([cut])[0]
        return pixels if pixels.dtype == np.uint8 else (pixels * 255 + 0.5).astype(np.uint8)
