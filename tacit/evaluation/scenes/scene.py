"""What a protocol with data of a kind of its own gets, gives back and says of itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.groups import bootstrap_groups
from tacit.evaluation.task import Score


class Opened(NamedTuple):
    """Data as its protocol takes it, and the names that the split is known by, a list a part."""

    data: Any
    names: Sequence[Sequence[str]]


class Found(NamedTuple):
    """Scores, (name, reason) of records that were left out, and why scores are missing, by name."""

    scores: list[Score]
    bad: list[tuple[str, str]]
    skipped: dict[str, str] = {}


@dataclass(frozen=True)
class Job:
    """One encoder to be scored; `tell(done, in all)` is called as it goes on.

    of:          "run", "random-init" or, of sounds, "raw-input": the encoder says how inputs are prepared, no more
    checkpoints: a folder for trainings that may be killed, or None
    """

    encoder: Encoder
    of: str
    seed: int
    workers: int
    tell: Callable[[int, int], None] | None
    checkpoints: Path | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def mean(
        self, metric: str, values: np.ndarray, settings: dict[str, Any], groups: Sequence[str] | None = None, over=""
    ) -> Score:
        """Mean of one value a record, with its interval by the bootstrap over records, or over `groups`, in words
        `over`, where there are two or more."""
        if groups is not None and len(set(groups)) > 1:
            value, low, high = bootstrap_groups(values, groups, seed=self.seed)
            settings = settings | {"interval_over": over}
        else:
            value, (low, high) = float(values.mean()), intervals.bootstrap(values, seed=self.seed)
        return Score("", metric, value, low, high, len(values), self.of, settings, values)


@dataclass(frozen=True)
class Scene:
    """A protocol as data: how its folder is opened, how it is run, what it needs.

    open:   (data, test or None, encoder, options) -> Opened
    run:    (job, data, **options) -> Found; options are its keyword-only parameters
    needs:  what the data is, in words, for those who gave another
    reads:  options by which files are read in another way
    known:  words that an option may be
    check:  raises `UsageError` for options (with their defaults) that this encoder cannot have; reads nothing
    sounds: it is for these and not for images; raw inputs are scored too
    """

    open: Callable[[Path, Path | None, Encoder, dict[str, Any]], Opened]
    run: Callable[..., Found]
    needs: str
    reads: tuple[str, ...] = ()
    known: dict[str, Collection[str]] = field(default_factory=dict)
    check: Callable[[Encoder, dict[str, Any]], None] | None = None
    sounds: bool = False


def one_folder(name: str, data: Path, test: Path | None, needs: str) -> Path:
    """`data`, or the error for what is no folder, or two."""
    if test is not None:
        raise UsageError(f"{name} takes one folder, {needs}; leave --test out.")
    if not data.is_dir():
        raise DataError(f"{data} is not a folder. {name} needs {needs}.")
    return data


def named(scores: list[Score], protocol: str) -> list[Score]:
    """The same scores under the name they were asked for by."""
    return [replace(score, protocol=protocol) for score in scores]
