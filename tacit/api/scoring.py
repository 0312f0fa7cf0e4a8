"""`evaluate`, `compare` and `transfer`: how good is an encoder?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import apart, encoder_of, name_of, projector_of, workers_of
from tacit.errors import UsageError
from tacit.run import Run


def evaluate(
    what: Any,
    data: Any,
    test: Any = None,
    protocol: str | Sequence[str] = "knn,linear",
    *,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    folds: str | int | None = None,
    whole: bool = False,
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
            video, revisited, copies and events the folder in the layout that each needs, see
            `tacit.evaluation.scenes.SCENES`; of these one is asked for at a time, without `label` and `group`, and raw
            inputs are no subject, but of events.
        test: the test set; without any, a fifth of every class is held out.
        protocol: names of protocols, comma-separated or a list, with options as in "knn:k=10/20:vote=majority"; "all"
            for those that the labels allow. See `tacit.evaluation.PROTOCOLS`.
        label: a column of a table (.csv, .json, .parquet, hub:) or several: classes, numbers, several labels a record.
        group: a column that says which records belong together (a patient, an exam): never split, drawn together.
        folds: a column of a table with every record's fold, or a number of folds to draw by `seed`: each is tested on
            what the others teach, and scores are means over them.
        whole: of sounds, look at all of a recording, in pieces, and not at its middle.
        cache: keep features on disk (under $TACIT_CACHE), and take those that are there.

    Returns:
        `{"encoder", "data", "split", "results": [score, …]}`, a score as in
        `tacit.evaluation.evaluate.Score`: values are fractions, low and high a 95 % interval. It is stored in the run
        folder when `what` is a run.
    """
    result = _evaluate(
        what, data, test, protocol, label=label, group=group, folds=folds, whole=whole, baselines=baselines,
        seed=seed, workers=workers, cache=cache, progress=progress,
    )  # fmt: skip
    result.pop("records")
    return result


def _evaluate(
    what, data, test, protocol, *, label, group, baselines, seed, workers, cache, progress, folds=None, whole=False
) -> dict[str, Any]:
    """`evaluate` with what it says of every test record."""
    from tacit import evaluation
    from tacit.data import open_splits
    from tacit.evaluation.protocols import ACROSS, SCENES
    from tacit.views import field_of

    names = protocol.split(",") if isinstance(protocol, str) else list(protocol)
    asked = [evaluation.parse(name) for name in names] if names != ["all"] else []
    if any(one.name in SCENES for one in asked):
        columns = {"--label": label, "--group": group, "--folds": folds, "--whole": whole or None}
        return _scenes(
            what, data, test, asked, columns, baselines=baselines, seed=seed, workers=workers, cache=cache,
            progress=progress,
        )  # fmt: skip
    columns = [label] if isinstance(label, str) else label
    if any(one.name in ACROSS for one in asked):
        refused = {"--folds": folds, "--whole": whole or None}
        return _across(
            what, data, test, asked, columns, group, refused, baselines=baselines, seed=seed, workers=workers,
            progress=progress,
        )  # fmt: skip
    encoder = encoder_of(what, foreign=True)
    projector = projector_of(what) if any(one.options.get("neck") for one in asked) else None
    number = int(folds) if folds is not None and str(folds).isdigit() else None
    if folds is not None and number is None and group is not None:
        raise UsageError(f"--folds {folds} keeps records together already. Leave --group out, or draw --folds 5.")
    train, held_out = open_splits(
        data, test, channels=encoder.inputs.channels, kind=field_of(encoder.inputs), labels=columns or "auto",
        group=folds if folds is not None and number is None else group,
    )  # fmt: skip
    if folds is not None and held_out is not None:
        raise UsageError("--folds take turns at being tested, and there is a test set. Leave one of them out.")
    each = None if folds is None else train.groups if number is None else evaluation.drawn_folds(train, number, seed)
    found = evaluation.evaluate(
        encoder, train, held_out, names, seed=seed, baselines=baselines, workers=workers_of(workers), cache=cache,
        progress=progress, projector=projector, folds=each, whole=whole,
    )  # fmt: skip
    return _kept(what, data, test, found)


def _scenes(what, data, test, asked, columns, *, baselines, seed, workers, cache, progress) -> dict[str, Any]:
    """`_evaluate` for protocols whose data has a layout of its own; what cannot be asked for is said before any is
    read."""
    from tacit.evaluation import scenes
    from tacit.evaluation.protocols import check_inputs

    needs = f"{asked[0].name} needs {scenes.check(asked).needs}"
    if given := [name for name, value in columns.items() if value is not None]:
        raise UsageError(f"{needs}; it takes no columns of a table. Leave {' and '.join(given)} out.")
    for part in (data, test):
        if part is not None and not isinstance(part, str | os.PathLike):
            raise UsageError(f"{needs}; it takes a path and not a {type(part).__name__}.")
    encoder = encoder_of(what)
    check_inputs(asked[0].name, encoder.inputs)
    found = scenes.evaluate(
        encoder, Path(data), None if test is None else Path(test), asked, baselines=baselines, seed=seed,
        workers=workers_of(workers), cache=cache, progress=progress,
    )  # fmt: skip
    return _kept(what, data, test, found)


def _across(
    what, data, test, asked, columns, group, refused, *, baselines, seed, workers, progress
) -> dict[str, Any]:  # fmt: skip
    """`_evaluate` for retrieval between modalities, of which a test set is ranked alone, where there is one."""
    from tacit.data import open_source
    from tacit.data.open import parts_of
    from tacit.encoders import load_joint
    from tacit.evaluation.across import evaluate_across

    if given := [name for name, value in refused.items() if value is not None]:
        raise UsageError(f"{asked[0].name} learns nothing from the data. Leave {' and '.join(given)} out.")
    path = what.path if isinstance(what, Run) else what
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"{asked[0].name} needs a run whose encoders meet in a space, and not a {type(what).__name__}."
        )
    joint = load_joint(path)
    _, held_out = parts_of(data, test)
    ranked = data if held_out is None else held_out
    source = open_source(ranked, kind="video", labels=columns or "auto", group=group)
    found = evaluate_across(
        joint, source, asked, seed=seed, baselines=baselines, workers=workers_of(workers), progress=progress
    )
    return _kept(what, data, test, found)


def _kept(what: Any, data: Any, test: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The result with what it is of, stored in the run folder if that is what was scored."""
    from tacit import evaluation

    result = {"encoder": name_of(what), "data": str(data), "test": None if test is None else str(test), **found}
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
    names = apart([name_of(run) for run in runs])
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
    from tacit.evaluation.protocols import ACROSS, SCENES

    tables.check_format(out)
    many = list(what) if isinstance(what, list | tuple) else [what]
    names = apart([name_of(one) for one in many])
    asked = [parse(spec) for spec in (protocol.split(",") if isinstance(protocol, str) else protocol)]
    for one in asked:
        if one.name in SCENES or one.name in ACROSS:
            raise UsageError(f"{one.name} has data of its own layout; ask for it by tacit evaluate.")
    sets = over_sets.find_sets(data)
    found = over_sets.transfer(
        {name: encoder_of(one) for name, one in zip(names, many, strict=True)}, sets, asked,
        label=[label] if isinstance(label, str) else label, group=group, baselines=baselines and len(many) == 1,
        seed=seed, workers=workers_of(workers), cache=cache, progress=progress,
    )  # fmt: skip
    result = {"data": [str(path) for path in sets.values()], **found}
    if out is not None:
        tables.write(out, over_sets.TITLES, over_sets.table(found), over_sets.caption(found))
    return result
