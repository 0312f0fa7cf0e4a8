"""The verbs. The command line calls these, with the same names and arguments."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

import tacit
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.run import Run, atomic, write_json, write_text
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
    out: str | os.PathLike,
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
        out: the run folder. One that holds a run is refused, unless `resume`.
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
    from tacit import methods
    from tacit.data import mix, open_source
    from tacit.distributed import rank
    from tacit.engine.journal import Journal, duration
    from tacit.engine.plan import PRECISIONS, Plan
    from tacit.engine.recipe import steps_per_epoch
    from tacit.engine.train import prepare, rehearse, train

    out = Path(out)
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
    wrong = _problems(cls, settings, devices * nodes)
    if steps is not None and steps < 1:
        wrong.append(f"steps = {steps}: must be at least 1.")
    if wrong:
        raise BadSettings(wrong)

    many = list(data) if isinstance(data, list | tuple) else [data]
    sources = [open_source(one, channels=settings.channels) for one in many]
    source = mix(sources, weights)
    held_out = open_source(val, channels=settings.channels) if val is not None else None
    if held_out is not None and held_out.labels is None:
        raise DataError(f"--val {val} has no labels, and serves nothing but an accuracy. Leave it out, or label it.")
    _enough(source, settings)
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
        workers=_workers(workers), resume=going_on is not None, init=init,
    )  # fmt: skip
    if dry_run:
        return {**resolved, **rehearse(cls, settings, source, plan, steps=total)}
    from tacit.engine.environment import environment

    prepared = prepare(cls, settings, source, plan, steps=total)
    first = rank() == 0
    if first:
        write_text(out / "settings.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        write_json(out / "environment.json", environment())
    journal = Journal(out / "log.txt" if first else None, quiet=quiet or not first)
    epochs_said = f"{total / per_epoch:.3g} epochs"
    journal.say(
        f"{cls.title}, {settings.encoder}: {len(source):,} records, {total:,} steps of {settings.batch_size} "
        f"({epochs_said}), into {out}"
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


def evaluate(
    what: Any,
    data: Any,
    test: Any = None,
    protocol: str | Sequence[str] = "knn,linear",
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score an encoder on labelled data, beside the same encoder at random initialisation and the raw input.

    Args:
        what: a run folder, an encoder folder, a timm name, a `Run` or an `Encoder`; a folder that timm or transformers
            saved, or an export to torch or onnx, as a frozen encoder.
        data: labelled data; a folder with train/ and test/ inside gives both parts. Of segment, detect, attention,
            video, revisited and copies the folder in the layout that each needs, see `tacit.evaluation.scenes.SCENES`;
            of these one is asked for at a time, without `label` and `group`, and raw inputs are no subject.
        test: the test set; without any, a fifth of every class is held out.
        protocol: names of protocols, comma-separated or a list, with options as in "knn:k=10/20:vote=majority"; "all"
            for those that the labels allow. See `tacit.evaluation.PROTOCOLS`.
        label: a column of a table (.csv, .json, .parquet, hub:) or several: classes, numbers, several labels a record.
        group: a column that says which records belong together (a patient, an exam): never split, drawn together.
        cache: keep features on disk (under $TACIT_CACHE), and take those that are there.

    Returns:
        `{"encoder", "data", "split", "results": [score, …]}`, a score as in
        `tacit.evaluation.evaluate.Score`: values are fractions, low and high a 95 % interval. It is stored in the run
        folder when `what` is a run.
    """
    result = _evaluate(
        what, data, test, protocol, label=label, group=group, baselines=baselines, seed=seed, workers=workers,
        cache=cache, progress=progress,
    )  # fmt: skip
    result.pop("records")
    return result


def _evaluate(what, data, test, protocol, *, label, group, baselines, seed, workers, cache, progress) -> dict[str, Any]:
    """`evaluate` with what it says of every test record."""
    from tacit import evaluation
    from tacit.data import open_splits
    from tacit.evaluation.protocols import SCENES

    names = protocol.split(",") if isinstance(protocol, str) else list(protocol)
    asked = [evaluation.parse(name) for name in names] if names != ["all"] else []
    if any(one.name in SCENES for one in asked):
        columns = {"--label": label, "--group": group}
        return _scenes(
            what, data, test, asked, columns, baselines=baselines, seed=seed, workers=workers, cache=cache,
            progress=progress,
        )  # fmt: skip
    columns = [label] if isinstance(label, str) else label
    encoder = _encoder(what, foreign=True)
    projector = _projector(what) if any(one.options.get("neck") for one in asked) else None
    train, held_out = open_splits(data, test, channels=encoder.inputs.channels, labels=columns or "auto", group=group)
    found = evaluation.evaluate(
        encoder, train, held_out, names, seed=seed, baselines=baselines, workers=_workers(workers), cache=cache,
        progress=progress, projector=projector,
    )  # fmt: skip
    return _kept(what, data, test, found)


def _projector(what: Any):
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


def _scenes(what, data, test, asked, columns, *, baselines, seed, workers, cache, progress) -> dict[str, Any]:
    """`_evaluate` for protocols whose data has a layout of its own; what cannot be asked for is said before any is
    read."""
    from tacit.evaluation import scenes

    needs = f"{asked[0].name} needs {scenes.check(asked).needs}"
    if given := [name for name, value in columns.items() if value is not None]:
        raise UsageError(f"{needs}; it takes no columns of a table. Leave {' and '.join(given)} out.")
    for part in (data, test):
        if part is not None and not isinstance(part, str | os.PathLike):
            raise UsageError(f"{needs}; it takes a path and not a {type(part).__name__}.")
    found = scenes.evaluate(
        _encoder(what), Path(data), None if test is None else Path(test), asked, baselines=baselines, seed=seed,
        workers=_workers(workers), cache=cache, progress=progress,
    )  # fmt: skip
    return _kept(what, data, test, found)


def _kept(what: Any, data: Any, test: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The result with what it is of, stored in the run folder if that is what was scored."""
    from tacit import evaluation

    result = {"encoder": _name(what), "data": str(data), "test": None if test is None else str(test), **found}
    path = what.path if isinstance(what, Run) else what
    if isinstance(path, str | os.PathLike) and Run.is_run(path):
        evaluation.store(path, result)
    return result


def compare(
    runs: Sequence[Any],
    data: Any = None,
    test: Any = None,
    protocol: str | Sequence[str] = "knn,linear",
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    out: str | os.PathLike | None = None,
    seed: int = 0,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Two encoders or more on the same test records: scores, paired differences and ranks.

    Args:
        runs: whatever `evaluate` takes.
        data, test, protocol, label, group: scored anew, by the same protocols for all; without `data`, what was stored
            in the run folders is compared.
        out: a table to write: .md, .html, .csv or .tex.

    Returns:
        As `tacit.evaluation.compare.compare`.

    Raises:
        UsageError: different splits or settings, or nothing in common.
    """
    from tacit.evaluation import compare as compare_results
    from tacit.evaluation import latest, stored, tables

    tables.check_format(out)
    names = _apart([_name(run) for run in runs])
    found: dict[str, Any] = {}
    for name, run in zip(names, runs, strict=True):
        path = run.path if isinstance(run, Run) else run
        if data is not None:
            tell = progress and (lambda what, done, total, name=name: progress(f"{name}: {what}", done, total))
            found[name] = _evaluate(
                run, data, test, protocol, label=label, group=group, baselines=False, seed=seed, workers=workers,
                cache=cache, progress=tell,
            )  # fmt: skip
        elif isinstance(path, str | os.PathLike) and Run.is_run(path):
            found[name] = latest(stored(path))
        if found.get(name) is None:
            raise UsageError(f"{name} holds no stored scores to compare. Give --data to score all of them.")
    result = compare_results(found, seed=seed)
    if out is not None:
        tables.write(out, *tables.parts(result, whole=Path(out).suffix == ".csv"))
    return result


def transfer(
    what: Any,
    data: Any,
    protocol: str | Sequence[str] = "linear",
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    out: str | os.PathLike | None = None,
    baselines: bool = True,
    seed: int = 0,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """One table of an encoder, or several, on many labelled sets: scores, means and ranks over the sets.

    Args:
        what: whatever `evaluate` takes, or a list of several.
        data: a folder of data sets, each of them what `evaluate` takes; or a list of sets.
        protocol: as for `evaluate`; of each set those are run that its labels allow, so that "linear,multi_label"
            serves a mixed list. "linear:metric=mean_per_class" (or both) is the mean of the classes' accuracies.
        label, group: columns, of those sets that are tables.
        out: a table to write: .md, .html, .csv or .tex.
        baselines: with one encoder, rank it among random weights and raw inputs.

    Returns:
        As `tacit.evaluation.transfer.transfer`. Sets that cannot be scored are named in "skipped".

    Raises:
        UsageError: `data` is one set, or a protocol that is not of labels. DataError: no set could be scored.
    """
    from tacit.evaluation import parse, tables
    from tacit.evaluation import transfer as over_sets
    from tacit.evaluation.protocols import SCENES

    tables.check_format(out)
    many = list(what) if isinstance(what, list | tuple) else [what]
    names = _apart([_name(one) for one in many])
    asked = [parse(spec) for spec in (protocol.split(",") if isinstance(protocol, str) else protocol)]
    for one in asked:
        if one.name in SCENES:
            raise UsageError(f"{one.name} has data of its own layout; ask for it by tacit evaluate.")
    sets = over_sets.find_sets(data)
    found = over_sets.transfer(
        {name: _encoder(one) for name, one in zip(names, many, strict=True)}, sets, asked,
        label=[label] if isinstance(label, str) else label, group=group, baselines=baselines and len(many) == 1,
        seed=seed, workers=_workers(workers), cache=cache, progress=progress,
    )  # fmt: skip
    result = {"data": [str(path) for path in sets.values()], **found}
    if out is not None:
        tables.write(out, over_sets.TITLES, over_sets.table(found), over_sets.caption(found))
    return result


def embed(
    what: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """One vector a record: `path, vector` rows in a .parquet file, or a .npy array with the paths in a .txt beside it.

    Unreadable records are left out and listed in the answer: `{"out", "rows", "width", "bad_files": [(name, reason)]}`.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tacit.data import open_source
    from tacit.evaluation import features

    out = Path(out)
    if out.suffix not in (".parquet", ".npy"):
        raise UsageError(f"--out {out}: must end in .parquet or .npy.")
    encoder = _encoder(what, foreign=True)
    source = open_source(data, channels=encoder.inputs.channels, labels=None)
    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float32(), encoder.width))])
    bad, names, arrays, rows = list(source.skipped), [], [], 0
    with atomic(out) as temporary:
        writer = pq.ParquetWriter(temporary, schema) if out.suffix == ".parquet" else None
        for start in range(0, len(source), 8192):
            part = source.select(np.arange(start, min(start + 8192, len(source))))
            tell = progress and (lambda done, total, start=start: progress("embedding", start + done, len(source)))
            found = features(encoder, part, workers=_workers(workers), progress=tell)
            bad += found.bad
            paths = [part.name(int(i)) for i in found.index]
            rows += len(paths)
            if writer is not None:
                flat = pa.array(found.x.numpy().ravel())
                vectors = pa.FixedSizeListArray.from_arrays(flat, encoder.width)
                writer.write_table(pa.table([pa.array(paths), vectors], schema=schema))
            else:
                names += paths
                arrays.append(found.x.numpy())
        if writer is not None:
            writer.close()
        else:
            with open(temporary, "wb") as f:
                np.save(f, np.concatenate(arrays))
    if writer is None:
        write_text(out.with_suffix(".txt"), "\n".join(names) + "\n")
    return {"out": str(out), "rows": rows, "width": encoder.width, "bad_files": bad}


def bags(
    features: str | os.PathLike,
    table: str | os.PathLike,
    *,
    label: str = "label",
    bag: str = "bag",
    group: str | None = None,
    out: str | os.PathLike | None = None,
    rois: str | os.PathLike | None = None,
    top: int = 5,
    epochs: int = 20,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """How well bags of embeddings with one label each (slides of tiles) are told apart, by attention and by the mean.

    Args:
        features: what `embed` wrote. table: a row a bag, see `tacit.evaluation.bags.read_bags`.
        label, bag, group: its columns. A group (a patient) is never split, and drawn together for intervals.
        out: a .csv for `bag, path, attention` of every vector of the test bags.
        rois: what `embed` wrote of labelled regions, a folder a class. Bags are then also told by their `top` vectors
            nearest to each class, without training (MI-SimpleShot).

    Returns:
        `{"features", "table", "seed", "epochs", "classes", "train", "test", "split", "missing", "unused", "results":
        [{"pool", "metric", "value", "low", "high", "n"}]}`.
    """
    import csv

    from tacit.evaluation.bags import read_bags, read_rois, score_bags

    if out is not None and Path(out).suffix != ".csv":
        raise UsageError(f"--out {out}: must end in .csv.")
    if epochs < 1:
        raise BadSettings([f"epochs = {epochs}: must be at least 1."])
    if top < 1:
        raise BadSettings([f"top = {top}: must be at least 1."])
    found = read_bags(features, table, label=label, bag=bag, group=group)
    labelled = read_rois(rois, found.classes, found.x.shape[1]) if rois is not None else None
    result, weights = score_bags(found, epochs=epochs, seed=seed, rois=labelled, top=top, progress=progress)
    if out is not None:
        rows = dict(zip(found.names, found.rows, strict=True))
        with atomic(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["bag", "path", "attention"])
            for name, given in weights.items():
                for row, weight in zip(rows[name], given.tolist(), strict=True):
                    writer.writerow([name, found.paths[row], f"{weight:.6g}"])
    return {"features": str(features), "table": str(table), "seed": seed, "epochs": epochs, **result}


def exams(
    what: Any,
    data: str | os.PathLike,
    label: str,
    *,
    planes: Sequence[str] | None = None,
    column: str | None = None,
    out: str | os.PathLike | None = None,
    recipe: str = "small",
    fuse: str = "probabilities",
    max_exams: int | None = None,
    baselines: bool = True,
    seed: int = 0,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """How well exams with one label each are told apart by the embeddings of their slices.

    By a transformer over the slices (SB-SSL), by the mean of their logits and by the maximum of their features, of the
    encoder and of the same one at random initialisation; each plane by itself and all together.

    Args:
        what: whatever `pretrain` leaves: a run or encoder folder, a timm name, a `Run` or an `Encoder`; or a list of
            these, one for each of `planes`.
        data: a folder of exams, see `tacit.data.exams`.
        label: a .csv of exams and labels 0 and 1, see `tacit.evaluation.exam_sets.read_labels`, or of MRNet's layout
            the name of the task: abnormal, acl or meniscus.
        planes: those to use; by default all that there are. column: the label, of a table with several.
        out: a new folder for exams.json and predictions.csv (exam, plane, of, head, label, probability).
        recipe: one of `tacit.evaluation.exams.RECIPES`. fuse: planes together by their "probabilities" or their "cls".
        max_exams: exams to learn from, of those there are.

    Returns:
        As `tacit.evaluation.exams.score_exams`, with what the data is and what of it was left out.
    """
    import csv

    from tacit.evaluation import exam_sets
    from tacit.evaluation import exams as by_exam
    from tacit.evaluation.task import random_twin

    if recipe not in by_exam.RECIPES:
        raise Unknown("recipe", recipe, by_exam.RECIPES)
    if fuse not in by_exam.FUSIONS:
        raise Unknown("way to fuse planes", fuse, by_exam.FUSIONS)
    if out is not None and (Path(out) / "exams.json").exists():
        raise UsageError(f"{out} holds the scores of exams. Choose another --out, or remove it.")
    if max_exams is not None and max_exams < 10:
        raise BadSettings([f"max_exams = {max_exams}: must be at least 10; a fifth of them choose the epoch."])
    many = list(what) if isinstance(what, list | tuple) else [what]
    if len(many) > 1 and len(many) != len(planes or ()):
        raise UsageError(
            f"{len(many)} encoders for {len(planes or ())} planes: give one for all, or one for each plane."
        )
    found = [_encoder(one) for one in many]
    if len({encoder.inputs.channels for encoder in found}) > 1:
        raise UsageError("The encoders have different numbers of channels.")
    task = exam_sets.read_exams(
        data, label, planes=planes, column=column, channels=found[0].inputs.channels, max_exams=max_exams, seed=seed
    )
    runs = dict(zip(task.sources, found * len(task.sources) if len(found) == 1 else found, strict=False))
    encoders = {"run": runs}
    if baselines:
        encoders["random-init"] = {plane: random_twin(encoder, seed) for plane, encoder in runs.items()}
    scores, rows = by_exam.score_exams(
        task, encoders, recipe=by_exam.RECIPES[recipe], fusion=fuse, seed=seed, workers=_workers(workers), cache=cache,
        progress=progress,
    )  # fmt: skip
    result = {
        "encoder": [_name(one) for one in many], "data": str(data), "label": label, "seed": seed, "recipe": recipe,
        "fuse": fuse if len(task.sources) > 1 else None, "planes": list(task.sources), "train": len(task.train),
        "test": len(task.test), "positives": {
            "train": int(task.labels[task.train].sum()), "test": int(task.labels[task.test].sum())
        }, "split": task.split, "patients": task.patients, "transduction": _transduction(many, Path(data), task.split),
        "missing": task.missing, "unlabelled": task.unlabelled, "incomplete": task.incomplete, **scores,
    }  # fmt: skip
    if out is not None:
        write_json(Path(out) / "exams.json", result)
        with (
            atomic(Path(out) / "predictions.csv") as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as f,
        ):
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "probability": f"{row['probability']:.6g}"} for row in rows)
    return result


def _transduction(many: Sequence[Any], data: Path, split: str) -> bool | None:
    """Whether runs were pre-trained on slices of the test exams too; None where that cannot be told."""
    from tacit.data.exams import PREFIX, Options

    told: list[bool | None] = []
    for one in many:
        path = one.path if isinstance(one, Run) else one
        if not isinstance(path, str | os.PathLike) or not Run.is_run(path):
            told.append(None)
            continue
        for name in Run(path).settings["data"]:
            if not name.startswith(PREFIX):
                told.append(None)
                continue
            root, options = Options.parse(name.removeprefix(PREFIX))
            root, here = root.resolve(), data.resolve()
            if here.is_relative_to(root):  # all of it, unless parts are told apart
                apart = root == here and split.startswith("train and") and options.part in (None, "train")
                told.append(not apart)
            else:
                told.append(
                    root.is_relative_to(here) and root.relative_to(here).parts[0].lower().startswith(("val", "test"))
                )
    return True if True in told else None if None in told else False


def finetune(
    what: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    recipe: str = "small",
    neck: int = 0,
    shots: int | None = None,
    percent: float | None = None,
    names: str | os.PathLike | None = None,
    label: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """A classifier, encoder and all, trained on few labels by SimCLR v2's recipe and kept in the new folder `out`.

    Args:
        what: a run folder, an encoder folder, a timm name, a `Run` or an `Encoder`.
        data: labelled data; of a folder with train/ and test/ inside the training part is learned from.
        recipe: one of `tacit.evaluation.classifier.RECIPES`.
        neck: layers of the run's projection head that are kept below the classifier; 1 is the paper's choice.
        shots, percent, names: learn from so many records a class, from this per cent of each class, drawn by `seed`,
            or from those that a text file names, one a line; without any, from all.

    Returns:
        `{"out", "classes", "labels"}` and, where there is a test part, "accuracy" on it, as of `predict`.

    Raises:
        UsageError: a folder that holds a classifier already, more than one of `shots`, `percent` and `names`, or a neck
            the encoder has not. DataError: no labels, too few, or one class.
    """
    import numpy as np

    from tacit.data import open_splits
    from tacit.evaluation import classifier, low_shot
    from tacit.evaluation.features import all_devices
    from tacit.evaluation.neck import first_blocks

    if recipe not in classifier.RECIPES:
        raise Unknown("recipe", recipe, classifier.RECIPES)
    if classifier.is_classifier(out):
        raise UsageError(f"{out} holds a classifier. Choose another --out, or remove it.")
    if sum(x is not None for x in (shots, percent, names)) > 1:
        raise UsageError("--shots, --percent and --names are three ways to say which labels are used. Give one.")
    if shots is not None and shots < 1:
        raise BadSettings([f"shots = {shots}: must be at least 1."])
    if percent is not None and not 0 < percent <= 100:
        raise BadSettings([f"percent = {percent:g}: must be over 0 and at most 100."])
    encoder = _encoder(what)
    layers, width = first_blocks(_projector(what), neck) if neck else (None, None)
    train, test = open_splits(data, channels=encoder.inputs.channels, labels=[label] if label else "auto")
    if train.labels is None or len(train.classes) < 2:
        raise DataError(f"{data}: a classifier needs labels of two classes or more to learn from.")
    y, count = train.labels, len(train.classes)
    if shots is not None:
        train = train.select(np.sort(low_shot.draw_shots(y, shots, 1, classes=count, seed=seed)[0]))
    elif percent is not None:
        train = train.select(np.sort(low_shot.draw_share(y, percent / 100, 1, classes=count, seed=seed)[0]))
    elif names is not None:
        train = train.select(low_shot.rows_named(os.fspath(names), [train.name(i) for i in range(len(train))]))
    device = all_devices()[0]
    model = classifier.train_classifier(
        encoder, train, recipe=classifier.RECIPES[recipe], neck=layers, neck_width=width, seed=seed, device=device,
        workers=_workers(workers), progress=progress and (lambda done, total: progress("fine-tuning", done, total)),
    ).cpu()  # fmt: skip
    classifier.save(model, train.classes, out)
    found = {"out": str(out), "classes": list(train.classes), "labels": len(train)}
    if test is not None and test.labels is not None:
        found["accuracy"] = classifier.accuracy(
            classifier.right(out, test, workers=_workers(workers), device=device), seed=seed
        )
    return found


def predict(
    what: str | os.PathLike,
    data: Any,
    out: str | os.PathLike,
    *,
    label: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """What a kept classifier says of records: rows of `path, label, probability` in a .csv or .parquet file.

    Args:
        what: a folder that `finetune` made, or a run that ends with a classifier.
        data: records. Where they have labels of the classifier's classes, its accuracy is told too.

    Returns:
        `{"out", "rows", "bad_files": [(name, reason)]}` and perhaps "accuracy": {"value", "low", "high", "n"}, a share
        with its 95 % interval by the bootstrap over records. Unreadable records are left out and listed.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    from tacit.data import match_classes, open_source
    from tacit.evaluation import classifier
    from tacit.evaluation.features import all_devices

    out = Path(out)
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: must end in .csv or .parquet.")
    model, classes = classifier.load(what)
    source = open_source(data, channels=model.encoder.inputs.channels, labels=[label] if label else "auto")
    if not len(source):
        raise DataError(f"{data} holds no records.")
    logits, index, bad = classifier.logits_of(model, source, workers=_workers(workers), device=all_devices()[0])
    best = logits.softmax(1).max(1)
    paths, labels = [source.name(int(i)) for i in index], [classes[c] for c in best.indices.tolist()]
    table = pa.table({"path": paths, "label": labels, "probability": best.values.numpy().round(6)})
    with atomic(out) as temporary:
        (csv.write_csv if out.suffix == ".csv" else parquet.write_table)(table, temporary)
    found = {"out": str(out), "rows": len(table), "bad_files": [*source.skipped, *bad]}
    if source.labels is not None and match_classes(source, classes):
        found["accuracy"] = classifier.accuracy(best.indices.numpy() == source.labels[index.numpy()])
    return found


def study(
    name: str,
    data: Any,
    out: str | os.PathLike,
    *,
    test: Any = None,
    arms: Sequence[str] | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    encoder: str | None = None,
    preset: str = "small",
    shots: Sequence[int] = (1, 2, 5, 10),
    draws: int = 10,
    multi_label: Any = None,
    multi_label_column: str | Sequence[str] = "tags",
    segment: str | os.PathLike | None = None,
    label: str | None = None,
    set: Sequence[str] = (),
    precision: str = "auto",
    workers: int | None = None,
    cache: bool = True,
    quiet: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Which pre-training is worth most with few labels: arms under one budget, probed alike, in one table.

    The same call goes on where it was broken off; what is finished is not done again.

    Args:
        name: "lowshot".
        data: what the arms are trained on, without its labels; with labels (a folder with train/ and test/, or `test`
            beside it; else a fifth is held out) also the multi-class columns.
        out: the study's folder: runs/, scores/, study.json, and table.md, .csv and .json.
        arms: of `tacit.study.ARMS`; all when left out.
        epochs, encoder, preset, set: of all arms, as for `pretrain`. Small crops are left out unless `set` says
            local_crops=…, since only some tasks have use of them.
        shots, draws: labels of each class, and how often they are drawn.
        multi_label: records with several labels each, as for `evaluate`, in these columns of a table.
        segment: a folder of images with masks, as for `evaluate`.
        label: the column of `data` with the classes, where it is a table of files.

    Returns:
        What table.json holds: `{"budget", "columns", "left_out", "rows": [{"name", "title", "feature", "cells"}], …}`;
        cells as of `tacit.study.table.summed`.

    Raises:
        UsageError, DataError: what could not be finished, found before anything is trained.
    """
    from tacit import methods
    from tacit.data import parts_of
    from tacit.engine.plan import PRECISIONS
    from tacit.study import ARMS, Budget
    from tacit.study.arms import FIXED, METHOD
    from tacit.study.lowshot import check, run
    from tacit.study.probes import open_probes

    if name != "lowshot":
        raise Unknown("study", name, ["lowshot"])
    arms = list(ARMS) if arms is None else list(arms)
    for arm in arms:
        if arm not in ARMS:
            raise Unknown("arm", arm, ARMS)
    if precision not in PRECISIONS:
        raise Unknown("precision", precision, PRECISIONS)
    if taken := sorted(FIXED & {item.partition("=")[0].strip().replace("-", "_") for item in set}):
        raise BadSettings([f"{field}: is what tells arms apart. Choose arms by --arms instead." for field in taken])
    cls = methods.find(METHOD)
    how = {"encoder": encoder, "epochs": epochs, "batch_size": None}
    settings = {
        arm: resolve(cls, preset, None, set=["local_crops=0", *set, *ARMS[arm].assignments], **how) for arm in arms
    }
    if wrong := list(dict.fromkeys(problem for s in settings.values() for problem in _problems(cls, s))):
        raise BadSettings(wrong)
    if not arms:
        raise UsageError(f"--arms is empty. There is: {', '.join(ARMS)}.")
    s = settings[arms[0]]
    columns = [multi_label_column] if isinstance(multi_label_column, str) else list(multi_label_column)
    source, probes = open_probes(data, test, multi_label, segment, channels=s.channels, label=label, columns=columns)
    _enough(source, s)
    budget = Budget(
        str(data), len(source), source.fingerprint, s.encoder, preset, s.epochs, s.batch_size, s.local_crops,
        tuple(set), precision,
    )  # fmt: skip
    check(arms, seeds, shots, draws, budget, max(s.prototypes, s.patch_prototypes), probes)
    path = parts_of(data, test)[0]

    def train(arm: str, seed: int, folder: Path) -> Run:
        return pretrain(
            METHOD, path, folder, preset=preset, set=["local_crops=0", *set, *ARMS[arm].assignments],
            encoder=encoder, epochs=epochs, seed=seed, precision=precision, workers=workers, resume=True, quiet=quiet,
        )  # fmt: skip

    return run(
        Path(out), arms, seeds, shots, draws, budget, probes, train, workers=_workers(workers), cache=cache,
        progress=progress, quiet=quiet,
    )  # fmt: skip


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

    encoder = _encoder(what)
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


def _problems(cls: type, s: Any, ranks: int = 1) -> list[str]:
    """Why a method cannot be trained with these settings on so many devices; nothing is read."""
    from tacit.engine.recipe import problems as recipe_problems

    wrong = _missing(cls, s) or recipe_problems(s, ranks=ranks) + cls.problems(s)
    parts = ranks * s.accumulate
    if not wrong and s.batch_size // parts < 2:
        wrong.append(
            f"batch_size = {s.batch_size}: leaves {s.batch_size // parts} record for each of {parts} "
            f"part{'s' * (parts > 1)}, and BatchNorm needs two to normalise by. Set batch_size={2 * parts} or more."
        )
    return wrong


def _missing(cls: type, s: Any) -> list[str]:
    """What the encoder cannot do of what the method needs; nothing for one that cannot be built, which others tell."""
    from tacit.encoders import lacking

    try:
        return lacking(s.encoder, cls.needs, s.size, s.patch, s.window, s.channels) if cls.needs else []
    except UsageError:
        return []


def _encoder(what: Any, *, foreign: bool = False):
    from tacit import encoders

    if isinstance(what, encoders.Encoder):
        return what
    return encoders.load(what.path if isinstance(what, Run) else what, foreign=foreign)


def _name(what: Any) -> str:
    return str(what.path) if isinstance(what, Run) else str(getattr(what, "name", what))


def _apart(names: list[str]) -> list[str]:
    """The same names, numbered where two are equal."""
    return [f"{n} ({names[: i + 1].count(n)})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _workers(asked: int | None) -> int:
    """One core is left for the training itself; a process more than that only takes turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores - 1, 16), 0) if asked is None else asked


def _enough(source: Any, settings: Any) -> None:
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


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
