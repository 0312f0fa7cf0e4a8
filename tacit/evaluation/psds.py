"""PSDS, the Polyphonic Sound Detection Score: how many events are found at how many false alarms, over all thresholds.

After Bilen et al. 2020, A Framework for the Robust Evaluation of Sound Event Detection (arXiv 1910.08440). The last
releases of the libraries for it, psds_eval 0.5.3 and sed_scores_eval 0.0.4, fail with pandas 3; the tests hold both's
figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, vstack

from tacit.evaluation.event_scores import CLOSE, Event

HOUR = 3600.0  # seconds
MOST = 100.0  # false alarms an hour, up to which the curve is looked at


class Criteria(NamedTuple):
    """What counts as found, and what is held against a system; shares are of a length in seconds.

    dtc:      share of a detection that must lie in events of its class; otherwise it is false
    gtc:      share of an event that detections which are not false must cover; then it is found
    cttc:     share of a false detection in events of another class, from which on it is taken for one of these
    alpha_ct: weight of those beside all that are false
    alpha_st: how much the spread over classes takes from their mean
    """

    dtc: float
    gtc: float
    cttc: float
    alpha_ct: float
    alpha_st: float


SCENARIOS = {"psds1": Criteria(0.7, 0.7, 0.3, 0.0, 1.0), "psds2": Criteria(0.1, 0.1, 0.3, 0.5, 1.0)}  # DCASE's


def thresholds(count: int) -> np.ndarray:
    """So many, in the middles of equal parts of 0 to 1: of 50 they are 0.01, 0.03, …, 0.99."""
    return (np.arange(count) + 0.5) / count


def psds_of(
    scores: Sequence[np.ndarray], frame: float, true: Sequence[Sequence[Event]], seconds: Sequence[float],
    criteria: Criteria, cuts: np.ndarray,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:  # fmt: skip
    """PSDS and that of each class [C] as a function of recordings' numbers, each counted as often as it is named.

    Args:
        scores: [frames, C] of each recording, in frames of `frame` seconds. true: the events of each; those of a class
            that overlap are one. seconds: how long each is. cuts: [T] rising thresholds.
    """
    classes, many = scores[0].shape[1], len(cuts)
    events = [merged(some) for some in true]
    there, lasting = np.zeros((2, len(events), classes))
    for i, some in enumerate(events):
        for onset, offset, label in some:
            there[i, label] += 1
            lasting[i, label] += offset - onset
    found = zip(*(psds_counts(x, frame, y, criteria, cuts) for x, y in zip(scores, events, strict=True)), strict=True)
    tables = [vstack([csr_matrix(of_one.reshape(1, -1)) for of_one in some]) for some in found]
    shapes = (many, classes), (many, classes), (many, classes, classes)

    def of(rows: np.ndarray) -> tuple[float, np.ndarray]:
        times = np.bincount(rows, minlength=len(events)).astype(np.float64)
        counts = [(times @ table).reshape(shape) for table, shape in zip(tables, shapes, strict=True)]
        return psds(*counts, times @ there, times @ lasting, float(times @ np.asarray(seconds)), criteria)

    return of


def merged(events: Sequence[Event]) -> list[Event]:
    """The same with those of a class that overlap as one, by class and by time; those that only touch stay two."""
    found: list[Event] = []
    for event in sorted(events, key=lambda e: (e.label, e.onset)):
        if found and found[-1].label == event.label and event.onset < found[-1].offset:
            found[-1] = found[-1]._replace(offset=max(found[-1].offset, event.offset))
        else:
            found.append(event)
    return found


def psds_counts(
    scores: np.ndarray, frame: float, true: Sequence[Event], criteria: Criteria, cuts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a recording's scores [frames, C] at each threshold: events that are found [T, C], false detections [T, C], and
    those of the first class that are taken for the second [T, C, C].

    A detection is a run of frames at or above the threshold. `true` has no two events of a class that overlap.
    """
    shape = len(cuts), scores.shape[1]
    hits, false, crossed = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros((*shape, shape[1]), np.int32)
    labels = np.array([e.label for e in true], np.int64)
    onset, offset = np.array([e[:2] for e in true]).reshape(-1, 2).T
    for c in np.flatnonzero(scores.max(0) >= cuts[0]):
        cut, start, stop = _detections(scores[:, c], frame, cuts)
        inside = np.minimum(stop[:, None], offset) - np.maximum(start[:, None], onset)
        inside = np.maximum(inside, 0)  # seconds of each detection in each event
        shared = inside @ np.eye(shape[1])[labels]  # … in events of each class
        length, own = stop - start, labels == c
        right = shared[:, c] >= criteria.dtc * length - CLOSE
        covered = np.zeros((len(cuts), own.sum()))
        np.add.at(covered, cut[right], inside[np.ix_(right, own)])
        hits[:, c] = (covered >= criteria.gtc * (offset - onset)[own] - CLOSE).sum(1)
        false[:, c] = np.bincount(cut[~right], minlength=len(cuts))
        other = ~right[:, None] & (shared >= criteria.cttc * length[:, None] - CLOSE)
        other[:, c] = False
        np.add.at(crossed[:, c], cut, other)
    return hits, false, crossed


def _detections(scores: np.ndarray, frame: float, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one class [frames]: the number of the threshold [M], start and stop in seconds [M] of each run."""
    there = (scores >= cuts[:, None]).astype(np.int8)
    edges = np.diff(np.pad(there, ((0, 0), (1, 1))), axis=1)
    cut, start = np.nonzero(edges == 1)
    return cut, start * frame, np.nonzero(edges == -1)[1] * frame


def psds(
    hits: np.ndarray, false: np.ndarray, crossed: np.ndarray, there: np.ndarray, lasting: np.ndarray, seconds: float,
    criteria: Criteria,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """PSDS, from 0 to 1, and that of each class [C]; NaN of a class that is not there, and of no class at all.

    A class's curve is a staircase: the largest share of its events that is found at up to so many false alarms an hour.
    These are its false detections an hour, and `alpha_ct` times, as the mean over the other classes, its detections
    taken for that class for each hour of that class's events.

    Args:
        hits, false: [T, C]; crossed: [T, C, C]; as of `psds_counts`, summed. there: [C] true events; lasting: [C] their
            seconds together; seconds: of all recordings.
    """
    each = np.full(len(there), np.nan)
    known = np.flatnonzero(there)
    if not len(known):
        return float("nan"), each
    alarms = false[:, known] / seconds * HOUR
    if len(known) > 1:
        taken = (crossed[:, known][..., known] / lasting[known]).sum(2) / (len(known) - 1)
        alarms = alarms + criteria.alpha_ct * taken * HOUR
    share = hits[:, known] / there[known]
    at = np.unique(np.append(alarms[alarms <= MOST], 0.0))
    curves = np.stack([_staircase(at, x, y) for x, y in zip(alarms.T, share.T, strict=True)])
    width = np.diff(at, append=MOST)
    each[known] = curves @ width / MOST
    return float(np.maximum(curves.mean(0) - criteria.alpha_st * curves.std(0), 0) @ width / MOST), each


def _staircase(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The largest `y` of the points whose `x` is up to `at`; 0 where there is none."""
    order = np.argsort(x)
    best = np.append(0.0, np.maximum.accumulate(y[order]))
    return best[np.searchsorted(x[order], at, side="right")]
