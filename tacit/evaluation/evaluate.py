"""Encoders against protocols: features in, scores with intervals out, beside the baselines they must beat."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit.data import Source, note_rates
from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation import choices, intervals, scenes
from tacit.evaluation.features import Features, all_devices, features, raw
from tacit.evaluation.frames import check_pieces, whole_features
from tacit.evaluation.groups import check_groups, grouped_folds, grouped_split
from tacit.evaluation.linear import stratified
from tacit.evaluation.neck import first_blocks
from tacit.evaluation.options import Asked
from tacit.evaluation.protocols import (
    ACROSS,
    PROTOCOLS,
    SCENES,
    check_inputs,
    check_kind,
    everything,
    features_of,
    parse,
)
from tacit.evaluation.task import Part, Score, Task, packed, random_twin
from tacit.evaluation.tuned_kinds import recipe_of
from tacit.evaluation.windows import windowed, windowed_features
from tacit.run import atomic, read_json, write_json
from tacit.views import field_of


def evaluate(
    encoder: Encoder,
    train: Source,
    test: Source | None,
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    seed: int = 0,
    baselines: bool = True,
    workers: int = 0,
    device: torch.device | str | None = None,
    cache: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    projector: nn.Module | None = None,
    folds: np.ndarray | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Scores of `encoder`, and of its own architecture at random initialisation and the raw input beside it.

    Without `test`, a fifth of every class of `train` is held out (by `seed`). The encoder is in eval mode throughout.

    Args:
        protocols: names of protocols, with options if need be; see `protocols`. "all" alone: those that the labels
            allow and that are quick.
        cache: keep features and trainings under way on disk, and take those that are there.
        projector: the projection head the encoder was trained with, for `fine_tune:neck=…`.
        folds: the fold [N] of every record of `train`, without `test`: each is tested on what the others teach, and a
            score is the mean over the folds, with Student's interval over them.
        whole: of sounds and films, features are the means over pieces of all of a record, not of its middle; not kept.

    Returns:
        `{"split", "split_hash", "seed", "inputs", "results": [score, …], "records", "skipped": {protocol: why},
        "bad_files": [(name, reason), …], "notes": [what was done with the data, …]}`; a score as in `Score`; `records`
        are arrays by "of/protocol/metric".

    Raises:
        Unknown: a protocol, option or feature that does not exist. UsageError: one that the labels do not allow.
        DataError: one class, classes that training has not, groups on both sides, an unreadable set.
    """
    kind = kind_of(train, test)
    skipped: dict[str, str] = {}
    choose = list(protocols) == ["all"]
    if choose:
        protocols, skipped = everything(kind, len(train.classes or ()), encoder.inputs)
    asked = [parse(spec) for spec in protocols]
    for one in asked:
        if one.name in SCENES:
            raise UsageError(f"{one.name} needs {scenes.SCENES[one.name].needs}; it cannot be asked for with others.")
        if one.name in ACROSS:
            raise UsageError(f"{one.name} is of a joint space and needs nothing to learn from; ask for it by itself.")
        check_kind(one.name, kind, train.notes)
        check_inputs(one.name, encoder.inputs)
        if one.name == "fine_tune":
            recipe_of(one.options.get("recipe", "small"), encoder.inputs)
        if one.name == "fine_tune" and next(encoder.parameters(), None) is None:
            raise UsageError(
                f"fine_tune trains an encoder, and {encoder.name} is a finished program. Give the encoder."
            )
        if neck := one.options.get("neck"):
            first_blocks(projector, neck)  # said before features are computed
    if whole and not windowed(encoder):
        check_pieces(encoder)
    if field_of(encoder.inputs) == "audio":
        for part in (train, test):
            if part is not None and "audio" in part.fields:
                note_rates(part, encoder.inputs.rate)
    names = tuple(dict.fromkeys(["pooled", *(name for one in asked for name in features_of(one, encoder))]))
    choices.check(encoder, names)
    devices = [torch.device(device)] if device else all_devices()
    rows = None if test is not None else [_split(train, seed)] if folds is None else _splits(train, folds)
    if test is not None and train.groups is not None and test.groups is not None:
        check_groups(train.groups, test.groups)
    subjects: list[tuple[str, Encoder | None]] = [("run", encoder)]
    if baselines:
        try:
            subjects.append(("random-init", random_twin(encoder, seed)))
        except UsageError as error:
            skipped["random-init"] = str(error)
        subjects.append(("raw-input", None))
    scores: list[Score] = []
    bad: list[tuple[str, str]] = []
    for of, subject in subjects:
        tell = progress and (lambda done, total, of=of: progress(f"features, {of}", done, total))
        look = partial(_features, subject, encoder, names, workers, devices, cache, whole, tell)
        both = [look(part) for part in (train, test) if part is not None]
        bad = bad or [item for part in both for item in part.bad]
        if rows is None:
            sides = [[Part(source, found, source) for source, found in zip((train, test), both, strict=True)]]
        else:
            origins = (train, train if folds is None else replace(train, groups=None))  # intervals are over the folds
            sides = [
                [Part(train.select(part), _among(both[0], part), o) for part, o in zip(split, origins, strict=True)]
                for split in rows
            ]
        how = (len(train.classes or ()), seed, of, subject, workers, devices[0], progress, projector, cache)
        for one in asked:
            if subject is not None or not PROTOCOLS[one.name].needs_encoder:
                found = [_run(one, Task(*parts, *how), skipped, strict=not choose) for parts in sides]
                scores += _apart(found[0] if folds is None else _over_folds(found, sides), one, asked)
    split = "test set" if rows is None else f"{_split_of(train)} held out by seed {seed}"
    if folds is not None:
        split = f"{len(rows)} folds, each tested on what the others teach"
    result = packed(
        scores, encoder, split=split + (", all of each recording" if whole else ""),
        split_hash=_split_hash(train, test, rows, whole), seed=seed, bad=bad, skipped=skipped,
    )  # fmt: skip
    result["notes"] = list(dict.fromkeys(note for part in (train, test) if part is not None for note in part.notes))
    return result


def _features(
    subject: Encoder | None, encoder: Encoder, names: Sequence[str], workers: int, devices: list[torch.device],
    cache: bool, whole: bool, progress: Callable[[int, int], None] | None, part: Source,
) -> Features:  # fmt: skip
    """What protocols look at, of a part of the data; of raw inputs where there is no subject."""
    if whole and windowed(encoder):
        how = {"raw": subject is None, "workers": workers, "device": devices[0], "progress": progress}
        return windowed_features(subject or encoder, part, names, **how)
    if whole:
        how = {"bands": subject is None, "workers": workers, "device": devices[0], "progress": progress}
        return whole_features(subject or encoder, part, names, **how)
    if subject is None:
        return raw(part, encoder.inputs, workers=workers, progress=progress)
    return features(subject, part, names=names, workers=workers, devices=devices, cache=cache, progress=progress)


def _split_of(train: Source) -> str:
    if train.groups is not None:
        return "whole groups"
    return "a fifth of the records" if train.labels is None else "a fifth of each class"


def kind_of(train: Source, test: Source | None) -> str:
    """What is known of the records: "class", "numbers", "multi" or "none"."""
    if train.targets is not None:
        return train.targets.kind
    if train.labels is None:
        return "none"
    if test is not None and test.labels is None:
        raise DataError("The test data has no labels, and the training data has.")
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"The training data has one class ({train.classes[0]}); there is nothing to tell apart.")
    if test is not None and (unseen := np.setdiff1d(test.labels, train.labels)).size:
        shown = ", ".join(train.classes[int(c)] for c in unseen[:5])
        raise DataError(f"The test data has classes without a training record: {shown}.")
    return "class"


def _split(train: Source, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and a fifth to be tested on: whole groups, or of every class, or any."""
    labels = train.labels
    if train.groups is not None:
        several = train.targets.values if train.targets is not None and train.targets.kind == "multi" else None
        return grouped_split(train.groups, labels if labels is not None else several, 0.2, seed)
    return stratified(np.zeros(len(train), np.int64) if labels is None else labels, 0.2, seed)


def drawn_folds(train: Source, count: int, seed: int) -> np.ndarray:
    """A number from 0 to `count` for every record [N]: folds with as many of each class, no group in two of them."""
    several = train.targets.values if train.targets is not None and train.targets.kind == "multi" else None
    groups = np.arange(len(train)) if train.groups is None else train.groups
    folds = np.zeros(len(train), np.int64)
    for number, (_, tested) in enumerate(
        grouped_folds(groups, several if train.labels is None else train.labels, count, seed)
    ):
        folds[tested] = number
    return folds


def _splits(train: Source, folds: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to be tested on, once a fold [N]."""
    names = np.unique(folds)
    if len(names) < 2:
        raise DataError(f"All records are of one fold ({names[0]}): nothing is left to learn from. Leave --folds out.")
    found = [(np.flatnonzero(folds != name), np.flatnonzero(folds == name)) for name in names]
    for name, (learned, tested) in zip(names, found, strict=True):
        if train.labels is not None and len(only := np.setdiff1d(train.labels[tested], train.labels[learned])):
            raise DataError(
                f"All records of the class {train.classes[only[0]]} are of one fold ({name}): none teach it."
            )
    return found


def _over_folds(found: list[list[Score]], sides: list[list[Part]]) -> list[Score]:
    """The means of the scores of every fold, and what they say of every record, in the order of the records; none of a
    protocol that some fold did not allow."""
    if not all(found):
        return []
    order = np.argsort(np.concatenate([test.found.index.numpy() for _, test in sides]), kind="stable")
    together = []
    for scores in zip(*found, strict=True):
        values = np.array([score.value for score in scores])
        low, high = intervals.over_draws(values)
        records = [score.records for score in scores]
        whole = None if any(r is None for r in records) else np.concatenate(records)
        whole = whole[order] if whole is not None and len(whole) == len(order) else None
        said = scores[0].settings | {"folds": values.round(4).tolist(), "interval_over": "folds"}
        count = sum(score.n for score in scores)
        together.append(
            replace(scores[0], value=float(values.mean()), low=low, high=high, n=count, settings=said, records=whole)
        )
    return together


def _run(one: Asked, task: Task, skipped: dict[str, str], *, strict: bool) -> list[Score]:
    """A protocol's scores; under "all", one that this data does not allow says why instead."""
    try:
        return PROTOCOLS[one.name].run(task, **one.options)
    except (DataError, UsageError) as error:
        if strict:
            raise
        skipped[f"{one.name}, {task.of}"] = str(error)
        return []


def _apart(scores: list[Score], one: Asked, asked: Sequence[Asked]) -> list[Score]:
    """The same scores, named by the options too if the protocol was asked for twice."""
    if sum(other.name == one.name for other in asked) < 2:
        return scores
    options = [option for option in one.spec.split(":")[1:] if "/" not in option]  # scores of several values say theirs
    return [
        replace(s, protocol=":".join([s.protocol, *(o for o in options if o not in s.protocol.split(":"))]))
        for s in scores
    ]


def _split_hash(
    train: Source, test: Source | None, rows: list[tuple[np.ndarray, np.ndarray]] | None, whole: bool
) -> str:
    """The same for the same records, names and labels on both sides, of which as much is looked at."""
    digest = hashlib.blake2b(train.fingerprint.encode() + b"whole" * whole, digest_size=8)
    digest.update(test.fingerprint.encode() if rows is None else b"".join(tested.tobytes() for _, tested in rows))
    for part in (train, test):
        if part is not None and part.labels is not None:
            digest.update(np.ascontiguousarray(part.labels))
        if part is not None and part.targets is not None:
            digest.update(np.ascontiguousarray(part.targets.values))
    return digest.hexdigest()


def _among(all_of: Features, rows: np.ndarray) -> Features:
    return all_of.pick(torch.from_numpy(np.isin(all_of.index.numpy(), rows)))


def difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of a - b with its 95 % interval: by the bootstrap over paired records, or over a few paired seeds."""
    d = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = intervals.bootstrap(d, seed=seed) if len(d) >= 30 else intervals.over_draws(d)
    return float(d.mean()), low, high


def store(run: str | os.PathLike, result: dict[str, Any]) -> Path:
    """Keep a result in the run folder, under its date, and what it says of every test record beside it."""
    protocols = "-".join(dict.fromkeys(r["protocol"].partition(":")[0] for r in result["results"]))
    path = Path(run) / "evaluations" / f"{datetime.now():%Y%m%dT%H%M%S.%f}-{protocols}.json"
    if records := result.get("records"):
        with atomic(path.with_suffix(".npz")) as temporary, open(temporary, "wb") as f:
            np.savez_compressed(f, **records)
    write_json(path, {k: v for k, v in result.items() if k != "records"})
    return path


def stored(run: str | os.PathLike) -> list[dict[str, Any]]:
    """What `store` kept in a run folder, oldest first, with the `records`."""
    found = []
    for path in sorted((Path(run) / "evaluations").glob("*.json")):
        found.append(read_json(path))
        if path.with_suffix(".npz").is_file():
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as kept:
                found[-1]["records"] = {name: kept[name] for name in kept}
    return found
