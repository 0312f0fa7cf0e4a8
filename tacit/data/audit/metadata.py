"""What a table says of files: who made them, under which licence, and what else is to be kept with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tacit.data.listing import PATH_NAMES, read_listing
from tacit.errors import DataError, Unknown

HASH_NAMES = ("hash", "sha256", "sha1", "md5", "checksum")
AUTHORS = ("author", "creator", "creator_uname", "uploader", "unickname", "owner", "photographer", "user")
LICENCES = ("licence", "license", "licensename", "license_name", "licenseurl", "license_url")
DIGESTS = {32: "md5", 40: "sha1", 64: "sha256"}  # by the number of hexadecimal digits


@dataclass
class Metadata:
    """Rows by file. `keys` are names relative to the folder, or hashes: then a file is known by the stem of its name,
    as in PASS, or by the digest of its bytes."""

    path: Path
    columns: list[str]
    rows: dict[str, dict[str, str]]
    by_hash: bool
    author: str | None  # columns
    licence: str | None
    licence_of_all: str | None = None
    used: set[str] = field(default_factory=set)

    def find(self, name: str, data: bytes | None) -> dict[str, str] | None:
        """The row of a file, if there is one."""
        if not self.by_hash:
            keys: Iterable[str] = (name,)
        else:
            keys = [PurePosixPath(name).stem.lower()]
            keys += [] if data is None else [hashlib.new(kind, data).hexdigest() for kind in self._kinds()]
        key = next((k for k in keys if k in self.rows), None)
        if key is None:
            return None
        self.used.add(key)
        return self.rows[key]

    def lacks(self, row: dict[str, str] | None) -> str | None:
        """Why a file may not be kept."""
        if row is None:
            return f"no row in {self.path.name}"
        both = (("author", self.author), ("licence", self.licence))
        empty = [what for what, column in both if column is None or not row[column].strip()]
        return f"no {' and no '.join(empty)} in {self.path.name}" if empty else None

    def _kinds(self) -> list[str]:
        if not hasattr(self, "_found"):
            self._found = sorted({DIGESTS[len(k)] for k in self.rows if len(k) in DIGESTS})
        return self._found


def read_metadata(path: Path, licence_of_all: str | None = None, required: bool = True) -> Metadata:
    """A .csv, .tsv, .json, .jsonl or .parquet file with a column of paths or hashes, of authors and of licences.

    Args:
        licence_of_all: the licence, where it is one for all and the table has no such column.
        required: whether there must be columns of authors and licences.

    Raises:
        DataError: no such table, columns missing, or two rows that say different things of one file.
    """
    table = read_table(path)
    lower = {name.strip().lower(): name for name in reversed(table)}

    def column(names: tuple[str, ...], what: str, required: bool = True) -> str | None:
        found = next((lower[n] for n in names if n in lower), None)
        if found is None and required:
            raise DataError(f"{path} has no column of {what} (columns: {', '.join(table)}); call one {names[0]!r}.")
        return found

    texts = {name: ["" if v is None else str(v) for v in values] for name, values in table.items()}
    if licence_of_all is not None:
        if (there := next((lower[n] for n in LICENCES if n in lower), None)) is not None:
            raise DataError(f"{path} has a column {there!r}; leave --licence out, or the column.")
        texts["licence"] = [licence_of_all] * len(next(iter(texts.values()), []))
        lower["licence"] = "licence"
    hashes = next((lower[n] for n in HASH_NAMES if n in lower), None)
    key = hashes or column(PATH_NAMES, "paths or hashes")
    author, licence = column(AUTHORS, "authors", required), column(LICENCES, "licences", required)
    rows: dict[str, dict[str, str]] = {}
    for number, name in enumerate(texts[key]):
        row = {column: values[number] for column, values in texts.items()}
        name = name.lower() if hashes else name.replace("\\", "/").removeprefix("./")
        if rows.setdefault(name, row) != row:
            raise DataError(f"{path}: two rows say different things of {name!r}, the second is row {number + 2}.")
    return Metadata(path, list(texts), rows, hashes is not None, author, licence, licence_of_all)


def read_table(path: Path) -> dict[str, list]:
    """Columns of a table by their names. Raises `DataError`."""
    if path.suffix.lower() != ".parquet":
        if not path.is_file():
            raise DataError(f"{path} does not exist.")
        return read_listing(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pydict()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {str(error)[:300]}") from error


def read_removals(path: Path) -> set[str]:
    """Hashes (or stems of names) and names of what is to be removed whatever the detectors say: one a line, or a table
    with such a column."""
    if path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        table = read_table(path)
        lower = {name.strip().lower(): name for name in reversed(table)}
        key = next((lower[n] for n in (*HASH_NAMES, *PATH_NAMES) if n in lower), None)
        if key is None:
            raise DataError(f"{path} has no column of hashes or paths (columns: {', '.join(table)}).")
        lines = [str(v) for v in table[key]]
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    return {line.strip() for line in lines if line.strip()}


def truths(metadata: Metadata, column: str) -> dict[str, bool | None]:
    """What a column of yes (1, true, yes) and no says of every row; None where it says nothing."""
    if column not in metadata.columns:
        raise Unknown(f"column of {metadata.path}", column, metadata.columns)
    said: dict[str, bool | None] = {}
    for key, row in metadata.rows.items():
        text = row[column].strip().lower()
        if text not in ("", "0", "0.0", "false", "no", "1", "1.0", "true", "yes"):
            raise DataError(f"{metadata.path}, column {column!r}: {text!r} is neither yes nor no (1 or 0).")
        said[key] = None if not text else text in ("1", "1.0", "true", "yes")
    return said
