"""Which files of a folder may be trained on: readable, once each, licensed, and past every detector (PASS, Asano et al.
2021, arXiv 2109.13228).

What is slow (bytes read, pictures hashed, detectors asked) is kept file by file in facts.jsonl, so that an audit goes
on where it was stopped; which files are kept follows from these facts and the rules alone, in the order of the names.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL

import tacit
from tacit.data.audit.duplicates import Near, looks
from tacit.data.audit.metadata import Metadata, read_metadata, read_removals, truths
from tacit.data.audit.stages import Stage
from tacit.data.folder import index_folder
from tacit.data.labels import LABEL_NAMES
from tacit.data.picture import Picture
from tacit.errors import BadRecord, DataError, UsageError
from tacit.run import atomic, write_json

KEPT, REJECTED, FACTS, PROVENANCE = "kept.csv", "rejected.csv", "facts.jsonl", "provenance.json"


@dataclass(frozen=True)
class Verdict:
    """reason is None for a file that is kept."""

    name: str
    reason: str | None
    detail: str
    sha256: str
    row: dict[str, str] | None
    scores: dict[str, float]


@dataclass
class Audit:
    """What an audit found: where it lies, how many files there were, and provenance.json."""

    out: Path
    verdicts: list[Verdict]
    provenance: dict[str, Any]


@dataclass
class _Facts:
    """What is known of each file, on disk as soon as it is known."""

    path: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    fact = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a line that was being written when the audit was stopped
                self.known[fact["name"]] = fact
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write("\n")  # ends such a line

    def of(self, name: str, stamp: list[int]) -> dict[str, Any]:
        fact = self.known.get(name)
        return fact if fact and fact["stamp"] == stamp else {"name": name, "stamp": stamp, "scores": {}}

    def keep(self, fact: dict[str, Any]) -> None:
        self.known[fact["name"]] = fact
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(fact) + "\n")


def audit(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    stages: Sequence[Stage] = (),
    *,
    near: int | None = None,
    metadata: str | os.PathLike | None = None,
    licence: str | None = None,
    unlicensed: str = "stop",
    remove: str | os.PathLike | None = None,
    truth: str | None = None,
    source: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Audit:
    """Sort the images of a folder into kept.csv and rejected.csv in `out`, and say how in provenance.json.

    A file is rejected by the first of these that applies: it is on the list of removals; it cannot be read; its bytes
    are those of an earlier file; it looks like an earlier one; nothing says who made it under which licence; a stage
    rejects it. The stages are asked in their order, the cheap one first, and none for a file that is already rejected.

    Args:
        folder: images, nested as they may be; what else lies there is passed over.
        out: a folder. What an earlier audit of the same files found there is used again.
        stages: detectors and their thresholds.
        near: bits of 64 in which two pictures that look alike may differ; None to compare bytes alone.
        metadata: a table with a row a file; all its columns go into kept.csv. See `read_metadata`.
        licence: of all files, where the table has no such column.
        unlicensed: a file without author or licence is to "stop" the audit, to be counted and left out ("reject"), or
            to be counted and kept ("keep").
        remove: a list of hashes or names that are rejected whatever they show.
        truth: a column of `metadata` that says by hand what the stages should have rejected.
        source: what the files are, with its version, for provenance.json.

    Raises:
        UsageError: options that do not go together. DataError: nothing to audit, or files without a licence.
        RunFailed: a detector failed.
    """
    folder, out = Path(folder), Path(out)
    if len({stage.name for stage in stages}) < len(stages):
        raise UsageError(f"detectors {', '.join(s.name for s in stages)}: each needs a name of its own.")
    if near is not None and not 0 <= near <= 16:
        raise UsageError(f"near = {near}: must be from 0 to 16 bits of 64.")
    if unlicensed not in ("stop", "reject", "keep"):
        raise UsageError(f"unlicensed = {unlicensed}: must be stop, reject or keep.")
    if metadata is None and (licence or truth):
        raise UsageError("licence and truth go with metadata: give the table.")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of images.")
    for stage in stages:
        _ = stage.version  # a detector that is not there is said before anything is read
    table = read_metadata(Path(metadata), licence, unlicensed != "keep") if metadata is not None else None
    said = truths(table, truth) if truth is not None else {}
    removals = read_removals(Path(remove)) if remove is not None else set()
    index = index_folder(folder)
    if index.facts["kind"] != "image":
        raise DataError(f"{folder} holds sounds and no image; an audit is of images.")
    names = sorted(_posix(name) for name in index.table.column("name").to_pylist())  # the same on every system
    verdicts = [Verdict(_posix(name), "unreadable", reason, "", None, {}) for name, reason in index.facts["skipped"]]
    judge = _Judge(folder, _Facts(out / FACTS), list(stages), near, table, unlicensed, removals)
    for done, name in enumerate(names):
        verdicts.append(judge(name))
        if progress is not None:
            progress("auditing", done + 1, len(names))
    verdicts.sort(key=lambda v: v.name)
    if table is not None and unlicensed == "stop":
        _stop_for_licences(verdicts, table)
    kept_sha256 = _write(folder, out, verdicts, table)
    provenance = {
        "tacit": tacit.__version__,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__},
        "folder": str(folder),
        "source": source,
        "notes": index.facts["notes"],
        "files": len(verdicts),
        "kept": sum(v.reason is None for v in verdicts),
        "rejected": dict(Counter(v.reason for v in verdicts if v.reason is not None)),
        "stages": [_of_stage(stage, verdicts) for stage in stages],
        "near": None if near is None else {"hash": "difference hash, 8 x 8", "bits": near},
        "removals": None if remove is None else _of_file(Path(remove)) | {"rows": len(removals)},
        "metadata": None if table is None else _of_metadata(table, verdicts),
        "recall": None if truth is None else _recall(stages, verdicts, table, said, truth),
        KEPT: kept_sha256,
    }
    write_json(out / PROVENANCE, provenance)
    return Audit(out, verdicts, provenance)


@dataclass
class _Judge:
    """`self(name)` in the order of the names: what is kept of two that are alike is the first."""

    folder: Path
    facts: _Facts
    stages: list[Stage]
    near: int | None
    table: Metadata | None
    unlicensed: str
    removals: set[str]

    def __post_init__(self) -> None:
        self.first: dict[str, str] = {}  # by the digest of the bytes
        self.alike = None if self.near is None else Near(self.near)

    def __call__(self, name: str) -> Verdict:
        path, data, picture = self.folder / name, None, None
        try:
            stat = path.stat()
            fact = self.facts.of(name, [stat.st_size, stat.st_mtime_ns])
            if "sha256" not in fact:
                data = path.read_bytes()
                fact["sha256"] = hashlib.sha256(data).hexdigest()
                picture = self._examine(fact, data)
                self.facts.keep(fact)
        except OSError as error:
            return Verdict(name, "unreadable", f"cannot be read ({error.strerror})", "", None, {})
        digest, row, scores = fact["sha256"], None, {}

        def verdict(reason: str | None, detail: str = "") -> Verdict:
            return Verdict(name, reason, detail, digest, row, scores)

        if self.table is not None:
            row = self._row(name, data)
        # Also of what is removed or damaged a copy is a copy.
        earlier, like = self.first.setdefault(digest, name), None
        if self.alike is not None and earlier == name and fact.get("looks") is not None:
            like = self.alike.meet(int(fact["looks"], 16), name)
        if listed := self.removals & {name, PurePosixPath(name).name, PurePosixPath(name).stem, digest}:
            return verdict("removed", f"on the list of removals as {min(listed)}")
        if fact.get("bad"):
            return verdict("unreadable", fact["bad"])
        if earlier != name:
            return verdict("duplicate", f"the bytes of {earlier}")
        if like is not None:
            return verdict("near duplicate", f"like {like[0]}, {like[1]} of 64 bits differ")
        if self.table is not None and self.unlicensed != "keep" and (lacking := self.table.lacks(row)):
            return verdict("no licence", lacking)
        for stage in self.stages:
            if stage.key not in fact["scores"]:
                if picture is None:
                    picture = Picture(path.read_bytes(), 3)
                fact["scores"][stage.key] = stage.score(_bytes(picture.array()), name)
                self.facts.keep(fact)
            scores[stage.name] = fact["scores"][stage.key]
            if stage.rejects(scores[stage.name]):
                return verdict(stage.name, f"{scores[stage.name]:.6g} {stage.rule} {stage.threshold:g}")
        return verdict(None)

    def _examine(self, fact: dict[str, Any], data: bytes) -> Picture | None:
        """Decode the whole picture once, so that a damaged one is found, and take its hash."""
        try:
            picture = Picture(data, 3)
            picture.array()
            bits = looks(Picture(data, 3))
        except BadRecord as error:
            fact["bad"] = str(error)
            return None
        fact["looks"] = None if bits is None else f"{bits:016x}"
        return picture

    def _row(self, name: str, data: bytes | None) -> dict[str, str] | None:
        found = self.table.find(name, data)
        if found is None and data is None and self.table.by_hash:
            found = self.table.find(name, (self.folder / name).read_bytes())
        return found


def _posix(name: str) -> str:
    return name.replace(os.sep, "/")


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)


def _stop_for_licences(verdicts: list[Verdict], table: Metadata) -> None:
    lacking = [v for v in verdicts if v.reason == "no licence"]
    if lacking:
        named = "; ".join(f"{v.name}: {v.detail}" for v in lacking[:5])
        raise DataError(
            f"{len(lacking):,} of {len(verdicts):,} files have no author or licence in {table.path} ({named}). "
            "Complete it and give the same command again, or leave them out: --unlicensed reject."
        )


def _write(folder: Path, out: Path, verdicts: list[Verdict], table: Metadata | None) -> str:
    """Both lists; returns the SHA-256 of the kept one. Paths are relative to the list, as `--data` reads them."""
    kept = [v for v in verdicts if v.reason is None]
    columns = [] if table is None else [c for c in table.columns if c.lower() not in ("path", "sha256")]
    # A column of that name would be taken for classes, of which none may be missing.
    titles = [
        f"metadata_{c}" if c.lower() in LABEL_NAMES and not all((v.row or {}).get(c) for v in kept) else c
        for c in columns
    ]
    rows: Iterator[list[str]] = (
        [_posix(os.path.relpath(folder / v.name, out)), v.sha256, *((v.row or {}).get(c, "") for c in columns)]
        for v in kept
    )
    _table(out / KEPT, ["path", "sha256", *titles], rows)
    rejected = ([v.name, v.reason, v.detail] for v in verdicts if v.reason is not None)
    _table(out / REJECTED, ["path", "reason", "detail"], rejected)
    return hashlib.sha256((out / KEPT).read_bytes()).hexdigest()


def _table(path: Path, titles: list[str], rows: Iterator[list[str]]) -> None:
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows(rows)


def _of_file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _of_stage(stage: Stage, verdicts: list[Verdict]) -> dict[str, Any]:
    asked = [v for v in verdicts if stage.name in v.scores]
    return {
        "name": stage.name, "detector": stage.entry, "version": stage.version,
        "rejects": f"score {stage.rule} {stage.threshold:g}", "asked": len(asked),
        "rejected": sum(v.reason == stage.name for v in asked),
    }  # fmt: skip


def _of_metadata(table: Metadata, verdicts: list[Verdict]) -> dict[str, Any]:
    kept = [v for v in verdicts if v.reason is None]
    rows = [v.row for v in kept if v.row is not None]
    licences = Counter(row[table.licence] for row in rows) if table.licence else {}
    return _of_file(table.path) | {
        "rows": len(table.rows), "rows_without_a_file": len(table.rows) - len(table.used),
        "columns": {"author": table.author, "licence": table.licence}, "licence_of_all": table.licence_of_all,
        "licences": dict(sorted(licences.items())),
        "authors": len({row[table.author] for row in rows}) if table.author else None,
        "kept_without": sum(table.lacks(v.row) is not None for v in kept),
    }  # fmt: skip


def _recall(stages, verdicts, table: Metadata, said: dict[str, bool | None], column: str) -> dict[str, Any]:
    """Of the files that a person marked, the share that each stage and all together rejected, with 95 % intervals."""
    of_row = {id(row): key for key, row in table.rows.items()}
    judged = [(v, said[of_row[id(v.row)]]) for v in verdicts if v.row is not None and (v.scores or not stages)]
    marked = [v for v, truth in judged if truth]
    clear = [v for v, truth in judged if truth is False]
    names = [stage.name for stage in stages]
    return {
        "column": column, "marked": len(marked), "clear": len(clear),
        "missed": [v.name for v in marked if v.reason is None][:100],
        "found": wilson(sum(v.reason in names for v in marked), len(marked)),
        "found_by": {n: wilson(sum(v.reason == n for v in marked), len(marked)) for n in names},
        "rejected_of_clear": wilson(sum(v.reason in names for v in clear), len(clear)),
    }  # fmt: skip


def wilson(count: int, total: int, z: float = 1.959964) -> dict[str, float | int] | None:
    """`count` of `total` with its 95 % interval (Wilson 1927); None of none."""
    if not total:
        return None
    share, weight = count / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / weight
    half = z / weight * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return {
        "count": count,
        "of": total,
        "value": share,
        "low": max(centre - half, 0.0),
        "high": min(centre + half, 1.0),
    }
