"""From runs to one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.errors import DataError, UsageError
from tacit.report.contents import bad_files_section, reconstructions_section, settings_section, views_section
from tacit.report.curves import curves_section
from tacit.report.features import features_section, neighbours_section
from tacit.report.markup import Html, join, tag
from tacit.report.outcome import encoder_of, outcome_section, probes_section
from tacit.report.page import page
from tacit.report.retrieval import retrieval_section
from tacit.report.sample import Sample, take
from tacit.run import Run, write_text


def report(
    runs: Sequence[Run | str | os.PathLike],
    out: str | os.PathLike,
    *,
    data: Any = None,
    limit: int = 2000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write one self-contained HTML page about one run, or about several side by side.

    Args:
        runs: run folders; an unfinished one is shown as far as it got.
        out: the page; written whole or not at all.
        data: files for spectra, maps and neighbours, as `tacit.data.open_source` takes them; by default what each run
            was trained on. A part that cannot be shown is left out, with one line that says how to get it.
        limit: records of spectra, maps and neighbours, drawn by `seed`.
        progress: called with (what, records done, records in all).

    Raises:
        UsageError: no run, or `out` is a folder. DataError: `data` was given and cannot be used.
    """
    runs = [run if isinstance(run, Run) else Run(run) for run in runs]
    out = Path(out)
    if not runs:
        raise UsageError("A report needs at least one run folder: tacit report runs/moby --out report.html")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name the page to write: --out {out / 'report.html'}")
    names = _names(runs)
    samples = {
        name: _sample(run, data, limit=limit, seed=seed, progress=progress)
        for name, run in zip(names, runs, strict=True)
    }
    sections = [
        outcome_section(names, runs),
        probes_section(names, runs),
        curves_section(names, [run.metrics for run in runs]),
        features_section(samples, seed=seed, progress=progress),
        neighbours_section(samples, seed=seed),
        retrieval_section(samples, runs, seed=seed),
        views_section(names, runs),
        reconstructions_section(names, runs),
        bad_files_section(names, runs),
        settings_section(names, runs),
    ]
    title = f"Report: {names[0]}" if len(runs) == 1 else f"Report: {len(runs)} runs"
    write_text(out, page(title, _intro(names, runs), [s for s in sections if s is not None]))
    return out


def _sample(run: Run, data: Any, **how: Any) -> Sample | str:
    """The sample, or why there is none. Only data that was asked for is worth an error."""
    try:
        return take(run, data, **how)
    except DataError as error:
        if data is not None and run.encoder.exists():
            raise
        return f"{error} Give the files by --data PATH." if run.encoder.exists() else str(error)


def _intro(names: list[str], runs: list[Run]) -> Html:
    lines = []
    for name, run in zip(names, runs, strict=True):
        settings = run.settings
        what = f"{settings.get('method')}, {encoder_of(settings)}, seed {settings.get('seed')}"
        data = ", ".join(str(d) for d in settings.get("data") or [])
        label = [tag("bdi", name), ": "] if len(runs) > 1 else []
        lines.append(tag("p", *label, what, ", on ", tag("bdi", data), class_="quiet"))
    return join(lines)


def _names(runs: list[Run]) -> list[str]:
    """As much of the end of each path as tells the runs apart."""
    parts = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i + 1}: {'/'.join(p[-2:])}" for i, p in enumerate(parts)]
