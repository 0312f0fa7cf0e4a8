"""A table that lists files (.csv, .tsv, .json, .jsonl, COCO's annotations), with what is known of each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from tacit.data.index import Index, stored, write
from tacit.data.kinds import choose
from tacit.data.labels import LABEL_NAMES, as_numbers
from tacit.data.targets import read_targets
from tacit.errors import DataError

SOUND_NAMES = ("wav", "audio", "audio_path", "audio_filepath", "sound")
PLACES = ("audio", "clips", "wavs", "images", "../audio", "../images")  # ESC-50, Common Voice, …
PATH_NAMES = ("path", "file", "file_name", "filename", "filepath", "image", *SOUND_NAMES, "name")


def index_listing(path: Path, cache: str | os.PathLike | None = None) -> Index:
    """The files a table names, relative to a folder (`root_of`), in its order; labels if it has such a column.

    All rows are of one kind, which the endings of most say, or where these say nothing the name of the column. Where a
    cell of labels is a list, records have several at once: facts["several"] names them, and the column `several` says
    which [C] are there.

    Raises:
        DataError: no table, no column of paths, an empty one, or labels for some files only.
    """
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    where, index = stored("listing", str(path.resolve()), cache, lambda facts: facts["stamp"] == stamp)
    if index is not None:
        return index
    table = read_listing(path)
    lower = {name.strip().lower(): name for name in reversed(table)}
    column = next((lower[name] for name in PATH_NAMES if name in lower), None)
    if column is None:
        raise DataError(
            f"{path} has no column of paths (columns: {', '.join(list(table)[:8])}); name one of them `path`."
        )
    names = table[column]
    if not names:
        raise DataError(f"{path} lists no file.")
    if empty := sum(not name for name in names):
        raise DataError(f"{path}, column {column!r}: {empty:,} rows name no file, the first is row {_first(names)}.")
    columns = {"name": pa.array(names, pa.large_string())}
    label = next((lower[name] for name in LABEL_NAMES if name in lower), None)
    classes = several = None
    if label is not None and any(isinstance(cell, list | tuple) and len(cell) != 1 for cell in table[label]):
        several = read_targets({label: table[label]}, str(path), "multi")
        columns["several"] = pa.FixedSizeListArray.from_arrays(pa.array(several.values.ravel()), len(several.names))
    elif label is not None:
        table[label] = [cell[0] if isinstance(cell, list | tuple) else cell for cell in table[label]]
        texts = [None if text is None else str(text) for text in table[label]]
        if missing := sum(not text for text in texts):
            raise DataError(
                f"{path}, column {label!r}: {missing:,} labels are missing, the first in row {_first(texts)}."
            )
        if (found := as_numbers(texts)) is not None:
            columns["label"], classes = pa.array(found[0]), found[1]
    notes = []
    if repeated := len(names) - len(set(names)):
        notes.append(f"{path.name} lists {repeated:,} file{'s' * (repeated > 1)} more than once; all rows are used.")
    kind, rows, _ = choose(names, None)
    if not rows and column.strip().lower() in SOUND_NAMES:
        kind = "audio"
    facts = {"classes": classes, "skipped": [], "notes": notes, "kind": kind, "stamp": stamp}
    return write(where, columns, facts | {"several": None if several is None else several.names})


def root_of(path: Path, first: str) -> Path:
    """The folder that a table's files are named from: its own, or if its first file is not there one of `PLACES`."""
    own = path.parent
    there = next((own / place for place in ("", *PLACES) if (own / place / first).is_file()), own)
    return Path(os.path.normpath(there))


def read_listing(path: Path) -> dict[str, list[Any]]:
    """Every column by its name: texts from .csv and .tsv; what stands there from .json (a list of objects) and .jsonl;
    of a .json in COCO's format `file_name` and `categories`, several to a picture; of one in AudioSet's (as AST's
    programs read it, {"data": [{"wav": path, "labels": "a,b"}]}) its rows, the labels as lists.

    Raises:
        DataError: no such table.
    """
    try:
        if path.suffix.lower() in (".json", ".jsonl"):
            return _of_objects(path)
        split = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
        head = pa.csv.open_csv(path, parse_options=split).schema.names
        text = pa.csv.ConvertOptions(column_types=dict.fromkeys(head, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(path, parse_options=split, convert_options=text).to_pydict()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {str(error)[:300]}") from error


def _of_objects(path: Path) -> dict[str, list[Any]]:
    text = path.read_text(encoding="utf-8")
    lines = path.suffix.lower() == ".jsonl"
    rows = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    if isinstance(rows, dict) and {"images", "annotations", "categories"} <= set(rows):
        rows = _of_coco(rows)
    elif isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = [_of_audioset(row) for row in rows["data"]]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it must be a list of objects, one a file")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _of_coco(about: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO's format as a table: `file_name`, and in `categories` the names of what is in the picture."""
    try:
        names = {category["id"]: str(category["name"]) for category in about["categories"]}
        inside: dict[Any, set[str]] = {image["id"]: set() for image in about["images"]}
        for annotation in about["annotations"]:
            if annotation["image_id"] in inside and annotation["category_id"] in names:
                inside[annotation["image_id"]].add(names[annotation["category_id"]])
        return [{"file_name": i["file_name"], "categories": sorted(inside[i["id"]])} for i in about["images"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it looks like COCO's format and lacks {error}") from error


def _of_audioset(row: Any) -> Any:
    labels = row.get("labels") if isinstance(row, dict) else None
    if not isinstance(labels, str):
        return row
    return {**row, "labels": [part.strip() for part in labels.split(",") if part.strip()]}


def _first(values: list[str]) -> int:
    """The first empty one's row, counted as an editor does: the heading is row 1."""
    return next(i for i, value in enumerate(values) if not value) + 2
