"""A training that an evaluation needs, saved now and then under the cache folder, so that a broken-off one goes on."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tacit.data.index import cache_folder
from tacit.errors import DataError
from tacit.run import atomic

VERSION = 1
MINUTES = 5.0
DAYS = 30  # after which one that nobody went on with is removed


@dataclass
class Checkpoint:
    """One file of a training that `job` tells from all others. Nothing is written in the first minutes."""

    path: Path
    job: str
    minutes: float  # between two saves
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, kind: str, *about: Any) -> Checkpoint:
        """The file of the training that `about` (anything with a JSON form) describes, named by its fingerprint."""
        job = hashlib.blake2b(json.dumps([VERSION, kind, *about]).encode(), digest_size=16).hexdigest()
        folder = cache_folder(None) / kind
        for old in folder.glob("*.ckpt"):
            if old.stat().st_mtime < time.time() - DAYS * 86400:
                old.unlink(missing_ok=True)
        return cls(folder / f"{job}.ckpt", job, MINUTES)

    def load(self, parts: dict[str, Any]) -> int:
        """Put every part (with `load_state_dict`) where it was; the number of steps done, 0 without a file.

        Raises:
            DataError: the file is of another training, or damaged.
        """
        if not self.path.is_file():
            return 0
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            job, step, states = found["job"], found["step"], found["parts"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{self.path} is damaged ({str(error)[:200]}). Remove it to begin anew.") from error
        if job != self.job:
            raise DataError(f"{self.path} is of another training: other weights, data, settings or seed. Remove it.")
        for name, part in parts.items():
            part.load_state_dict(states[name])
        return step

    def save_if_due(self, step: int, parts: dict[str, Any]) -> None:
        """Write every part's state after `step` steps, if the last save was long enough ago; whole or not at all."""
        if time.monotonic() - self.saved < self.minutes * 60:
            return
        states = {name: part.state_dict() for name, part in parts.items()}
        with atomic(self.path) as temporary:
            torch.save({"job": self.job, "step": step, "parts": states}, temporary)
        self.saved = time.monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
