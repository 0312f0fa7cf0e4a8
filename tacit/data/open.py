"""Whatever a user calls data, opened: the one place that knows every container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data import clips, episodes, exams, sequence_sets, sequences
from tacit.data.archive import Members, index_tars, index_zip
from tacit.data.containers import FILMS
from tacit.data.folder import Files, index_folder
from tacit.data.index import Index
from tacit.data.kinds import FILES, LACKING, TIMED, check_kind, check_readers
from tacit.data.labels import PARTS, class_folders, parts_note
from tacit.data.listing import index_listing, read_listing, root_of
from tacit.data.source import Source, Store
from tacit.data.table import from_array, from_rows, load_rows
from tacit.data.targets import Targets, match_targets, read_targets
from tacit.errors import DataError, Unknown, UsageError

TABLES = {".parquet": "parquet", ".arrow": "arrow"}
LISTINGS = (".csv", ".tsv", ".json", ".jsonl")


def open_source(
    data: Any,
    *,
    channels: int = 3,
    kind: str | None = None,
    labels: str | Sequence[str] | None = "auto",
    group: str | None = None,
    cache: str | os.PathLike | None = None,
) -> Source:
    """Open a user's data as records, of pictures or of sounds.

    Args:
        data: a folder (class folders become labels), a .zip (labels from `<stem>_map.txt` or class folders), a .tar or
            a pattern or folder of them (WebDataset), a .parquet or .arrow file or a folder of them, a .csv, .tsv,
            .json or .jsonl that lists files,
            `hub:NAME` or `hub:NAME:SPLIT`, `episodes:PATH` or `episodes:PATH:first=1000,edges=drop` (see
            `episodes.Options`) for frames in their order, `exams:PATH` or `exams:PATH:plane=sagittal` (see
            `exams.Options`) for slices of exams, `clips:PATH` for films with their sound and what is said in them
            (a folder, or a table with columns `video`, `audio`, `text`, `start`, `end`), `sequences:PATH` or
            `sequences:PATH:part=test` (see `sequences.Options`) for feature sequences of text, audio and vision, a .npy
            file or an array of images [N, H, W(, C)], a `datasets.Dataset`. Episodes, exams and arrays are pictures;
            all else may hold sounds.
        channels: channels of the pictures.
        kind: "image" or "audio" where there are both; what there is more of when left out. "video" for clips, with all
            that they have; of clips "audio" or "text" takes those that have it, and nothing else of them. "sequences":
            as if `data` began so.
        labels: "auto" takes labels where there are any, None leaves them out; a list of columns of a table takes those,
            as classes, numbers or several labels a record by what they hold (see `targets.read_targets`), or as
            `column:class`, `column:numbers` or `column:multi` says.
        group: a column of a table that says which records belong together.
        cache: where indices are kept; $TACIT_CACHE or ~/.cache/tacit when left out.

    Raises:
        DataError: nothing there, or nothing that can be read. UsageError: columns of what has none. MissingExtra:
            what reads the sounds is not installed.
    """
    check_kind(kind)
    data = _as_sequences(data, kind)
    source = _open(data, channels, cache, kind)
    source.title = os.fspath(data) if isinstance(data, str | os.PathLike) else type(data).__name__
    if labels is None:
        source.labels = source.classes = source.targets = None
    columns, taken_as = ([], None) if labels in (None, "auto") else _wanted(labels)
    if columns or group:
        table = _columns(data, [*columns, *([group] if group else [])])
        if (rows := getattr(source.store, "row_numbers", None)) is not None:  # a table of clips, some left out
            table = {name: [values[row] for row in rows.tolist()] for name, values in table.items()}
        if group:
            source.groups = np.array([str(value) for value in table[group]])
        if columns:
            targets = read_targets({name: table[name] for name in columns}, source.title, taken_as)
            source.labels = source.classes = source.targets = None
            if targets.kind == "class":
                source.labels, source.classes = targets.values, targets.names
            else:
                source.targets = targets
    return source


def _wanted(labels: Sequence[str]) -> tuple[list[str], str | None]:
    """Names of columns, and what they are to be taken as."""
    pairs = [label.rpartition(":") if ":" in label else (label, "", "") for label in labels]
    kinds = {kind for _, _, kind in pairs if kind}
    if len(kinds) > 1:
        raise UsageError(f"--label {','.join(labels)}: columns together are of one kind, not {' and '.join(kinds)}.")
    return [name for name, _, _ in pairs], kinds.pop() if kinds else None


def _columns(data: Any, names: list[str]) -> dict[str, Sequence[Any]]:
    """Columns of a table of files, a Parquet or Arrow file, a hub data set or a `datasets.Dataset`."""
    if type(data).__module__.startswith("datasets."):
        rows, title, known = data, "the data set", data.column_names
    else:
        title = os.fspath(data).removeprefix(clips.PREFIX)
        path = Path(title)
        if path.suffix.lower() in LISTINGS:
            rows = read_listing(path)
            known = list(rows)
        elif path.suffix.lower() in TABLES:
            rows = load_rows([str(path)], TABLES[path.suffix.lower()])
            known = rows.column_names
        elif title.startswith("hub:"):
            name, _, split = title[4:].partition(":")
            rows = load_rows(None, "hub", name, split or None)
            known = rows.column_names
        else:
            raise UsageError(
                f"{title} has no columns to take labels or groups from ({', '.join(names)}). Give a table: "
                f"{', '.join((*LISTINGS, *TABLES))}."
            )
    for name in names:
        if name not in known:
            raise Unknown(f"column of {title}", name, known)
    return {name: rows[name][:] for name in names}


def open_splits(
    data: Any,
    test: Any = None,
    *,
    channels: int = 3,
    kind: str | None = None,
    labels: str | Sequence[str] | None = "auto",
    group: str | None = None,
) -> tuple[Source, Source | None]:
    """Train and test of a labelled set: `data` with train/ and test/ inside (folders or files), or one and `test`.

    The test labels follow the training set's class names. The second is None when there is no test set.
    """
    data, test = parts_of(_as_sequences(data, kind), test)
    how = {"channels": channels, "kind": kind, "labels": labels, "group": group}
    train = open_source(data, **how)
    if test is None:
        return train, None
    if train.targets is not None and labels != "auto":  # a test set may be too small to show what its columns are
        how["labels"] = [f"{label.partition(':')[0]}:{train.targets.kind}" for label in labels]
    held_out = open_source(test, **how)
    if train.targets is not None and train.targets.kind == "multi" and held_out.labels is not None:
        _as_several(held_out)
    if train.classes and held_out.classes and not match_classes(held_out, train.classes):
        unknown = [c for c in held_out.classes if c not in train.classes]
        raise DataError(f"{test} has classes that {data} has not: {', '.join(unknown[:5])}.")
    if train.targets and held_out.targets:
        held_out.targets = match_targets(held_out.targets, train.targets, f"{test}")
    return train, held_out


def parts_of(data: Any, test: Any = None) -> tuple[Any, Any]:
    """The training and the test part of a folder that holds both; else what was given."""
    if test is None and isinstance(data, str) and data.startswith(clips.PREFIX):
        parts = parts_of(data[len(clips.PREFIX) :])
        return tuple(part if part is None else f"{clips.PREFIX}{part}" for part in parts)
    if test is None and isinstance(data, str) and data.startswith(sequences.PREFIX):
        path, options = sequences.Options.parse(data[len(sequences.PREFIX) :])
        if sequence_sets.both_parts(path, options):
            return tuple(f"{data}{',' if str(path) != data[len(sequences.PREFIX) :] else ':'}part={part}"
                         for part in ("train", "test"))  # fmt: skip
    if test is None and isinstance(data, str | os.PathLike) and Path(data).is_dir():
        train_part, test_part = _part(Path(data), "train"), _part(Path(data), "test", "val", "validation")
        if train_part and test_part:
            return train_part, test_part
    return data, test


def _as_several(source: Source) -> None:
    """A class each as several labels at once, of which every record happens to have one."""
    values = np.zeros((len(source), len(source.classes)), np.int8)
    values[np.arange(len(source)), source.labels] = 1
    source.targets, source.labels, source.classes = Targets("multi", values, source.classes), None, None


def match_classes(source: Source, classes: list[str]) -> bool:
    """Number the labels of `source` as in `classes`, by name; False, and nothing done, if one is not among them."""
    if not set(source.classes) <= set(classes):
        return False
    source.labels = np.array([classes.index(c) for c in source.classes])[source.labels]
    source.classes = classes
    return True


def _part(folder: Path, *names: str) -> Path | None:
    ends = ("", *TABLES, *LISTINGS, ".zip", ".tar", ".npy")
    return next((c for name in names for end in ends if (c := folder / f"{name}{end}").exists()), None)


def _open(data: Any, channels: int, cache: str | os.PathLike | None, kind: str | None) -> Source:
    if kind in TIMED:
        return _open_clips(_films_of(data), channels, cache, kind)
    if isinstance(data, np.ndarray):
        store, fingerprint = from_array(data, "array")
        return Source(store, channels, None, None, fingerprint)
    if type(data).__module__.startswith("datasets."):
        return _of_rows(data, "dataset", channels, kind)
    text = os.fspath(data)
    if text.startswith("hub:"):
        name, _, split = text[4:].partition(":")
        return _of_rows(load_rows(None, "hub", name, split or None), name, channels, kind)
    if text.startswith(episodes.PREFIX):
        return _open_episodes(text[len(episodes.PREFIX) :], channels, cache)
    if text.startswith(exams.PREFIX):
        return _open_exams(text[len(exams.PREFIX) :], channels, cache)
    if text.startswith(clips.PREFIX):
        return _open_clips(text[len(clips.PREFIX) :], channels, cache, kind)
    if text.startswith(sequences.PREFIX):
        return _open_sequences(text[len(sequences.PREFIX) :], channels)
    path = Path(text)
    if any(c in text for c in "*?{[") and not path.exists():
        return _open_pattern(text, channels, cache, kind)
    if not path.exists():
        raise DataError(f"{path} does not exist.{_near(path)}")
    if path.is_dir():
        return _open_folder(path, channels, cache, kind)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        index = index_zip(path, cache, kind)
        return _of_index(Members([str(path)], index), index, channels)
    if suffix == ".tar":
        return _open_tars([path], channels, cache, kind)
    if suffix in TABLES:
        return _of_rows(load_rows([str(path)], TABLES[suffix]), path.name, channels, kind)
    if suffix in LISTINGS:
        index = index_listing(path, cache)
        root = root_of(path, index.table.column("name")[0].as_py())
        source = _of_index(Files(str(root), index), index, channels)
        if root != Path(os.path.normpath(path.parent)):
            source.notes = [*source.notes, f"The files that {path.name} names are in {root}."]
        return source
    if suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path} is no array of numbers: {error}") from error
        store, fingerprint = from_array(array, path.name, str(path.resolve()))
        return Source(store, channels, None, None, fingerprint)
    raise DataError(
        f"{path} is a single file. Give the folder it lies in ({path.parent}), or a .zip, .tar, .parquet, .arrow, "
        ".csv, .tsv or .npy file."
    )


def _open_episodes(text: str, channels: int, cache: str | os.PathLike | None) -> Source:
    """Stacks of frames; the class of a stack is the first-level folder of its episode, where there are any."""
    path, options = episodes.Options.parse(text)
    _check_folder(path)
    store = episodes.open_episodes(path, options, channels, cache)
    counts = np.diff(store.ends, prepend=0)
    names = store.index.table.column("name").to_pylist()
    found = class_folders(names, os.sep)
    notes = []
    if short := int((counts == 0).sum()):
        notes.append(f"{short:,} of {len(counts):,} episodes are too short for a stack and were left out.")
    return Source(
        store, channels, None if found is None else np.repeat(found[0], counts), None if found is None else found[1],
        episodes.fingerprint(store), skipped=[(n, r) for n, r in store.index.facts["skipped"]], notes=notes,
    )  # fmt: skip


def _open_exams(text: str, channels: int, cache: str | os.PathLike | None) -> Source:
    """Slices, grouped by patient where that is known and else by exam; each exam has the same share of an epoch."""
    path, options = exams.Options.parse(text)
    _check_folder(path)
    store, notes = exams.open_exams(path, options, cache)
    names, counts = store.column("exam"), np.diff(store.ends, prepend=0)
    _, of, series = np.unique(names, return_inverse=True, return_counts=True)
    patients = store.column("patient")
    return Source(
        store, channels, None, None, store.fingerprint(), skipped=[(n, r) for n, r in store.index.facts["skipped"]],
        notes=notes, groups=np.repeat(np.where(patients == "", names, patients), counts),
        sided=store.of_slices("plane") == "sagittal", weights=tuple((1 / series[of]).tolist()),
        starts=tuple((store.ends - counts).tolist()), lengths=tuple(counts.tolist()),
    )  # fmt: skip


def _open_clips(text: str, channels: int, cache: str | os.PathLike | None, kind: str | None) -> Source:
    """Films with all that belongs to them; or, as sounds or texts, those that have it and that alone."""
    only = kind if kind in ("audio", "text") else None
    store, notes = clips.open_clips(text, cache, only)
    facts, index = store.index.facts, store.index
    source = Source(
        store, channels, index.labels(), facts["classes"], f"{index.fingerprint()}-{facts['content']}",
        skipped=[(name, reason) for name, reason in facts["skipped"]], notes=notes,
    )  # fmt: skip
    if only is None:
        return source
    rows = np.flatnonzero([bool(found) for found in store.has(only)])
    if not len(rows):
        raise DataError(f"None of the {len(store):,} clips of {text} has {LACKING[only]}.")
    chosen = source.select(rows)
    chosen.skipped, chosen.notes = source.skipped, source.notes
    return chosen


def _films_of(data: Any) -> str:
    """The folder or table of films that is meant. Raises `DataError` for what holds none."""
    text = os.fspath(data) if isinstance(data, str | os.PathLike) else type(data).__name__
    if text == type(data).__name__ or text.startswith(("hub:", episodes.PREFIX, exams.PREFIX, sequences.PREFIX)):
        raise DataError(f"{text} holds no films. They are read from a folder or from a table ({', '.join(LISTINGS)}).")
    return text.removeprefix(clips.PREFIX)


def _films_alone(folder: Path) -> bool:
    """Whether a folder holds films and neither sounds nor pictures: then their sound tracks are meant."""
    seen = False
    for _, below, files in os.walk(folder):
        below[:] = [b for b in below if not b.startswith((".", "__MACOSX"))]
        endings = {os.path.splitext(f)[1].lower() for f in files if not f.startswith(".")}
        if endings & FILES:
            return False
        seen = seen or bool(endings & FILMS)
    return seen


def _open_sequences(text: str, channels: int) -> Source:
    """Clips of talking people, grouped by video; labels are emotions or sentiment, in `targets`."""
    found = sequence_sets.open_sequences(*sequences.Options.parse(text))
    return Source(
        found.store, channels, None, None, found.fingerprint, skipped=found.skipped, notes=found.notes,
        targets=found.targets, groups=found.groups,
    )  # fmt: skip


def _as_sequences(data: Any, kind: str | None) -> Any:
    """A path as what it is to be taken for, where it does not say so itself."""
    if kind != "sequences" or not isinstance(data, str | os.PathLike) or os.fspath(data).startswith(sequences.PREFIX):
        return data
    return f"{sequences.PREFIX}{os.fspath(data)}"


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        trouble = "is a single file. Give the folder it lies in." if path.exists() else f"does not exist.{_near(path)}"
        raise DataError(f"{path} {trouble}")


def _open_folder(path: Path, channels: int, cache: str | os.PathLike | None, kind: str | None) -> Source:
    """Ordinary files, unless the folder holds nothing but shards or tables."""
    visible = (
        [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")] if os.access(path, os.R_OK) else []
    )
    suffixes = {p.suffix.lower() for p in visible}
    tars = sorted(p for p in visible if p.suffix.lower() == ".tar")
    if tars and suffixes <= {".tar", ".json", ".txt", ".md"}:
        return _open_tars(tars, channels, cache, kind)
    for suffix, form in TABLES.items():
        tables = sorted(str(p) for p in visible if p.suffix.lower() == suffix)
        if tables and suffixes <= {suffix, ".json", ".txt", ".md"}:
            source = _of_rows(load_rows(tables, form), path.name, channels, kind)
            stems = [Path(table).stem for table in tables]
            source.notes = parts_note(stems if {stem.lower() for stem in stems} <= PARTS else [])
            return source
    if kind == "audio" and _films_alone(path):
        return _open_clips(str(path), channels, cache, kind)
    index = index_folder(path, cache, kind)
    return _of_index(Files(str(path), index), index, channels)


def _open_pattern(pattern: str, channels: int, cache: str | os.PathLike | None, kind: str | None) -> Source:
    paths = sorted(Path(p) for one in _braces(pattern) for p in glob(one))
    if not paths:
        raise DataError(f"{pattern} matches no file.")
    if {p.suffix.lower() for p in paths} == {".tar"}:
        return _open_tars(paths, channels, cache, kind)
    suffix = paths[0].suffix.lower()
    if suffix in TABLES and all(p.suffix.lower() == suffix for p in paths):
        return _of_rows(load_rows([str(p) for p in paths], TABLES[suffix]), pattern, channels, kind)
    raise DataError(f"{pattern}: a pattern names .tar, .parquet or .arrow files; give a folder for files of records.")


def _braces(pattern: str) -> list[str]:
    """`x-{000..002}.tar` -> three names."""
    before, brace, rest = pattern.partition("{")
    inside, close, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if not (brace and close and dots and first.isdigit() and last.isdigit()):
        return [pattern]
    return [f"{before}{n:0{len(first)}d}{after}" for n in range(int(first), int(last) + 1)]


def _open_tars(paths: list[Path], channels: int, cache: str | os.PathLike | None, kind: str | None) -> Source:
    index = index_tars(paths, cache, kind)
    return _of_index(Members([str(p) for p in paths], index), index, channels)


def _of_index(store: Store, index: Index, channels: int) -> Source:
    facts = index.facts
    check_readers(facts["kind"], index.table.column("name"))
    skipped = [(name, reason) for name, reason in facts["skipped"]]
    source = Source(
        store, channels, index.labels(), facts["classes"], index.fingerprint(), skipped=skipped, notes=facts["notes"]
    )
    if names := facts.get("several"):
        values = index.table.column("several").combine_chunks().flatten().to_numpy().reshape(-1, len(names))
        source.targets = Targets("multi", values, names)
    return source


def _of_rows(rows: Any, title: str, channels: int, kind: str | None) -> Source:
    store, labels, classes, fingerprint = from_rows(rows, title, kind)
    check_readers(store.fields[0])
    return Source(store, channels, labels, classes, fingerprint)


def _near(path: Path) -> str:
    """What does exist beside a path that does not."""
    parent = path.parent
    if not parent.is_dir():
        return f" Neither does {parent}."
    inside = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))[:6]
    return f" {parent} holds: {', '.join(inside) or 'nothing'}."
