"""The low-shot study: all arms under one budget, then probes with few labels, then one table (Nandam et al. 2024)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit import encoders, evaluation
from tacit.encoders import Encoder
from tacit.engine.journal import Journal, duration
from tacit.errors import BadSettings, DataError
from tacit.evaluation import dense, low_shot, scenes
from tacit.evaluation.evaluate import kind_of
from tacit.evaluation.task import random_twin
from tacit.run import Run, read_json, write_json
from tacit.study import table
from tacit.study.arms import ARMS
from tacit.study.probes import Probes

PROTOCOLS = {"multi-class": "few_shot", "multi-label": "multi_label", "segmentation": "segment"}


@dataclass(frozen=True)
class Budget:
    """What all arms share; a study that goes on must have the same."""

    data: str
    records: int
    fingerprint: str
    encoder: str
    preset: str
    epochs: int
    batch_size: int
    local_crops: int
    settings: tuple[str, ...]
    precision: str


def check(arms: Sequence[str], seeds: Sequence[int], shots: Sequence[int], draws: int, budget: Budget, prototypes: int,
          probes: Probes) -> None:  # fmt: skip
    """Raises `BadSettings` or `DataError` for what could not be finished, before anything is trained."""
    wrong = []
    for name, values, low in (("shots", shots, 1), ("seeds", seeds, 0)):
        if not values or min(values) < low or len(set(values)) < len(values):
            wrong.append(f"{name} = {','.join(map(str, values))}: must be different whole numbers of at least {low}.")
    if draws < 1:
        wrong.append(f"draws = {draws}: must be at least 1.")
    if len(set(arms)) < len(arms) or not arms:
        wrong.append(f"arms = {','.join(arms)}: name each once, and one at least.")
    uses = any(ARMS[arm].changes["view_weight"] or ARMS[arm].changes["patch_weight"] for arm in arms)
    if uses and prototypes > budget.records:
        wrong.append(
            f"prototypes = {prototypes}: more clusters than the {budget.records:,} images there are to share them. "
            f"Set prototypes and patch_prototypes to {budget.records} or less."
        )
    if wrong:
        raise BadSettings(wrong)
    if not probes.columns(shots):
        why = "; ".join(f"{name}: {reason}" for name, reason in probes.left_out.items())
        raise DataError(f"There are no labels to score the arms by ({why}).")
    most = max(shots)
    if probes.classes is not None:
        train, test = probes.classes
        kind_of(train, test)
        y, classes = train.labels, len(train.classes)
        if test is None:  # a fifth is held out by the probe
            fewest = int((np.bincount(y, minlength=classes) * 0.8).min())
            if fewest < most:
                raise DataError(
                    f"shots = {most}: a class of {train.title} keeps {fewest} records beside its test fifth."
                )
        low_shot.draw_shots(y, most, 1, classes=classes)
    if probes.multi is not None:
        low_shot.draw_positives(probes.multi[0].targets.values, most, 1, names=probes.multi[0].targets.names)
    if probes.masks is not None:
        low_shot.draw_positives(dense.classes_in(probes.masks[0]), most, 1)


def run(
    out: Path, arms: Sequence[str], seeds: Sequence[int], shots: Sequence[int], draws: int, budget: Budget,
    probes: Probes, train: Callable[[str, int, Path], Any], *, workers: int = 0, cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train every arm with every seed, score each, write the table. What is finished is not done again.

    Args:
        out: runs/ARM-seedN, scores/, study.json, and table.md, .csv and .json.
        train: (arm, seed, run folder): trains that arm, or goes on with it.

    Returns:
        What table.json holds.

    Raises:
        BadSettings: `out` holds a study of another budget.
    """
    _same_study(out, budget, probes)
    journal = Journal(out / "log.txt", quiet=quiet)
    write_json(out / "study.json", {"budget": asdict(budget), "data": probes.paths})
    jobs = [(arm, seed, out / "runs" / f"{arm}-seed{seed}") for seed in seeds for arm in arms]
    todo = [job for job in jobs if not _finished(job[2])]
    done = len(jobs) - len(todo)
    journal.say(f"{len(jobs)} trainings, {len(arms)} arms x {len(seeds)} seeds; {done} finished before.")
    begun = time.monotonic()
    for number, (arm, seed, folder) in enumerate(todo):
        left = f", about {duration((time.monotonic() - begun) / number * (len(todo) - number))} left" if number else ""
        journal.say(f"Training {number + 1} of {len(todo)}: {arm}, seed {seed}{left}")
        train(arm, seed, folder)
    columns = probes.columns(shots)
    rows = []
    for arm in arms:
        found = [
            _scores(out, f"{arm}-seed{seed}", lambda f=out / "runs" / f"{arm}-seed{seed}": encoders.load(f), arm,
                    ARMS[arm].feature, columns, draws, probes, workers=workers, cache=cache, progress=progress)
            for seed in seeds
        ]  # fmt: skip
        rows.append(_row(arm, ARMS[arm].title, ARMS[arm].feature, columns, found, draws))
        journal.say(f"Scored {arm}.")
    first = encoders.load(out / "runs" / f"{arms[0]}-seed{seeds[0]}")
    for feature in sorted({ARMS[arm].feature for arm in arms}):
        found = [
            _scores(out, f"random-init-{feature}-seed{seed}", lambda s=seed: random_twin(first, s), "random-init",
                    feature, columns, draws, probes, workers=workers, cache=cache, progress=progress)
            for seed in seeds
        ]  # fmt: skip
        rows.append(_row("random-init", "random weights", feature, columns, found, draws))
    of_pixels = [column for column in columns if column["kind"] != "segmentation"]  # which has no raw input
    found = [
        _scores(out, "raw-input", lambda: first, "raw-input", "pooled", of_pixels, draws, probes, workers=workers,
                cache=cache, progress=progress)
    ]  # fmt: skip
    rows.append(_row("raw-input", "raw pixels", "pixels", of_pixels, found, draws))
    result = {
        "study": "lowshot", "budget": asdict(budget), "data": probes.paths, "seeds": list(seeds), "draws": draws,
        "columns": columns, "left_out": probes.left_out, "rows": rows,
    }  # fmt: skip
    table.write(out, result)
    journal.say(f"Done. The table is in {out / 'table.md'}, .csv and .json.")
    return result


def _finished(folder: Path) -> bool:
    return Run.is_run(folder) and Run(folder).summary is not None


def _same_study(out: Path, budget: Budget, probes: Probes) -> None:
    before = read_json(out / "study.json")
    if before is None:
        return
    now = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(budget).items()}
    wrong = [
        f"{name} = {value}: the study in {out} was begun with {before['budget'].get(name)}."
        for name, value in now.items() if before["budget"].get(name) != value
    ] + [
        f"{name} = {probes.paths[name]}: the study in {out} was scored on {path}."
        for name, path in before["data"].items() if probes.paths.get(name, path) != path
    ]  # fmt: skip
    if wrong:
        raise BadSettings([*wrong, "All arms of a study have one budget. Choose another --out."])


def _scores(
    out: Path, name: str, make: Callable[[], Encoder], of: str, feature: str, columns: list[dict[str, Any]], draws: int,
    probes: Probes, **how: Any,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """`{spec: score}` of one subject, kept in scores/NAME.json; only what is missing there is computed."""
    file = out / "scores" / f"{name}.json"
    kept = read_json(file) or {}
    for kind in PROTOCOLS:
        wanted = [_spec(column, feature, draws) for column in columns if column["kind"] == kind]
        if missing := [spec for spec in wanted if spec not in kept]:
            found = _evaluated(kind, missing, make(), of, probes, **how)
            kept |= dict(zip(missing, found, strict=True))
            write_json(file, kept)
    return kept


def _spec(column: dict[str, Any], feature: str, draws: int) -> str:
    how = {"few_shot": f":classifier=msn:feature={feature}", "multi_label": f":feature={feature}", "segment": ""}
    name = PROTOCOLS[column["kind"]]
    return f"{name}:shots={column['shots']}:draws={draws}{how[name]}"


def _evaluated(
    kind: str, specs: list[str], encoder: Encoder, of: str, probes: Probes, *, workers: int, cache: bool,
    progress: Callable[[str, int, int], None] | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One score a spec, in their order, all drawn by one seed: every subject gets the same labels."""
    tell = progress and (lambda what, done, total: progress(f"{of}: {what}", done, total))
    raw = of == "raw-input"
    if kind == "segmentation":
        asked = [evaluation.parse(spec) for spec in specs]
        found = scenes.evaluate(
            encoder, Path(probes.paths[kind]), None, asked, baselines=False, workers=workers, cache=cache, progress=tell
        )
        results = [r for r in found["results"] if r["metric"] == "miou"]
    else:
        train, test = probes.classes if kind == "multi-class" else probes.multi
        found = evaluation.evaluate(
            encoder, train, test, specs, baselines=raw, workers=workers, cache=cache, progress=tell
        )
        results = [r for r in found["results"] if r["of"] == ("raw-input" if raw else "run")]
    by_shots = {r["settings"]["shots"]: r for r in results}
    return [
        by_shots[evaluation.parse(spec).options["shots"] if kind == "segmentation" else _shots(spec)] for spec in specs
    ]


def _shots(spec: str) -> int:
    return evaluation.parse(spec).options["shots"][0]


def _row(
    name: str, title: str, feature: str, columns: list[dict[str, Any]], found: list[dict[str, Any]], draws: int
) -> dict[str, Any]:
    of = "pooled" if feature == "pixels" else feature
    cells = [table.summed(c["name"], [scores[_spec(c, of, draws)] for scores in found], draws) for c in columns]
    return {"name": name, "title": title, "feature": feature, "cells": cells}
