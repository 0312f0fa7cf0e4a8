"""Sounds of a source, decoded when they are asked for."""

from __future__ import annotations

from typing import NamedTuple


class Segment(NamedTuple):
    """What to read of a recording: `samples` from `start` on, of it as resampled to `rate`, rolled by `shift` before.

    shift: so many samples at `rate` the recording is rolled circularly to the right, before it is padded and cut.
    """

    start: int
    samples: int
    rate: int
    shift: int = 0
