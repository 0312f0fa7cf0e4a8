"""An index of names, labels and places: built once, kept as an Arrow file, memory-mapped by every process."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tacit.run import atomic

VERSION = 3


class Index:
    """A memory-mapped table of columns by name, with a small dict of facts. Pickled as its path alone."""

    def __init__(self, path: Path):
        self.path = path
        self._map()

    def _map(self) -> None:
        self.table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all().combine_chunks()
        self.facts: dict[str, Any] = json.loads(self.table.schema.metadata[b"facts"])

    def __len__(self) -> int:
        return self.table.num_rows

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._map()

    def at(self, column: str, index: int) -> Any:
        return self.table.column(column)[index].as_py()

    def labels(self) -> np.ndarray | None:
        """[N] int64 without a copy of the names, or None when nothing is labelled."""
        if not self.facts.get("classes"):
            return None
        return self.table.column("label").to_numpy()

    def fingerprint(self) -> str:
        return self.facts["fingerprint"]


def cache_folder(cache: str | os.PathLike | None) -> Path:
    """Where indices lie: the argument, $TACIT_CACHE or ~/.cache/tacit."""
    return Path(cache or os.environ.get("TACIT_CACHE") or Path.home() / ".cache" / "tacit")


def stored(kind: str, where: str, cache: str | os.PathLike | None, stamp: Any) -> tuple[Path, Index | None]:
    """The file for the index of `where`, and the index if it is there and `stamp(facts)` says it is still true."""
    key = hashlib.blake2b(f"{VERSION} {kind} {where}".encode(), digest_size=12).hexdigest()
    path = cache_folder(cache) / f"{kind}-{key}.arrow"
    try:
        index = Index(path)
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return path, None
    return path, index if stamp(index.facts) else None


def write(path: Path, columns: dict[str, pa.Array], facts: dict[str, Any]) -> Index:
    """Store columns and facts as one Arrow file, whole or not at all."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("name", "label"):
        for buffer in columns[name].buffers() if name in columns else ():
            digest.update(b"" if buffer is None else memoryview(buffer))
    facts = {**facts, "fingerprint": digest.hexdigest()}
    table = pa.table(columns).replace_schema_metadata({"facts": json.dumps(facts)})
    with atomic(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    return Index(path)
