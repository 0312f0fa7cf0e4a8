"""How the index of a folder grows with its files: time to build and to reopen, memory here and in a worker.

Empty files are made, 1,000 to a sub-folder, and removed afterwards. Asked by `python benchmarks/growth.py files`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import time
from pathlib import Path

from log import note  # beside this file

from tacit.data import Source, open_source


def private_memory(process: int | str = "self") -> int:
    """Bytes of a process alone: what is mapped from files and shared does not count."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def make(folder: Path, count: int) -> None:
    for first in range(0, count, 1000):
        part = folder / f"{first // 1000:05d}"
        part.mkdir(parents=True)
        for i in range(first, min(first + 1000, count)):
            os.close(os.open(part / f"image-{i:08d}.jpg", os.O_CREAT | os.O_WRONLY))


def worker(source: Source, results: multiprocessing.Queue) -> None:
    """What a reading process adds: names at random, as training reads them."""
    before = private_memory()
    rng = random.Random(0)
    for _ in range(10_000):
        source.name(rng.randrange(len(source)))
    results.put(private_memory() - before)


def files(count: int, work: Path) -> None:
    """A line of the log, of an index of `count` files."""
    folder, cache = work / "files", work / "cache"
    make(folder, count)
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        source = open_source(folder, cache=cache)
        times.append(time.perf_counter() - begun)
    before = private_memory()
    source = open_source(folder, cache=cache)
    held = private_memory() - before
    results: multiprocessing.Queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=worker, args=(source, results))
    child.start()
    grown = results.get()
    child.join()
    size = sum(p.stat().st_size for p in cache.iterdir())
    shutil.rmtree(work)
    note(
        f"growth of the index, {count:,} files: built in {times[0]:.2f} s, reopened in {times[1]:.3f} s, "
        f"{size / 2**20:.1f} MiB on disk, {held / 2**20:.1f} MiB private in the process, {grown / 2**20:.1f} MiB more "
        f"in a worker after 10,000 reads, {len(pickle.dumps(source.store.index))} bytes when sent to one"
    )
