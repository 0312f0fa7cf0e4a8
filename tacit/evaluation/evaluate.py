"""Encoders against protocols: features in, scores with intervals out, beside the baselines they must beat."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit import encoders
from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError
from tacit.evaluation import choices, intervals
from tacit.evaluation.features import Features, all_devices, features, raw
from tacit.evaluation.linear import stratified
from tacit.evaluation.protocols import PROTOCOLS, parse
from tacit.evaluation.task import Score, Task
from tacit.run import atomic, read_json, write_json


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
) -> dict[str, Any]:
    """Scores of `encoder`, and of its own architecture at random initialisation and the raw input beside it.

    Without `test`, a fifth of every class of `train` is held out (by `seed`). The encoder is in eval mode throughout.

    Args:
        protocols: names of protocols, with options if need be; see `protocols`.
        cache: keep features on disk, and take those that are there.

    Returns:
        `{"split", "split_hash", "seed", "inputs", "results": [score, …], "records", "bad_files": [(name, reason), …]}`;
        a score as in `Score`; `records` are arrays by "of/protocol".

    Raises:
        Unknown: a protocol, option or feature that does not exist. DataError: labels missing, one class, an unreadable
            set.
    """
    asked = [parse(spec) for spec in protocols]
    for part, which in ((train, "training"), (test, "test")):
        if part is not None and part.labels is None:
            raise DataError(
                f"The {which} data has no labels, and {', '.join(protocols)} need them. Labels are class folders "
                "(data/cat/1.jpg), a label column, a zip's map file, or .cls files in a tar."
            )
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"The training data has one class ({train.classes[0]}); there is nothing to tell apart.")
    names = tuple(dict.fromkeys(["pooled", *(name for one in asked for name in one.features(encoder))]))
    choices.check(encoder, names)
    device = torch.device(device or all_devices()[0])
    rows = None if test is not None else stratified(train.labels, 0.2, seed)
    subjects: list[tuple[str, Encoder | None]] = [("run", encoder)]
    if baselines:
        subjects += [("random-init", random_twin(encoder, seed)), ("raw-input", None)]
    scores: list[Score] = []
    bad: list[tuple[str, str]] = []
    for of, subject in subjects:
        tell = progress and (lambda done, total, of=of: progress(f"features, {of}", done, total))
        both = [
            raw(part, encoder.inputs, workers=workers, progress=tell)
            if subject is None
            else features(subject, part, names=names, workers=workers, cache=cache, progress=tell)
            for part in (train, test)
            if part is not None
        ]
        bad = bad or [item for part in both for item in part.bad]
        first, second = both if rows is None else (_among(both[0], rows[0]), _among(both[0], rows[1]))
        source = train if rows is None else train.select(rows[0])
        task = Task(first, second, len(train.classes), seed, of, subject, source, workers, device, progress)
        for one in asked:
            if subject is not None or not PROTOCOLS[one.name].needs_encoder:
                scores += one.run(task)
    order = list(dict.fromkeys(score.protocol for score in scores))
    scores.sort(key=lambda score: order.index(score.protocol))
    return {
        "split": "test set" if rows is None else f"a fifth of each class held out by seed {seed}",
        "split_hash": _split_hash(train, test, rows),
        "seed": seed,
        "inputs": encoder.inputs.to_dict(),
        "results": [_plain(score) for score in scores],
        "records": {f"{s.of}/{s.protocol}": s.records for s in scores if s.records is not None},
        "bad_files": bad,
    }


def _plain(score: Score) -> dict[str, Any]:
    return {f.name: getattr(score, f.name) for f in fields(score) if f.name != "records"}


def _split_hash(train: Source, test: Source | None, rows: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The same for the same records, names and labels on both sides."""
    digest = hashlib.blake2b(train.fingerprint.encode(), digest_size=8)
    digest.update(test.fingerprint.encode() if rows is None else rows[1].tobytes())
    return digest.hexdigest()


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same architecture and input preparation with fresh weights, drawn by `seed`."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    twin = encoders.like(encoder)
    torch.set_rng_state(state)
    return twin.eval()


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


def table(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows (protocol, of, value, interval) for people, in per cent."""
    return [
        (r["protocol"], r["of"], f"{100 * r['value']:.1f} %", f"{100 * r['low']:.1f} to {100 * r['high']:.1f}")
        for r in result["results"]
    ]
