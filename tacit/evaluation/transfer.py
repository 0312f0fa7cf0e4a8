"""One encoder, or several, on many labelled sets: one table (EsViT, the transfer of section 4.2; Elevater)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import open_splits
from tacit.encoders import Encoder
from tacit.errors import DataError, TacitError, UsageError
from tacit.evaluation import choices
from tacit.evaluation.compare import compare
from tacit.evaluation.evaluate import evaluate, kind_of
from tacit.evaluation.options import Asked
from tacit.evaluation.paired import average_ranks, holm
from tacit.evaluation.protocols import PROTOCOLS, check_inputs, check_kind, features_of
from tacit.scores import interval, is_share, shown, sign
from tacit.views import field_of

TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl")  # which have columns
FILES = (*TABLES, ".zip", ".tar", ".npy")
TITLES = ("set", "protocol", "metric", "of", "score", "95 % interval", "records")


def find_sets(data: Any) -> dict[str, Path]:
    """Data sets by name: what lies in a folder (folders and tables, not hidden), or each of a list of paths.

    Raises:
        DataError: there is none. UsageError: a folder that is one data set.
    """
    if isinstance(data, str | os.PathLike):
        folder = Path(data)
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of data sets. Give one, or each set by a --data of its own.")
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        if {"train", "test"} <= {p.stem for p in inside}:
            raise UsageError(f"{folder} is one data set. Give the folder it lies in, or ask for it by tacit evaluate.")
        paths = [p for p in inside if p.is_dir() or p.suffix.lower() in FILES]
    else:
        folder, paths = None, [Path(one) for one in data]
    if not paths:
        raise DataError(f"{folder or 'The list'} holds no data set: no folder, and no {', '.join(FILES)}.")
    names = [p.stem if p.suffix.lower() in FILES else p.name for p in paths]
    return {(str(p) if names.count(name) > 1 else name): p for name, p in zip(names, paths, strict=True)}


def transfer(
    encoders: dict[str, Encoder],
    sets: dict[str, Path],
    asked: Sequence[Asked],
    *,
    label: Sequence[str] | None = None,
    group: str | None = None,
    baselines: bool = False,
    seed: int = 0,
    workers: int = 0,
    cache: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of all encoders on all sets. A set that cannot be scored is skipped, and it is said why.

    Args:
        encoders: by name. asked: protocols; of each set those are run that its kind of labels allows.
        label, group: columns, of those sets that are tables.
        baselines: score random weights and raw inputs as well, as two more to be ranked; with one encoder only.

    Returns:
        `{"of": names, "seed", "scores": [{"set", "of", "protocol", "metric", "value", "low", "high", "n", "split",
        "settings"}], "means": [{"protocol", "metric", "of", "value", "sets"}] over the sets that have the score of all,
        "ranks": {name: mean rank over sets and scores, 1 is best}, "differences": [{"set", …}] as `compare` has them,
        corrected by Holm over all of the table, "skipped": {set: why}, "bad_files": {set: how many}}`.

    Raises:
        UsageError: a feature that an encoder has not. DataError: no set could be scored.
    """
    for encoder in encoders.values():
        for one in asked:
            check_inputs(one.name, encoder.inputs)
        choices.check(encoder, [name for one in asked for name in features_of(one, encoder)])
    scores, differences, skipped, bad = [], [], {}, {}
    for title, path in sets.items():
        tell = progress and (lambda what, done, total, title=title: progress(f"{title}: {what}", done, total))
        how = {"baselines": baselines, "seed": seed, "workers": workers, "cache": cache, "progress": tell}
        try:
            found = {name: _score(one, path, asked, label, group, how) for name, one in encoders.items()}
            compared = compare(found, seed=seed) if len(found) > 1 else {"differences": []}
        except (TacitError, OSError) as error:
            skipped[title] = str(error)
            continue
        for name, result in found.items():
            for score in result["results"]:
                of = name if score["of"] == "run" else score["of"]
                scores.append({"set": title, **score, "of": of, "split": result["split"]})
            if result["bad_files"]:
                bad[title] = len(result["bad_files"])
        differences += [{"set": title, **row} for row in compared["differences"]]
    if not scores:
        raise DataError("No set could be scored. " + " ".join(f"{title}: {why}" for title, why in skipped.items()))
    for row, p in zip(differences, holm([d["p"] for d in differences]) if differences else (), strict=True):
        row["p_holm"] = float(p)
    names = list(dict.fromkeys(s["of"] for s in scores))
    return {"of": names, "seed": seed, "scores": scores, **_summary(scores, names), "differences": differences,
            "skipped": skipped, "bad_files": bad}  # fmt: skip


def _score(encoder: Encoder, path: Path, asked: Sequence[Asked], label, group, how: dict[str, Any]) -> dict[str, Any]:
    has_columns = path.suffix.lower() in TABLES or any((path / f"train{end}").is_file() for end in TABLES)
    columns = {"labels": label or "auto", "group": group} if has_columns else {}
    train, test = open_splits(path, channels=encoder.inputs.channels, kind=field_of(encoder.inputs), **columns)
    kind = kind_of(train, test)
    fitting = [one.spec for one in asked if kind in PROTOCOLS[one.name].kinds]
    if not fitting:
        check_kind(asked[0].name, kind)
    return evaluate(encoder, train, test, fitting, **how)


def _summary(scores: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    by = {(s["set"], s["protocol"], s["metric"], s["of"]): s["value"] for s in scores}
    rows = [key for key in dict.fromkeys(key[:3] for key in by) if all((*key, name) in by for name in names)]
    values = {key: [by[(*key, name)] for name in names] for key in rows}
    means = []
    for protocol, metric in dict.fromkeys(key[1:] for key in rows):
        of_sets = np.array([values[key] for key in rows if key[1:] == (protocol, metric)])
        means += [
            {"protocol": protocol, "metric": metric, "of": name, "value": float(mean), "sets": len(of_sets)}
            for name, mean in zip(names, of_sets.mean(0), strict=True)
        ]
    ranks = average_ranks(np.array([[sign(key[2]) * v for v in values[key]] for key in rows])) if rows else []
    return {"means": means, "ranks": dict(zip(names, map(float, ranks), strict=True)) if rows else {}}


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows for people, as `TITLES`: every set's scores, then the means over sets."""
    rows = [
        (s["set"], s["protocol"], s["metric"], s["of"], shown(s), interval(s), f"{s['n']:,}") for s in result["scores"]
    ]
    for m in result["means"]:
        rows.append((f"mean of {m['sets']}", m["protocol"], m["metric"], m["of"], shown(m), "", ""))
    return rows


def caption(result: dict[str, Any]) -> str:
    """Ranks, differences that count, and what was left out."""
    said = [f"Seed {result['seed']}."]
    if len(result["of"]) > 1:
        ranks = sorted(result["ranks"].items(), key=lambda r: r[1])
        said.append(f"Mean ranks over sets and scores: {', '.join(f'{name} {rank:.2g}' for name, rank in ranks)}.")
    for d in result["differences"]:
        if d["p_holm"] < 0.05:
            by = f"{100 * d['difference']:.1f} points" if is_share(d["metric"]) else f"{d['difference']:.3f}"
            said.append(f"{d['set']}, {d['protocol']}: {d['a']} beats {d['b']} by {by} (p {d['p_holm']:.2g}).")
    said += [f"Skipped {title}: {why}" for title, why in result["skipped"].items()]
    said += [f"{title}: {count:,} unreadable files were left out." for title, count in result["bad_files"].items()]
    return " ".join(said)
