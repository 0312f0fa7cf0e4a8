"""Training that may be killed: one file with all that the next step depends on, removed when it is through."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit.data.index import cache_folder
from tacit.errors import RunFailed, UsageError
from tacit.evaluation.cache import fingerprint
from tacit.run import atomic
from tacit.views import rng

MINUTES = 10  # between checkpoints
DAYS = 30  # after which one that nobody went on with is removed
STEPS = 2**40 + 1  # a record number that no record has: its draws are those of the steps


def folder(cache: bool) -> Path | None:
    """Where trainings under way are kept, if they are."""
    return cache_folder(None) / "training" if cache else None


def seed_step(seed: int, step: int) -> None:
    """All that torch (dropout, stochastic depth, regions) and numpy's old generator (timm's Mixup) draw in this step
    depends on (seed, step) alone."""
    drawn = rng(seed, step, STEPS, 0)
    torch.manual_seed(int(drawn.integers(2**63)))
    np.random.seed(int(drawn.integers(2**32)))  # noqa: NPY002


def key(model: nn.Module, files: Iterable[Path], *about: Any) -> str:
    """The same for the same weights to begin with, what is trained of them, names and sizes of files, and `about`.

    `about` is told apart by `repr`.
    """
    digest = hashlib.blake2b(fingerprint(model).encode(), digest_size=16)
    digest.update(repr([name for name, p in model.named_parameters() if p.requires_grad]).encode())
    digest.update(repr([(f.name, f.stat().st_size if f.is_file() else -1) for f in files]).encode())
    digest.update(repr(about).encode())
    return digest.hexdigest()


@dataclass
class Checkpoint:
    """A file at `path`, or none; `of` is its training's `key`. Saved every `MINUTES`, or every `steps` if not 0.

    A `path` without a suffix is a folder, in which every training has a file of its own.
    """

    path: Path | None
    of: str = ""
    steps: int = 0
    saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path is not None and not Path(self.path).suffix:
            for left in Path(self.path).glob("*.ckpt"):
                if time.time() - left.stat().st_mtime > DAYS * 86400:
                    left.unlink(missing_ok=True)
            self.path = Path(self.path) / f"{self.of}.ckpt"

    def resume(self, parts: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Put every part back with its `load_state_dict`; the step to go on with, and what was kept beside.

        0 and nothing without a file.

        Raises:
            UsageError: the file is of another training, or no such file at all.
        """
        if self.path is None or not Path(self.path).is_file():
            return 0, {}
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            of, step, states, more = (kept[name] for name in ("of", "step", "parts", "more"))
        except Exception as error:  # torch's reader raises nearly anything
            raise UsageError(
                f"{self.path} is no checkpoint of a fine-tuning ({type(error).__name__}). Remove it, or name another."
            ) from error
        if of != self.of:
            raise UsageError(
                f"{self.path} is of another fine-tuning: its settings, precision, data, encoder or seed were "
                "others. Remove it to start anew, or name another file."
            )
        for name, part in parts.items():
            part.load_state_dict(states[name])
        return step, more

    def offer(self, step: int, parts: dict[str, Any], more: dict[str, Any] | None = None) -> None:
        """Save the state of every part after `step` steps, if it is time, with `more` beside.

        Raises:
            RunFailed: it cannot be written.
        """
        due = step % self.steps == 0 if self.steps else time.monotonic() - self.saved > 60 * MINUTES
        if self.path is None or not due:
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        try:
            with atomic(self.path) as temporary:
                torch.save({"of": self.of, "step": step, "parts": states, "more": more or {}}, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise RunFailed(
                f"{self.path} cannot be written: {error}. The disk may be full; the checkpoint before it is untouched. "
                "Make room and start again: training goes on from there."
            ) from error
        self.saved = time.monotonic()

    def done(self) -> None:
        """Training is through; the file is removed."""
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
