"""How well sound events are found: F1 of segments and of events, from counts that are kept for each recording.

After Mesaros et al. 2016, Metrics for Polyphonic Sound Event Detection, Applied Sciences 6(6), with the
collars of DCASE's task on domestic sounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

SEGMENT = 1.0  # seconds
COLLAR, SHARE = 0.2, 0.2  # of onsets, in seconds; of offsets that or this share of the event, whichever is more
CLOSE = 1e-6  # seconds that rounding may add


class Event(NamedTuple):
    """From `onset` to `offset` seconds, of the class with this number."""

    onset: float
    offset: float
    label: int


def segment_counts(said: Sequence[Event], true: Sequence[Event], seconds: float, classes: int) -> np.ndarray:
    """Segments of a second, the last perhaps shorter, of a recording of `seconds` [classes, 3]: rightly found, falsely
    found and missed. A class is in every segment that one of its events touches."""
    found, there = (_segments(events, seconds, classes) for events in (said, true))
    return np.stack([found & there, found & ~there, ~found & there]).sum(2).T


def _segments(events: Sequence[Event], seconds: float, classes: int) -> np.ndarray:
    active = np.zeros((classes, max(int(np.ceil(seconds / SEGMENT - CLOSE)), 1)), bool)
    for onset, offset, label in events:
        active[label, int((onset + CLOSE) // SEGMENT) : int(np.ceil(offset / SEGMENT - CLOSE))] = True
    return active


def event_counts(
    said: Sequence[Event], true: Sequence[Event], classes: int, *, collar: float = COLLAR, share: float = SHARE
) -> np.ndarray:
    """Events of a recording [classes, 3]: rightly found, falsely found and missed.

    One that was found is right where its onset is within `collar` of a true one's of its class, and its offset within
    `collar` or `share` of the true one's length, whichever is more; each true event is found by one at the most, such
    that as many as possible are.
    """
    counts = np.zeros((classes, 3), np.int64)
    for label in range(classes):
        a, b = (np.array([e[:2] for e in events if e.label == label]).reshape(-1, 2) for events in (said, true))
        away = np.abs(a[:, None] - b)  # [found, true, 2]
        allowed = np.maximum(collar, share * (b[:, 1] - b[:, 0]))
        fits = (away[..., 0] <= collar + CLOSE) & (away[..., 1] <= allowed + CLOSE)
        hits = int((maximum_bipartite_matching(csr_matrix(fits)) >= 0).sum()) if fits.any() else 0
        counts[label] = hits, len(a) - hits, len(b) - hits
    return counts


def f1_scores(counts: np.ndarray) -> tuple[float, float]:
    """Of counts [N, classes, 3] over all recordings: F1 of all classes together (micro), and the mean of the classes'
    F1 (macro), of those that there are; NaN where there is nothing to find and nothing was found."""
    of = counts.sum(0).astype(np.float64)
    there = of[:, 0] + of[:, 2] > 0
    return _f1(of.sum(0)), float(class_f1(counts)[there].mean()) if there.any() else float("nan")


def class_f1(counts: np.ndarray) -> np.ndarray:
    """F1 [classes] over recordings; NaN of a class that is neither there nor found."""
    return np.array([_f1(row) for row in counts.sum(0).astype(np.float64)])


def _f1(row: np.ndarray) -> float:
    hits, false, missed = row
    return float(2 * hits / (2 * hits + false + missed)) if row.any() else float("nan")
