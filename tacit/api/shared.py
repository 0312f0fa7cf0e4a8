"""What several verbs need."""

from __future__ import annotations

import json
import os
import pickle
from typing import Any

from tacit.errors import DataError, UsageError
from tacit.run import Run
from tacit.settings import from_dict


def encoder_of(what: Any, *, foreign: bool = False):
    from tacit import encoders

    if isinstance(what, encoders.Encoder):
        return what
    return encoders.load(what.path if isinstance(what, Run) else what, foreign=foreign)


def check_images(encoder: Any, what: str) -> None:
    """Raises `UsageError` for an encoder of anything else."""
    from tacit.data.kinds import WORDS
    from tacit.views import field_of

    if (field := field_of(encoder.inputs)) != "image":
        raise UsageError(f"{what} is for images, and {encoder.name} looks at {WORDS[field][1]}.")


def projector_of(what: Any):
    """The projection head of a run as it was last saved, in evaluation mode; None for an encoder that is of no run."""
    import torch

    from tacit import methods

    path = what.path if isinstance(what, Run) else what
    if not isinstance(path, str | os.PathLike) or not Run.is_run(path):
        return None
    run = Run(path)
    file = run.path / "checkpoints" / "last.ckpt"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{file}, which holds the run's projection head, cannot be read ({str(error)[:200]}). Leave neck out."
        ) from error
    cls = methods.find(run.settings["method"])
    with torch.random.fork_rng(devices=[]):
        projector = getattr(cls(from_dict(cls.Settings, run.settings["settings"])), "projector", None)
    if projector is None:
        raise UsageError(f"{cls.title} has no projection head to keep layers of. Leave neck out.")
    prefix = "method.projector."
    projector.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return projector.eval()


def name_of(what: Any) -> str:
    return str(what.path) if isinstance(what, Run) else str(getattr(what, "name", what))


def apart(names: list[str]) -> list[str]:
    """The same names, numbered where two are equal."""
    return [f"{n} ({names[: i + 1].count(n)})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def workers_of(asked: int | None) -> int:
    """One core is left for the training itself; a process more than that only takes turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores - 1, 16), 0) if asked is None else asked


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
