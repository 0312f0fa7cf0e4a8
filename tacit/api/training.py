"""`pretrain`, and what there is to pre-train with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import tacit
from tacit.api.shared import workers_of
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.run import Run, write_json, write_text
from tacit.settings import describe, from_dict, problems, to_dict, with_assignments

# What may differ when a run goes on: how it is watched and kept, not what it learns.
FREE = frozenset(
    [
        "compile",
        "channels_last",
        "log_every",
        "check_every",
        "save_every",
        "save_minutes",
        "keep_every",
        "keep",
        "on_collapse",
        "loggers",
    ]
)


def pretrain(
    method: str,
    data: Any,
    out: str | os.PathLike | None,
    *,
    encoder: str | None = None,
    preset: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    set: Sequence[str] = (),
    weights: Sequence[float] | None = None,
    val: Any = None,
    devices: int = 1,
    nodes: int = 1,
    precision: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
    init: str | None = None,
    max_bad: float = 0.01,
    dry_run: bool = False,
    quiet: bool = False,
) -> Run | dict[str, Any]:
    """Pre-train an encoder on unlabelled data; everything about it goes into the run folder `out`.

    Args:
        method: a published system; `tacit methods` lists them.
        data: a folder, archive, table, hub name or array, or a list of them; see `tacit.data.open_source`.
        out: the run folder. One that holds a run is refused, unless `resume`. None for a dry run that resumes nothing.
        encoder, epochs, batch_size: shorthands for the settings of these names.
        preset: "paper" (the default) or "small".
        steps: optimiser steps, in place of epochs.
        set: more settings, as "field=value".
        weights: one a data set: the share of each in every epoch.
        val: labelled data for the online k-NN, which never trains anything.
        devices, nodes: processes on this machine, and machines; under torchrun or SLURM give what they start.
        precision: "auto" (bf16 where the hardware has it), "32", "bf16" or "16".
        workers: processes that read files; by default as many as there are cores to spare.
        seed: everything random follows from it.
        resume: go on where the run in `out` was last saved; start it if there is none.
        init: weights to start the encoder from; see `tacit.encoders.initialise`.
        max_bad: the largest share of unreadable files.
        dry_run: resolve everything, take two steps and time the second, write nothing, and return what it found.

    Raises:
        UsageError: something cannot work, found before any data is read. DataError, RunFailed: the run cannot go on.
    """
    import torch

    from tacit import methods
    from tacit.data import mix, open_source
    from tacit.distributed import rank
    from tacit.engine.journal import Journal, duration
    from tacit.engine.plan import PRECISIONS, Plan
    from tacit.engine.recipe import steps_per_epoch
    from tacit.engine.train import prepare, rehearse, train
    from tacit.views import compiles_first

    if out is None and (resume or not dry_run):
        raise UsageError("out is missing: name the run folder.")
    out = Path(out or os.devnull)  # to which a dry run writes nothing
    cls = methods.find(method)
    before = Run(out).settings if Run.is_run(out) else None
    if before is not None and rank() == 0 and not resume and not dry_run:
        raise UsageError(
            f"{out} holds a run ({before['method']}{_how_far(Run(out))}). "
            "Go on with it by --resume, or choose another --out."
        )
    going_on = before if resume else None
    settings = resolve(cls, preset, going_on, encoder=encoder, epochs=epochs, batch_size=batch_size, set=set)
    if precision not in PRECISIONS:
        raise Unknown("precision", precision, PRECISIONS)
    if devices < 1 or nodes < 1:
        raise BadSettings([f"devices = {devices}, nodes = {nodes}: both must be at least 1."])
    wrong = problems_of(cls, settings, devices * nodes)
    if steps is not None and steps < 1:
        wrong.append(f"steps = {steps}: must be at least 1.")
    if wrong:
        raise BadSettings(wrong)

    many = list(data) if isinstance(data, list | tuple) else [data]
    how = {"channels": settings.channels, "kind": kind_of_records(cls.modality)}
    sources = [open_source(one, **how) for one in many]
    source = mix(sources, weights)
    held_out = open_source(val, **how) if val is not None else None
    if held_out is not None and held_out.labels is None:
        raise DataError(f"--val {val} has no labels, and serves nothing but an accuracy. Leave it out, or label it.")
    check_enough(source, settings)
    settings = settings.measured(source)
    if wrong := problems_of(cls, settings, devices * nodes):  # what the data lacks can make settings impossible
        raise BadSettings(wrong)
    per_epoch = steps_per_epoch(settings, len(source))
    total = steps or (going_on or {}).get("steps") or settings.epochs * per_epoch
    resolved = {
        "tacit": tacit.__version__,
        "method": method,
        "preset": preset or (going_on or {}).get("preset") or "paper",
        "data": [str(one) if isinstance(one, str | os.PathLike) else type(one).__name__ for one in many],
        "weights": list(weights) if weights else None,
        "val": str(val) if val is not None else None,
        "records": len(source),
        "fingerprint": source.fingerprint,
        "seed": seed,
        "steps": total,
        "init": str(init) if init is not None else None,
        "precision": precision,
        "settings": to_dict(settings),
    }
    if going_on is not None:
        _same_run(going_on, resolved, to_dict(cls.Settings()))
    plan = Plan(
        run=out, seed=seed, devices=devices, nodes=nodes, precision=precision, max_bad=max_bad,
        workers=workers_of(workers), resume=going_on is not None, init=init,
    )  # fmt: skip
    if dry_run:
        return {**resolved, **rehearse(cls, settings, source, plan, steps=total)}
    from tacit.engine.environment import environment

    first = rank() == 0
    if first and cls.modality == "image" and not torch.cuda.is_available() and compiles_first():
        Journal(None, quiet=quiet).say("Compiling the loops that change colours, once on this machine: some seconds.")
    prepared = prepare(cls, settings, source, plan, steps=total)
    if first:
        write_text(out / "settings.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        write_json(out / "environment.json", environment())
    journal = Journal(out / "log.txt" if first else None, quiet=quiet or not first)
    epochs_said = f"{total / per_epoch:.3g} epochs"
    journal.say(
        f"{cls.title}, {', '.join(settings.encoders)}: {len(source):,} records, {total:,} steps of "
        f"{settings.batch_size} ({epochs_said}), into {out}"
    )
    summary = train(prepared, settings, source, plan, journal, steps=total, val=held_out)
    if summary["bad_files"]:
        journal.say(f"{summary['bad_files']:,} unreadable files were skipped; see {out / 'bad_files.csv'}.")
    journal.say(f"Done in {duration(summary['seconds'])}: {summary['verdict']}. The encoder is in {out / 'encoder'}.")
    return Run(out)


def resolve(cls: type, preset: str | None, going_on: dict | None, *, encoder, epochs, batch_size, set) -> Any:
    """Settings of a method: preset, then assignments, then shorthands; of a run that goes on, its own and these."""
    if preset is not None and preset not in cls.presets:
        raise Unknown("preset", preset, cls.presets)
    if going_on is not None and preset in (None, going_on["preset"]):
        settings = from_dict(cls.Settings, going_on["settings"])
    else:
        settings = cls.presets[preset or "paper"]
    shorthands = {"encoder": encoder, "epochs": epochs, "batch_size": batch_size}
    settings = with_assignments(settings, set)
    settings = dataclasses.replace(settings, **{k: v for k, v in shorthands.items() if v is not None})
    if wrong := problems(settings):
        raise BadSettings(wrong)
    return settings


def kind_of_records(modality: str) -> str:
    """What kind of record a method of this modality learns from; of several modalities clips."""
    return "video" if "video" in modality.split("+") else modality if modality in ("audio", "sequences") else "image"


def methods_table(modality: str | None = None) -> list[dict[str, Any]]:
    """Every method: `{"name", "title", "modality", "family", "paper", "presets", "settings", "needs"}`."""
    from tacit.methods import METHODS, find

    rows = []
    for name in METHODS:
        cls = find(name)
        if modality in (None, cls.modality):
            presets = {preset: to_dict(settings) for preset, settings in cls.presets.items()}
            rows.append(
                {
                    "name": name, "title": cls.title, "modality": cls.modality, "family": cls.family,
                    "paper": cls.paper, "presets": presets, "settings": describe(cls.presets["paper"]),
                    "needs": sorted(cls.needs),
                }
            )  # fmt: skip
    return rows


def problems_of(cls: type, s: Any, ranks: int = 1) -> list[str]:
    """Why a method cannot be trained with these settings on so many devices; nothing is read."""
    from tacit.engine.recipe import problems as recipe_problems

    wrong = _missing(cls, s) or recipe_problems(s, ranks=ranks) + cls.problems(s)
    parts = ranks * s.accumulate
    if not wrong and s.batch_size // parts < 2:
        wrong.append(
            f"batch_size = {s.batch_size}: leaves {s.batch_size // parts} record for each of {parts} "
            f"part{'s' * (parts > 1)}, and BatchNorm needs two to normalise by. Set batch_size={2 * parts} or more."
        )
    return list(dict.fromkeys(wrong))  # a recipe and a method may see the same


def _missing(cls: type, s: Any) -> list[str]:
    """What the encoder cannot do of what the method needs; nothing for one that cannot be built, which others tell."""
    from tacit.encoders import lacking

    try:
        return lacking(s.encoder, cls.needs, s.shape, s.cells, s.window, s.channels) if cls.needs else []
    except UsageError:
        return []


def check_enough(source: Any, settings: Any) -> None:
    if len(source) < 2:
        raise DataError(
            f"{source.title or 'The data'} holds a single record, and a batch needs two or more. Give more."
        )
    if len(source) < settings.batch_size:
        raise DataError(
            f"{len(source):,} records are fewer than one batch of {settings.batch_size}. Set --batch-size to "
            f"{len(source)} or less, or take --preset small."
        )


def _how_far(run: Run) -> str:
    summary = run.summary
    return f", {summary['steps']} steps done" if summary else ", not finished"


def _same_run(before: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> None:
    """A run that goes on must be the same run: one line for every setting that is not.

    A setting that came into being after the run was begun was at its default.
    """
    wrong = []
    for name in ("method", "seed", "steps", "init", "precision", "fingerprint", "weights"):
        if before.get(name) != now[name]:
            told = "the files of --data have changed" if name == "fingerprint" else f"{name} = {now[name]}"
            wrong.append(f"{told}: the run was begun with {name} = {before.get(name)}.")
    for name, value in now["settings"].items():
        then = before["settings"].get(name, defaults[name])
        if name not in FREE and then != value:
            wrong.append(f"{name} = {value}: the run was begun with {name} = {then}.")
    if wrong:
        raise BadSettings(
            [*wrong, "Only how a run is watched and kept may change on --resume; or choose another --out."]
        )
