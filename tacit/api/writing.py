"""Vectors as files: a .parquet that grows as they come, or a .npy with the paths in a .txt beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tacit.run import atomic, write_text

if TYPE_CHECKING:
    import numpy as np

HELD = 1 << 24  # numbers gathered before they are written


class Block(NamedTuple):
    """Vectors x [n, D] of what `paths` [n] name; of frames `first` is the number of the first and `seconds` the length
    of each."""

    paths: list[str]
    x: np.ndarray
    first: int = 0
    seconds: float = 0.0


def written(out: Path, blocks: Iterable[Block], width: int, *, timed: bool = False) -> int:
    """Write what comes, with columns `start` and `end` where it is `timed`, and return how many rows that was."""
    import numpy as np

    with atomic(out) as temporary:
        if out.suffix == ".parquet":
            return _parquet(temporary, blocks, width, timed)
        found = list(blocks)
        with open(temporary, "wb") as f:
            np.save(f, np.concatenate([block.x for block in found]))
    names = [path for block in found for path in block.paths]
    write_text(out.with_suffix(".txt"), "\n".join(names) + "\n")
    return len(names)


def _parquet(path: Path, blocks: Iterable[Block], width: int, timed: bool) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = [(name, pa.float64()) for name in ("start", "end")] if timed else []
    schema = pa.schema([("path", pa.string()), *times, ("vector", pa.list_(pa.float32(), width))])
    rows, held, size = 0, [], 0
    with pq.ParquetWriter(path, schema) as writer:
        for block in blocks:
            held.append(block)
            rows, size = rows + len(block.paths), size + block.x.size
            if size >= HELD:
                writer.write_table(_table(held, schema, width))
                held, size = [], 0
        if held:
            writer.write_table(_table(held, schema, width))
    return rows


def _table(blocks: list[Block], schema: Any, width: int) -> Any:
    import numpy as np
    import pyarrow as pa

    columns = [pa.array([path for block in blocks for path in block.paths])]
    if "start" in schema.names:
        numbers = [block.first + np.arange(len(block.paths)) for block in blocks]
        for after in (0, 1):
            times = [(n + after) * b.seconds for n, b in zip(numbers, blocks, strict=True)]
            columns.append(pa.array(np.concatenate(times)))
    flat = pa.array(np.concatenate([block.x for block in blocks]).ravel())
    return pa.table([*columns, pa.FixedSizeListArray.from_arrays(flat, width)], schema=schema)
