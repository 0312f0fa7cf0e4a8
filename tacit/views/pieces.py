"""Recordings of any length, read in pieces of an encoder's own length that lie on one grid of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from tacit.data import Recording, Segment, Source
from tacit.data.recording import length_at
from tacit.errors import BadRecord, UsageError
from tacit.views.dataset import check_field, stack
from tacit.views.sound import SoundInputs


class Piece(NamedTuple):
    """A piece that begins at frame `start` of its recording, and of which the frames [first, stop) are taken."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class Grid:
    """Frames of `frame` samples at `rate` Hz, of which a piece holds `length` and shares `overlap` with the next."""

    frame: int
    rate: int
    length: int
    overlap: int = 0

    @classmethod
    def of(cls, inputs: SoundInputs, rows: int, overlap: float = 0.0) -> Grid:
        """Of an encoder with a token every `rows` rows of the spectrogram; `overlap` is a share of a piece, 0 to 0.9.

        Raises:
            UsageError: another overlap.
        """
        if not 0 <= overlap <= 0.9:
            raise UsageError(f"overlap = {overlap:g}: must be a share of a piece from 0 to 0.9, such as 0.5.")
        length = inputs.frames // rows
        return cls(rows * inputs.shift, inputs.rate, length, min(round(overlap * length), length - 1))

    @property
    def seconds(self) -> float:
        """Of a frame."""
        return self.frame / self.rate

    def frames(self, samples: int, rate: int) -> int:
        """Whole frames in so many samples at `rate`; one of a recording that is shorter, since silence follows it."""
        return max(length_at(samples, rate, self.rate) // self.frame, 1)

    def count(self, frames: int) -> int:
        """Pieces of a recording of so many frames."""
        return -(-max(frames - self.length, 0) // (self.length - self.overlap)) + 1

    def piece(self, frames: int, number: int) -> Piece:
        """One of the pieces that cover a recording, each frame taken from the one in whose middle it lies most.

        The last is moved back to where the recording ends, so that only one shorter than a piece is filled up.
        """
        step, last = self.length - self.overlap, max(frames - self.length, 0)
        before, start, after = (min(k * step, last) for k in (number - 1, number, number + 1))
        first = (before + start + self.length) // 2 if number else 0
        stop = (start + after + self.length) // 2 if number + 1 < self.count(frames) else frames
        return Piece(start, first, stop)

    def pieces(self, frames: int) -> list[Piece]:
        return [self.piece(frames, number) for number in range(self.count(frames))]


class Lengths(Dataset):
    """`self[i]`: (frames of a recording, ""), or (0, why it cannot be read); nothing is decoded.

    Raises:
        DataError: images.
    """

    def __init__(self, source: Source, inputs: SoundInputs, grid: Grid):
        check_field(source, inputs)
        self.source, self.grid = source, grid

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, str]:
        try:
            return self.grid.frames(*self.source.record(index, ("audio",))["audio"].extent), ""
        except BadRecord as error:
            return 0, str(error)


class Pieces(Dataset):
    """What the pieces of these records, of so many frames each, sound like, one record after the other; see `collate`.

    Of pieces that follow each other the recording is opened once.
    """

    def __init__(self, source: Source, inputs: SoundInputs, grid: Grid, records: Sequence[int], frames: Sequence[int]):
        self.source, self.inputs, self.grid = source, inputs, grid
        self.records, self.frames = np.array(records, np.int64), np.array(frames, np.int64)
        self.ends = np.cumsum([grid.count(n) for n in frames], dtype=np.int64)
        self._opened: tuple[int, Recording] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, number: int) -> tuple[int, Piece]:
        """The record, and which piece of it."""
        i = int(np.searchsorted(self.ends, number, side="right"))
        frames = int(self.frames[i])
        return int(self.records[i]), self.grid.piece(frames, number - int(self.ends[i]) + self.grid.count(frames))

    def __getitem__(self, number: int) -> tuple[int, np.ndarray | None, str]:
        record, piece = self.at(number)
        try:
            if self._opened is None or self._opened[0] != record:
                self._opened = record, self.source.record(record, ("audio",))["audio"]
            cut = Segment(piece.start * self.grid.frame, self.inputs.samples, self.inputs.rate)
            return number, self._opened[1].crops([cut])[0], ""
        except BadRecord as error:
            return number, None, str(error)

    @staticmethod
    def collate(found: list[tuple[int, np.ndarray | None, str]]) -> dict[str, Any]:
        """`{"waves": [B, 1, n] or None, "numbers": [B], "bad": [(number, reason)]}`."""
        good = [(number, wave) for number, wave, _ in found if wave is not None]
        return {
            "waves": stack([wave for _, wave in good]) if good else None,
            "numbers": [number for number, _ in good],
            "bad": [(number, why) for number, wave, why in found if wave is None],
        }
