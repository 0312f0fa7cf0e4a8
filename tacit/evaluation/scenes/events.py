"""`events`: what is heard when, by a linear layer on frozen vectors of frames, as ATST-Frame is scored on DESED."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation.clinical import operating_points
from tacit.evaluation.event_scores import class_f1, event_counts, f1_scores, segment_counts
from tacit.evaluation.event_sets import NEEDS, EventSet, active, events_in, matched, open_events
from tacit.evaluation.frames import check_frames, frames_of, grid_of, of_bands, of_encoder
from tacit.evaluation.groups import bootstrap_groups, grouped_split
from tacit.evaluation.multi_label import multi_label_probe
from tacit.evaluation.psds import SCENARIOS, psds_of, thresholds
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene
from tacit.evaluation.task import Score
from tacit.views import Grid

THRESHOLDS = ("held_out", "half")


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    if test is None:
        if not (data / "train").is_dir() or not (data / "test").is_dir():
            raise UsageError(f"{data} has no train/ and test/. events needs {NEEDS}.")
        data, test = data / "train", data / "test"
    train = open_events(data)
    parts = train, matched(open_events(test), train.classes)
    named = [[*(part.source.name(i) for i in range(len(part.source))), part.source.fingerprint] for part in parts]
    return Opened(parts, named)


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    check_frames(encoder)
    grid_of(encoder, options["overlap"])


def run(
    job: Job, data: tuple[EventSet, EventSet], *,
    threshold: str = "held_out", median: float = 0.28, overlap: float = 0.0, points: int = 50,
) -> Found:  # fmt: skip
    """F1 of segments of a second and of events (onset within 0.2 s), over all classes and as their mean; PSDS.

    Multi-label logistic regression on every frame of training, its strength swept on a held-out fifth of the training
    recordings, where `threshold=held_out` also takes the threshold of each class with the best F1 of frames; `half` is
    0.5. The probabilities of frames go through a median filter of `median` seconds. `overlap` as of `embed`. PSDS is
    taken from `points` thresholds.
    """
    grid = grid_of(job.encoder, overlap)
    bad: list[tuple[str, str]] = []
    train, test = (_frames(job, data, part, grid, bad) for part in (0, 1))
    classes = len(data[0].classes)
    y = [active(data[0].events[i], len(x), grid.seconds, classes) for i, x in train.items()]
    x, targets = torch.cat(list(train.values())), torch.from_numpy(np.concatenate(y))
    of = np.repeat(np.arange(len(train)), [len(x) for x in train.values()])
    keep, held = (torch.from_numpy(rows) for rows in grouped_split(of, targets.numpy(), 0.2, job.seed))
    found, strength = multi_label_probe(x, targets, torch.cat(list(test.values())), parts=(keep, held))
    cuts = np.full(classes, 0.5)
    if threshold == "held_out":
        on_held, _ = multi_label_probe(x[keep], targets[keep], x[held], strength=strength)
        cuts = best_cuts(on_held.numpy(), targets[held].numpy())
    frames = 2 * round(max(median / grid.seconds - 1, 0) / 2) + 1
    parts = found.split([len(x) for x in test.values()])
    scores = [median_filter(part.numpy(), size=(frames, 1), mode="nearest") for part in parts]
    true = [data[1].events[i] for i in test]
    seconds = [
        max([len(x) * grid.seconds, *(event.offset for event in of_one)])
        for x, of_one in zip(scores, true, strict=True)
    ]
    segments, events = [], []
    for x, of_one, length in zip(scores, true, seconds, strict=True):
        said = events_in(x >= cuts, grid.seconds)
        segments.append(segment_counts(said, of_one, length, classes))
        events.append(event_counts(said, of_one, classes))
    about = {
        "median": median, "overlap": overlap, "frame": grid.seconds, "l2": strength,
        "feature": "log-mel bands of frames" if job.of == "raw-input" else "tokens, the mean over bands",
    }  # fmt: skip
    told = {"threshold": threshold, "thresholds": _by_class(data[1], cuts)}
    rows = [
        score
        for name, counts in (("segment_f1", segments), ("event_f1", events))
        for score in _f1(job, name, np.stack(counts), about | told, data[1])
    ]
    for name, criteria in SCENARIOS.items():
        of = psds_of(scores, grid.seconds, true, seconds, criteria, thresholds(points))
        rows.append(_psds(job, name, of, len(scores), about | {"points": points, **criteria._asdict()}, data[1]))
    return Found(rows, bad)


def _frames(job: Job, data: tuple[EventSet, EventSet], which: int, grid: Grid, bad: list) -> dict[int, Tensor]:
    """Vectors [frames, D] of every recording that can be read whole, by its number; no other is scored."""
    source, unread = data[which].source, []
    make = of_bands(job.encoder) if job.of == "raw-input" else of_encoder(job.encoder)
    before, total = (0, len(data[0].source))[which], sum(len(part.source) for part in data)
    tell = job.tell and partial(_told, job.tell, before, total)
    parts: dict[int, list[Tensor]] = {}
    how = {"workers": job.workers, "device": job.device, "progress": tell}
    for index, _, x in frames_of(make, job.encoder, source, grid, unread, **how):
        parts.setdefault(index, []).append(x)
    bad += unread
    names = {name for name, _ in unread}
    found = {i: torch.cat(some) for i, some in parts.items() if source.name(i) not in names}
    if len(found) < 2:
        raise DataError(f"{source.title} has fewer than two recordings that can be read. Give more.")
    return found


def _told(tell, before: int, total: int, done: int, _: int) -> None:
    tell(before + done, total)


def best_cuts(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The threshold [C] with the best F1 for each class of [N, C]; 0.5 where there is nothing to find."""
    cuts = np.full(targets.shape[1], 0.5)
    for c in np.flatnonzero(targets.any(0)):
        at, true, false = operating_points(probabilities[:, c], targets[:, c])
        cuts[c] = at[(true / (true[-1] + true + false)).argmax()]
    return cuts


def _f1(job: Job, name: str, counts: np.ndarray, about: dict[str, Any], part: EventSet) -> list[Score]:
    """Micro and macro F1 of counts [recordings, classes, 3], intervals over recordings."""
    values = zip(*bootstrap_groups((counts,), None, f1_scores, resamples=500, seed=job.seed), strict=True)
    of = about | {"per_class": _by_class(part, class_f1(counts))}
    return [
        Score("", metric, float(value), float(low), float(high), len(counts), job.of, of)
        for metric, (value, low, high) in zip((name, f"{name}_macro"), values, strict=True)
    ]


def _psds(
    job: Job, name: str, of: Callable[[np.ndarray], tuple[float, np.ndarray]], count: int, about: dict[str, Any],
    part: EventSet,
) -> Score:  # fmt: skip
    """PSDS of so many recordings, the interval over these; `of` as of `psds_of`."""
    rows = np.arange(count)
    values = bootstrap_groups(rows, None, lambda some: of(some)[0], resamples=500, seed=job.seed)
    about = about | {"per_class": _by_class(part, of(rows)[1])}
    return Score("", name, *values, count, job.of, about)


def _by_class(part: EventSet, values: np.ndarray) -> dict[str, float]:
    return {n: round(float(v), 4) for n, v in zip(part.classes, values, strict=True) if np.isfinite(v)}


SCENE = Scene(
    open_data, run, f"recordings with a table of events: {NEEDS}", known={"threshold": THRESHOLDS}, check=check,
    sounds=True,
)  # fmt: skip
