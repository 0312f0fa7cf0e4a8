"""What is hidden of feature sequences: tokens of text, spans of audio and vision, at times a whole modality.

Drawn where the record is; what stands in the place of another span is found in the batch, by numbers drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tacit.data.sequences import MODALITIES, Clip, Packing
from tacit.views.sequences import SequenceInputs

SHOWN, MASK, SWAP, KEEP, BESIDE = range(5)  # what is done at a position; BESIDE is hidden too, and not asked for
SHARES = (0.8, 0.1, 0.1)  # of MASK, SWAP and KEEP


@dataclass(frozen=True)
class Talk:
    """A record and what is hidden of it: `{"image": [B, 1, n], "hidden", "donor", "place", "offset": [B, P],
    "absent": [B, 3]}`, where P counts the positions of text, audio and vision one after another.

    hidden: int8, one of SHOWN … BESIDE.
    donor, place, offset: where SWAP is, which record of the batch and where its span begins, both uniform in [0, 1),
        and how far in the span this position is; of ids `place` says which.
    absent: a modality that is left out; never all that the record has.

    ratio: share of the positions that hold something which is asked for (15 %), on the average exactly.
    spans: positions of a span of text, audio and vision; of short sequences at most a quarter of what there is. Spans
        neither overlap nor touch, nor go over padding.
    aligned: what is hidden in one modality is hidden at the same time in the others, and not asked for there.
    drop: chance that a modality is left out.
    """

    inputs: SequenceInputs
    ratio: float = 0.15
    spans: tuple[int, int, int] = (1, 7, 7)
    aligned: bool = False
    drop: float = 0.1
    name: str = "clip"
    field: str = "sequences"

    def notes(self) -> list[str]:
        return []

    def draw(self, rng: np.random.Generator, clip: Clip) -> dict[str, Any]:
        lengths = self.inputs.lengths
        starts = np.cumsum([0, *lengths])
        hidden = np.zeros(starts[-1], np.int8)
        donor, place = np.zeros((2, starts[-1]), np.float32)
        offset = np.zeros(starts[-1], np.int64)
        for m, (name, start) in enumerate(zip(MODALITIES, starts, strict=False)):
            if not self.inputs.dims[m] or name not in clip.tracks:
                continue
            valid = clip.tracks[name].valid[: lengths[m]]
            for first, span in drawn_spans(rng, valid, self.ratio, self.spans[m]):
                at = slice(start + first, start + first + span)
                hidden[at] = rng.choice((MASK, SWAP, KEEP), p=SHARES)
                donor[at], place[at] = rng.random(2)
                offset[at] = np.arange(span)
        if self.aligned:
            beside(hidden, clip, lengths, starts)
        there = np.array([name in clip.tracks and bool(dim) for name, dim in zip(MODALITIES, self.inputs.dims,
                                                                                 strict=True)])  # fmt: skip
        u = rng.random(3)
        absent = there & (u < self.drop)
        if there.any() and not (there & ~absent).any():
            absent[np.where(there, u, -1).argmax()] = False
        return {"hidden": hidden, "donor": donor, "place": place, "offset": offset, "absent": absent}

    def cut(self, params: dict[str, Any]) -> Packing:
        return self.inputs.packing

    def finish(self, rows: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("hidden", "donor", "place", "offset", "absent")
        return {"image": self.inputs.prepare(rows)} | {name: params[name] for name in names}


def drawn_spans(rng: np.random.Generator, valid: np.ndarray, ratio: float, span: int) -> list[tuple[int, int]]:
    """(first, length) of spans that lie where `valid` [T] is true, `ratio` of these positions on the average.

    All are of one length, `span` or a quarter of what there is, and longer ones than single positions do not touch.
    Where they find no room there are fewer.
    """
    count = int(valid.sum())
    if not count:
        return []
    span = max(min(span, count // 4), 1)
    wanted = int(count * ratio / span + rng.random())
    if span == 1:
        return [(int(i), 1) for i in np.sort(rng.permutation(np.flatnonzero(valid))[:wanted])]
    inside = np.convolve(valid, np.ones(span, int), "valid") == span
    found: list[tuple[int, int]] = []
    for _ in range(wanted):
        free = np.flatnonzero(inside)
        if not len(free):
            break
        first = int(rng.choice(free))
        found.append((first, span))
        inside[max(first - span, 0) : first + span + 1] = False
    return found


def beside(hidden: np.ndarray, clip: Clip, lengths: tuple[int, ...], starts: np.ndarray) -> None:
    """Mark in `hidden` [P], in place, what lies at the same time as what is hidden in another modality.

    Times are those of the data; without these, or where one of two modalities has none, shares of the whole.
    """
    timed = all(track.times is not None for track in clip.tracks.values())
    when = {}
    for m, name in enumerate(MODALITIES):
        if (track := clip.tracks.get(name)) is not None and lengths[m]:
            count = len(track.valid)
            edges = np.arange(count + 1) / count
            times = track.times if timed else np.stack([edges[:-1], edges[1:]], 1)
            when[m] = times[: lengths[m]], track.valid[: lengths[m]]
    before = hidden.copy()
    for m, (times, _) in when.items():
        for at in np.flatnonzero(np.isin(before[starts[m] : starts[m] + len(times)], (MASK, SWAP))):
            begin, end = times[at]
            for other, (theirs, valid) in when.items():
                if other != m:
                    meets = valid & (theirs[:, 0] < end) & (theirs[:, 1] > begin)
                    rows = starts[other] + np.flatnonzero(meets)
                    hidden[rows[hidden[rows] == SHOWN]] = BESIDE
                    hidden[rows[hidden[rows] == KEEP]] = MASK  # what is asked for must not be seen beside it
