"""A .csv or .tsv that lists files, with a label for each or without."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from tacit.data.index import Index, stored, write
from tacit.data.labels import LABEL_NAMES, as_numbers
from tacit.errors import DataError

PATH_NAMES = ("path", "file", "file_name", "filename", "filepath", "image", "name")


def index_listing(path: Path, cache: str | os.PathLike | None = None) -> Index:
    """The files a table names, relative to the folder it lies in, in its order; labels from a column, if it has one.

    Raises:
        DataError: no table, no column of paths, an empty one, or labels for some files only.
    """
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    where, index = stored("listing", str(path.resolve()), cache, lambda facts: facts["stamp"] == stamp)
    if index is not None:
        return index
    table = _read(path)
    lower = {name.strip().lower(): name for name in reversed(table.column_names)}
    column = next((lower[name] for name in PATH_NAMES if name in lower), None)
    if column is None:
        raise DataError(
            f"{path} has no column of paths (columns: {', '.join(table.column_names[:8])}); name one of them `path`."
        )
    names = table[column].to_pylist()
    if not names:
        raise DataError(f"{path} lists no file.")
    if empty := sum(not name for name in names):
        raise DataError(f"{path}, column {column!r}: {empty:,} rows name no file, the first is row {_first(names)}.")
    columns = {"name": pa.array(names, pa.large_string())}
    label = next((lower[name] for name in LABEL_NAMES if name in lower), None)
    classes = None
    if label is not None:
        texts = table[label].to_pylist()
        if missing := sum(not text for text in texts):
            raise DataError(
                f"{path}, column {label!r}: {missing:,} labels are missing, the first in row {_first(texts)}."
            )
        if (found := as_numbers(texts)) is not None:
            columns["label"], classes = pa.array(found[0]), found[1]
    notes = []
    if repeated := len(names) - len(set(names)):
        notes.append(f"{path.name} lists {repeated:,} file{'s' * (repeated > 1)} more than once; all rows are used.")
    return write(where, columns, {"classes": classes, "skipped": [], "notes": notes, "stamp": stamp})


def _read(path: Path) -> pa.Table:
    """Every column as text."""
    split = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
    try:
        head = pa.csv.open_csv(path, parse_options=split).schema.names
        text = pa.csv.ConvertOptions(column_types=dict.fromkeys(head, pa.string()), strings_can_be_null=False)
        return pa.csv.read_csv(path, parse_options=split, convert_options=text)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {str(error)[:300]}") from error


def _first(values: list[str]) -> int:
    """The first empty one's row, counted as an editor does: the heading is row 1."""
    return next(i for i, value in enumerate(values) if not value) + 2
