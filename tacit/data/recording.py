"""One recording of sound, of which no more is decoded than its segments need."""

from __future__ import annotations

import io
import os
import struct
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from tacit.data.containers import PICTURES, begins, is_film, moving, opened, pyav, seconds_of
from tacit.data.picture import looks_like
from tacit.errors import BadRecord, MissingExtra

BY_AV = frozenset([".m4a", ".aac", ".wma"])  # the others are libsndfile's
EXTENSIONS = BY_AV | frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
    ]
)
SHORT = 30.0  # seconds, up to which a recording is decoded as a whole
CLIPPED = 0.5  # share of samples at full scale from which a recording is damaged
SLACK = 0.05  # share of its length that a compressed file may lack at the end
ZEROS, KAISER, ROLL_OFF = 24, 7.0, 0.95  # of the filter: zero crossings on a side, the window's beta, its edge
BLOCK = 1 << 20  # samples looked through at once
SETTLE = 8192  # samples that a decoder needs to settle
UNKNOWN = 0x7FFF0000  # lengths from here on are what programs write who cannot know it


class Silence(BadRecord):
    """All of a recording is one value; where sound may be missing, it is."""


class Segment(NamedTuple):
    """What to read of a recording: `samples` from `start` on, of it as resampled to `rate`, rolled by `shift` before.

    shift: so many samples at `rate` the recording is rolled circularly to the right, before it is padded and cut.
    """

    start: int
    samples: int
    rate: int
    shift: int = 0


class Recording:
    """A recording from an encoded file (its bytes or its path), or from an array [n] or [channels, n] and its rate.

    Of a film it is the sound track, from where the pictures begin. `start` and `end`, in seconds, say that a part of a
    file is the recording.

    `rate` (Hz), `samples` (of a channel, at that rate) and `channels` are known before anything is decoded. Everything
    that can be wrong raises `BadRecord` with a short reason: also silence (the same value throughout, all channels
    together), NaN or infinite values, and half of all samples at full scale. Louder sound than a format holds is
    common and left as it is.

    Raises:
        MissingExtra: soundfile, or PyAV for .m4a, .aac and .wma, is not installed.
    """

    def __init__(
        self,
        data: bytes | str | os.PathLike | np.ndarray,
        rate: int | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
    ):
        self._reader: _Reader = _Array(data, rate) if isinstance(data, np.ndarray) else _opened(data)
        if start or end is not None:
            self._reader = _Part(self._reader, start, end)
        self.rate, self.samples, self.channels = self._reader.rate, self._reader.samples, self._reader.channels
        if self.samples < 1 or self.channels < 1 or self.rate < 1:
            raise BadRecord("no samples")
        self._whole: np.ndarray | None = None
        self._at: dict[int, np.ndarray] = {}

    @property
    def extent(self) -> tuple[int, int]:
        """What views draw by: samples of a channel, and their rate."""
        return self.samples, self.rate

    def crops(self, cuts: list[Segment]) -> list[np.ndarray]:
        """Each segment as float32 [1, samples]: the mean of the channels, resampled, rolled, then cut; beyond the end
        it is zero."""
        return [self._crop(cut)[None] for cut in cuts]

    def check(self) -> None:
        """Raises `BadRecord` if the recording, or the middle of a long one, cannot be used."""
        if self._short:
            self._all()
        else:
            self._part(self.samples // 2, min(self.samples // 2 + int(SHORT * self.rate), self.samples))

    def _crop(self, cut: Segment) -> np.ndarray:
        length = length_at(self.samples, self.rate, cut.rate)
        out = np.zeros(cut.samples, np.float32)
        count = max(min(cut.samples, length - cut.start), 0)
        begin = (cut.start - cut.shift) % length
        ahead = min(count, length - begin)  # what a roll has taken over the end comes from the beginning
        if ahead:
            out[:ahead] = self._resampled(cut.rate, begin, begin + ahead)
        if count > ahead:
            out[ahead:count] = self._resampled(cut.rate, 0, count - ahead)
        return out

    @property
    def _short(self) -> bool:
        return self.samples <= SHORT * self.rate

    def _resampled(self, rate: int, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) of the whole at another rate; of a long recording the same from a part of it."""
        if self._short:
            if rate not in self._at:
                self._at[rate] = resample(self._all(), self.rate, rate)
            return self._at[rate][start:stop]
        up, down = _ratio(self.rate, rate)
        reach = ZEROS * max(up, down) // up + 1
        first = max(start * down // up - reach, 0) // down * down  # so that it falls on a sample of the other rate
        last = min(-(-stop * down // up) + reach, self.samples)
        offset = first // down * up
        return resample(self._part(first, last), self.rate, rate)[start - offset : stop - offset]

    def _all(self) -> np.ndarray:
        if self._whole is None:
            self._whole = self._read(0, self.samples)
            if _constant(self._whole):
                raise Silence("silence")
        return self._whole

    def _part(self, start: int, stop: int) -> np.ndarray:
        """A long recording may be silent for a while; if it is so here, it is looked through for anything else."""
        part = self._read(start, stop)
        if _constant(part):
            blocks = range(0, self.samples, BLOCK)
            if all(_constant(b, part[0]) for b in (self._read(at, min(at + BLOCK, self.samples)) for at in blocks)):
                raise Silence("silence")
        return part

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) at the file's own rate, the channels' mean; what a file lacks at its end is zero."""
        found = self._reader.read(start, stop)
        if not np.isfinite(found).all():
            raise BadRecord("NaN or infinite values")
        lacking = stop - start - len(found)
        if lacking > SLACK * self.samples + 4096:  # frames of compressed sound are no longer than that
            raise BadRecord("truncated")
        full = float((np.abs(found) >= 0.999).mean()) if found.size else 0.0
        if full > CLIPPED and not _constant(found):
            raise BadRecord(f"clipped ({full:.0%} of the samples at full scale)")
        mono = found[:, 0] if found.shape[1] == 1 else found.mean(1, dtype=np.float32)
        return np.pad(mono, (0, lacking)) if lacking > 0 else mono


def middle(samples: int, rate: int, wanted: int, other: int) -> Segment:
    """`wanted` samples at the rate `other` from the middle of so many at `rate`; all of a short one, from its start."""
    return Segment(max(length_at(samples, rate, other) - wanted, 0) // 2, wanted, other)


def length_at(samples: int, rate: int, other: int) -> int:
    """Samples of so many at `rate`, resampled to `other`."""
    return -(-samples * other // rate)


def resample(x: np.ndarray, rate: int, other: int) -> np.ndarray:
    """[n] float32 at `rate` -> [ceil(n other / rate)]: polyphase, by a Kaiser-windowed sinc of 24 zero crossings on a
    side, which passes 0.86 of the lower rate's half and lets through less than 1e-3 from 1.04 of it on."""
    up, down = _ratio(rate, other)
    if up == down:
        return x
    from scipy.signal import resample_poly

    return resample_poly(x, up, down, window=_taps(max(up, down)))


@lru_cache(maxsize=8)
def _taps(wider: int) -> np.ndarray:
    from scipy.signal import firwin

    return firwin(2 * ZEROS * wider + 1, ROLL_OFF / wider, window=("kaiser", KAISER)).astype(np.float32)


def _ratio(rate: int, other: int) -> tuple[int, int]:
    return other // gcd(rate, other), rate // gcd(rate, other)


def _constant(x: np.ndarray, value: float | None = None) -> bool:
    return not x.size or bool((x == (x.flat[0] if value is None else value)).all())


class _Reader(Protocol):
    rate: int
    samples: int
    channels: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """[n, channels] float32; fewer than asked for where the file ends before its time."""
        ...


class _Array:
    def __init__(self, array: np.ndarray, rate: int | None):
        if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
            raise BadRecord(f"not a sound (an array {list(array.shape)} of {array.dtype})")
        array = array[:, None] if array.ndim == 1 else array.T
        if array.dtype.kind == "u":
            array = array.astype(np.float32) / (np.iinfo(array.dtype).max // 2 + 1) - 1
        elif array.dtype.kind == "i":
            array = array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
        self.array, self.rate = array.astype(np.float32, copy=False), int(rate or 0)
        self.samples, self.channels = array.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop]


class _Sndfile:
    def __init__(self, where: str | BinaryIO):
        self.file = soundfile().SoundFile(where)
        self.rate, self.samples, self.channels = self.file.samplerate, self.file.frames, self.file.channels
        if self.file.format in ("FLAC", "MP3") and self.samples > 0:  # their lengths are only promised
            self._reach(self.samples - 1 if self.file.format == "FLAC" else int(self.samples * (1 - SLACK)))

    def _reach(self, at: int) -> None:
        if not len(self.read(at, at + 1)):
            raise BadRecord("truncated")

    def read(self, start: int, stop: int) -> np.ndarray:
        try:
            self.file.seek(start)
            return self.file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile().LibsndfileError as error:  # a frame is broken, or the last one is not there
            raise BadRecord("truncated or damaged") from error


class _Part:
    """From one time to another of what another reads."""

    def __init__(self, reader: _Reader, start: float, end: float | None):
        self.reader, self.rate, self.channels = reader, reader.rate, reader.channels
        self.first = round(start * self.rate)
        last = reader.samples if end is None else min(round(end * self.rate), reader.samples)
        self.samples = last - self.first

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.reader.read(self.first + start, self.first + stop)


class _Av:
    """Through PyAV. A container that knows its length is read from near the start of a segment, others as a whole.

    Of a film sample 0 is where the pictures begin, and what comes before the sound's own beginning is zero.
    """

    def __init__(self, where: str | BinaryIO):
        self.container = opened(pyav("Reading .m4a, .aac, .wma and films", "audio"), where)
        self.stream = next(iter(self.container.streams.audio), None)
        if self.stream is None:
            raise BadRecord("no sound in it")
        self.rate, self.channels = self.stream.rate, self.stream.codec_context.layout.nb_channels
        self.whole: np.ndarray | None = None
        film = moving(self.container)
        self.early = SETTLE if film is None else int(1.5 * self.rate)  # films are laid out by their key frames
        self.zero = 0 if film is None else round(begins(film) * self.rate)
        if "mp4" in self.container.format.name and self.stream.duration:
            self.samples = round(self.stream.duration * self.stream.time_base * self.rate)
            self.film = film is not None
        elif film is not None and seconds_of(self.stream):
            self.samples, self.film = round(seconds_of(self.stream) * self.rate), True
        else:
            self.film = False
            self.whole = self._decode(0, None)
            self.samples = len(self.whole)
        if self.film:
            self.samples += round(begins(self.stream) * self.rate) - self.zero

    def read(self, start: int, stop: int) -> np.ndarray:
        if self.whole is not None:
            return self.whole[start:stop]
        if not self.film:
            return self._decode(start, stop)
        start, stop = start + self.zero, stop + self.zero
        found = self._decode(start, stop)
        if self.began > start and self.began > self.zero:  # a seek that came too late, or sound that begins so
            found = self._decode(start, stop, from_start=True)
            if self.began > start:
                found = np.pad(found, ((min(self.began, stop) - start, 0), (0, 0)))
        return found

    def _decode(self, start: int, stop: int | None, from_start: bool = False) -> np.ndarray:
        import av

        if self.whole is None and (start or stop is not None):
            early = 0 if from_start else max(start - self.early, 0)
            self._seek(int(early / self.rate / self.stream.time_base))
        parts, resampler = [], av.AudioResampler(format="fltp")
        first, held = None, 0
        try:
            for frame in self.container.decode(self.stream):
                if first is None:
                    first = round((frame.pts or 0) * frame.time_base * self.rate) if stop is not None else 0
                new = [f.to_ndarray() for f in resampler.resample(frame)]
                parts += new
                held += sum(part.shape[1] for part in new)
                if stop is not None and first + held >= stop:
                    break
        except av.error.FFmpegError as error:
            raise BadRecord("truncated or damaged") from error
        self.began = first or 0
        if not parts:
            return np.zeros((0, self.channels), np.float32)
        found = np.concatenate(parts, axis=1).T
        return found[max(start - first, 0) : None if stop is None else max(stop - first, 0)]

    def _seek(self, to: int) -> None:
        import av

        try:
            self.container.seek(to, stream=self.stream)
        except (av.error.FFmpegError, OSError):
            if not self.film:
                raise
            self.container.seek(0)


def soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the second where libsndfile is not there
        raise MissingExtra("Reading sound", "soundfile", "audio") from error
    return soundfile


def _opened(data: bytes | str | os.PathLike) -> _Reader:
    try:
        return _reader(data)
    except OSError as error:
        raise BadRecord.of(error) from error
    except MemoryError as error:
        raise BadRecord("too large for the memory") from error


def _reader(data: bytes | str | os.PathLike) -> _Reader:
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(64)
        if not head:
            raise BadRecord("empty file")
        if _breaks_off(file, size):
            raise BadRecord("truncated")
        file.seek(0)
        head = file.read(256)
    where = io.BytesIO(data) if isinstance(data, bytes) else os.fspath(Path(data))
    if _is_for_av(head) or (is_film(head) and not head.startswith(b"OggS")):
        return _Av(where)
    try:
        return _Sndfile(where)
    except soundfile().LibsndfileError as error:
        known = next((what for start, what in SOUNDS.items() if head.startswith(start)), None)
        if known is not None:
            raise BadRecord(f"damaged ({known})") from error
        other = next((f" (looks like {what})" for start, what in PICTURES.items() if head.startswith(start)), None)
        raise BadRecord(f"not a sound{other or looks_like(head)}") from error


SOUNDS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF"}


def _is_for_av(head: bytes) -> bool:
    """MP4 and its like, AAC frames by themselves, and Windows Media."""
    aac = head[0] == 0xFF and len(head) > 1 and head[1] & 0xF6 == 0xF0
    return head[4:8] == b"ftyp" or aac or head[:4] == b"ADIF" or head[:4] == b"\x30\x26\xb2\x75"


def _breaks_off(file: BinaryIO, size: int) -> bool:
    """Whether a file is shorter than it says, of formats that libsndfile reads without a word; up to 64 bytes pass."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                return length < UNKNOWN and file.tell() + length > size + 64
            file.seek(length + length % 2, os.SEEK_CUR)
    elif head[:4] == b"FORM" and len(head) == 12:
        length = struct.unpack(">I", head[4:8])[0]
        return length < UNKNOWN and 8 + length > size + 64
    elif head[:4] == b"OggS":
        file.seek(max(size - (1 << 17), 0))
        end = file.read()
        page = end[max(end.rfind(b"OggS"), 0) :]
        segments = page[27 : 27 + page[26]] if len(page) > 27 else b""
        return len(page) < 27 + len(segments) + sum(segments) or len(page) <= 27
    return False
