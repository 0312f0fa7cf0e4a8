"""`audit`, `export` and `report`: what goes into a run, and what comes out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import encoder_of
from tacit.run import Run


def audit(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    detector: Sequence[Any] = (),
    near: int | None = None,
    metadata: str | os.PathLike | None = None,
    licence: str | None = None,
    unlicensed: str = "stop",
    remove: str | os.PathLike | None = None,
    truth: str | None = None,
    source: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Sort out what of a folder of images may be trained on: `out`/kept.csv is a table that `pretrain` takes as data.

    Args:
        detector: functions of yours that score a picture, asked in this order, as "face=module:function>0.5" or
            `tacit.data.audit.Stage`.

    The others are those of `tacit.data.audit.audit`. Returns what `out`/provenance.json holds.
    """
    from tacit.data.audit import Stage
    from tacit.data.audit import audit as audit_folder

    stages = [d if isinstance(d, Stage) else Stage.parse(d) for d in detector]
    return audit_folder(
        folder, out, stages, near=near, metadata=metadata, licence=licence, unlicensed=unlicensed, remove=remove,
        truth=truth, source=source, progress=progress,
    ).provenance  # fmt: skip


def export(
    what: Any, to: str, out: str | os.PathLike, *, check: bool = True, size: int | None = None,
    window: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The encoder in the form another tool loads: "timm", "transformers", "torch" or "onnx"; verified to agree.

    Args:
        size, window: side of the inputs, and a Swin's window, that it is made for, where not its own; see
            `tacit.encoders.at_size`.
    """
    from tacit.encoders import at_size
    from tacit.export import export as export_encoder

    encoder = encoder_of(what)
    if size is not None or window is not None:
        encoder = at_size(encoder, size, window)
    return export_encoder(encoder, to, Path(out), check=check)


def report(
    runs: Any,
    out: str | os.PathLike,
    *,
    data: Any = None,
    limit: int = 2000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """One self-contained HTML page about one run, or several side by side."""
    from tacit.report import report as write_report

    many = runs if isinstance(runs, list | tuple) else [runs]
    found = [run if isinstance(run, Run) else Run(run) for run in many]
    return write_report(found, Path(out), data=data, limit=limit, seed=seed, progress=progress)
