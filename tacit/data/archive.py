"""Images and sounds inside zip and tar files, read in place: an index of offsets, then one read a record."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tacit.data.index import Index, stored, write
from tacit.data.kinds import FILES, KNOWN, choose
from tacit.data.labels import as_numbers, class_folders, parts_note, parts_of
from tacit.errors import BadRecord, DataError

DEFLATED = zipfile.ZIP_DEFLATED


@dataclass
class Members:
    shards: list[str]
    index: Index
    _open: dict = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        return {"shards": self.shards, "index": self.index, "_open": {}}

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.index.facts["kind"],)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return self.index.at("name", index)

    def read(self, index: int) -> bytes:
        shard, offset, size = (self.index.at(c, index) for c in ("shard", "offset", "size"))
        try:
            data = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            raise BadRecord(f"cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise BadRecord("truncated")
        if self.index.at("method", index) == DEFLATED:
            try:
                return zlib.decompress(data, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise BadRecord("damaged inside the zip") from error
        return data

    def stamp(self) -> str:
        return str(_stamps([Path(shard) for shard in self.shards]))

    def _descriptor(self, shard: int) -> int:
        key = (os.getpid(), shard)  # a forked worker opens its own
        if key not in self._open:
            self._open[key] = os.open(self.shards[shard], os.O_RDONLY)
        return self._open[key]


def index_zip(path: Path, cache: str | os.PathLike | None = None, kind: str | None = "image") -> Index:
    """A zip of files; labels from `<stem>_map.txt` beside it (lines `name<TAB>label`) or from class folders inside.

    `kind` as in `index_folder`.
    """
    map_file = path.with_name(f"{path.stem}_map.txt")
    stamps = _stamps([path, map_file])
    where, index = stored("zip", f"{path.resolve()}\n{kind}", cache, lambda facts: facts["stamps"] == stamps)
    if index is not None:
        return index
    rows, skipped = [], []
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
            for info in archive.infolist():
                if info.is_dir() or Path(info.filename).suffix.lower() not in FILES:
                    continue
                if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, DEFLATED):
                    skipped.append((info.filename, "encrypted or compressed in an unusual way"))
                    continue
                f.seek(info.header_offset + 26)
                name_length, extra_length = struct.unpack("<HH", f.read(4))
                offset = info.header_offset + 30 + name_length + extra_length
                rows.append((info.filename, 0, offset, info.compress_size, info.compress_type))
    except (zipfile.BadZipFile, OSError, struct.error) as error:
        raise DataError(f"{path} cannot be read as a zip: {error}. Is it whole?") from error
    kind, chosen, notes = choose([row[0] for row in rows], kind)
    rows = [rows[i] for i in chosen]
    names = [row[0] for row in rows]
    labels = _read_map(map_file, names) if map_file.is_file() else class_folders(names)
    return _store(path, where, rows, labels, {"kind": kind, "skipped": skipped, "notes": notes, "stamps": stamps})


def index_tars(paths: list[Path], cache: str | os.PathLike | None = None, kind: str | None = "image") -> Index:
    """WebDataset shards: the files of a sample share their name up to the extension; `.cls` holds its label.

    `kind` as in `index_folder`.
    """
    stamps = _stamps(paths)
    known = "\n".join([*(str(p.resolve()) for p in paths), str(kind)])
    where, index = stored("tar", known, cache, lambda f: f["stamps"] == stamps)
    if index is not None:
        return index
    rows, labels, skipped = [], {}, []
    for shard, path in enumerate(paths):
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    folder, _, base = member.name.rpartition("/")
                    key = f"{shard}/{folder}/{base.partition('.')[0]}"
                    suffix = Path(member.name).suffix.lower()
                    if member.isfile() and suffix == ".cls":
                        labels[key] = archive.extractfile(member).read().decode("utf-8", "replace").strip()
                    elif member.isfile() and suffix in FILES:
                        name = f"{path.name}/{member.name}"
                        rows.append((name, shard, member.offset_data, member.size, 0, key))
        except (tarfile.TarError, OSError) as error:
            skipped.append((path.name, f"the shard breaks off ({error})"))
    kind, chosen, notes = choose([row[0] for row in rows], kind)
    rows = [rows[i] for i in chosen]
    facts = {"kind": kind, "skipped": skipped, "notes": notes, "stamps": stamps}
    texts = [labels.get(row[5]) for row in rows]
    return _store(paths[0], where, [row[:5] for row in rows], as_numbers(texts), facts)


def _store(path: Path, where: Path, rows: list, labels, facts: dict) -> Index:
    if not rows:
        raise DataError(f"{path} holds no image and no sound. {KNOWN}.")
    names, shards, offsets, sizes, methods = zip(*rows, strict=True)
    columns = {
        "name": pa.array(names, pa.large_string()),
        "shard": pa.array(shards, pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "size": pa.array(sizes, pa.int64()),
        "method": pa.array(methods, pa.int8()),
    }
    classes = None
    if labels is not None:
        values, classes = labels
        columns["label"] = pa.array(values, pa.int64())
    return write(where, columns, {**facts, "classes": classes, "notes": facts["notes"] + parts_note(parts_of(names))})


def _stamps(paths: list[Path]) -> list:
    return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths if p.is_file()]


def _read_map(path: Path, names: list[str]) -> tuple[np.ndarray, list[str]]:
    labels = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, label = line.partition("\t")
        if not tab or not label.strip().isdigit():
            raise DataError(f"{path}, line {number}: must be `name<TAB>label` with a whole number, is {line[:80]!r}.")
        labels[name] = int(label)
    if missing := [name for name in names if name not in labels]:
        raise DataError(f"{path} names no label for {len(missing)} images of the zip, for example {missing[0]!r}.")
    values = np.array([labels[name] for name in names], dtype=np.int64)
    return values, [str(i) for i in range(int(values.max()) + 1)]
