"""How time and memory grow: with the files of a folder, the records of the sampler, tokens, keys of a queue,
prototypes, views, the batch and the workers.

    python benchmarks/growth.py files --points 10000 100000 1000000
    python benchmarks/growth.py tokens
    python benchmarks/growth.py workers --points 1 2 4

Of `files` benchmarks/growth_files.py tells the time to build an index and to reopen it, and its memory. The other
questions are a table each, a row for each point, which is a process of its own. MiB are the peak of resident memory
over what was there when all was imported. Below stand the exponents: the slope of the logarithms from the first point
to the last, and that of the last two, which a constant part such as the encoder draws down less. Those of tokens,
queue, embeddings (SwAV's queue), prototypes, views and batch are of a method's whole step as benchmarks/step.py takes
it: its seconds of a core, after a warm-up, and its multiplications and additions, counted by torch, which say what to
expect. Expected is

    tokens      time as the operations: 1, and more the larger attention's square; memory 1 where attention is fused,
                towards 2 in bf16 on a CPU, where it is not (see `tacit.precision.unfuse_attention`)
    queue       1 at most: a product with every key, and no copy that outweighs it; memory 1 once keys weigh
    embeddings  the same, with every prototype
    prototypes  1 at most, time as the operations: they are in the head, the loss, the optimiser and the teacher
    views       1 at most: the teacher sees two of them, and pairs of views cost no more than views do
    batch       1 at most for what compares no records; SimCLR compares all, and that square is small
    workers     time -1 up to the cores that are free and 0 beyond; memory a worker 0
    sampler     1, and a little more as orders outgrow the caches, for an epoch's order, which its first batch waits
                for; 0 for every other batch

so that what exceeds it is read at once. A line of every question goes to results/LOG.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from growth_files import files, private_memory  # beside this file
from log import note  # beside this file
from step import DEVICE, stepper, timed  # beside this file
from torch.utils.flop_counter import FlopCounterMode
from views import photographs  # beside this file

from tacit.data import Batches, Source, mix, open_source
from tacit.engine.memory import keep_memory, peak_memory
from tacit.engine.plan import Plan
from tacit.engine.train import build, make_loader
from tacit.methods import find
from tacit.precision import CHOICES, resolved
from tacit.settings import with_assignments

Row = dict[str, float]  # by the name of a column


def step(
    method: str, preset: str, field: str, sets: tuple[str, ...], point: int, options: argparse.Namespace,
    fills: bool = False,
) -> Row:  # fmt: skip
    """Of a method's whole step with `field` set to `point`; `fills` its queue before, where it works only once full."""
    sets = (*sets, f"{field}={point}")
    batch = with_assignments(find(method).presets[preset], list(sets)).batch_size
    before = peak_memory()
    once = stepper(method, sets, options.precision, options.folder, preset=preset)
    for _ in range(2 + fills * point // batch):
        once()
    seconds = statistics.median(timed(once) for _ in range(options.repeats))
    memory = peak_memory() - before
    with FlopCounterMode(display=False) as counter:
        once()
    return {"s": seconds, "GFLOP": counter.get_total_flops() / 1e9, "MiB": memory / 2**20}


class Numbered:
    """A store of records that only have numbers."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count


def sampler(weighted: bool, point: int, options: argparse.Namespace) -> Row:
    """Of batches of 256; weighted is a mixture of two halves, one drawn twice as often."""

    def numbered(count: int) -> Source:
        return Source(Numbered(count), channels=3, labels=None, classes=None, fingerprint=str(count))

    source = mix([numbered(point // 2)] * 2, weights=[2, 1]) if weighted else numbered(point)
    before, firsts = peak_memory(), []
    for seed in range(options.repeats):
        batches = iter(Batches(source, batch_size=256, seed=seed, total_steps=10**6))
        firsts.append(timed(partial(next, batches)))
    count = min(1000, point // 256 - 1)  # of one epoch
    each = timed(lambda: list(islice(batches, count))) / count
    memory = peak_memory() - before
    return {"first s": statistics.median(firsts), "batch ms": each * 1e3, "MiB": memory / 2**20}


def workers(method: str, point: int, options: argparse.Namespace) -> Row:
    """Of batches of 32 from JPEG files as training gets them, by the clock on the wall."""
    settings = with_assignments(find(method).presets["paper"], ["batch_size=32", "encoder=vit_mini", "patch=16"])
    plan, source = Plan(run=Path(), workers=point), open_source(str(options.folder))
    steps = 1 + 4 * point + 4 * options.repeats  # those that are fetched ahead do not count
    module = build(find(method), settings, plan, steps=steps, per_epoch=len(source) // 32)
    begun, marks = time.perf_counter(), []
    for _ in make_loader(source, settings, plan, module, start=0, steps=steps):
        marks.append(time.perf_counter() - begun)
        if len(marks) == steps - 4 * point:  # nothing has ended yet
            held = [private_memory(child.pid) for child in multiprocessing.active_children()]
    rate = (marks[-1] - marks[4 * point]) / (len(marks) - 1 - 4 * point)
    return {"first s": marks[0], "batch s": rate, "MiB a worker": statistics.mean(held) / 2**20}


class Question(NamedTuple):
    points: tuple[int, ...]
    lines: dict[str, Callable[[int, argparse.Namespace], Row]]
    counts: Callable[[int], int] = int  # what grows, of a point


SMALL = ("encoder=deit_small",)
TINY = ("encoder=vit_mini", "size=32")
QUESTIONS = {
    "tokens": Question(
        (112, 224, 336, 448),
        {
            "MAE ViT-S/16, batch 2": partial(step, "mae", "paper", "size", (*SMALL, "batch_size=2")),
            "DINO ViT-S/16 without small crops, batch 2": partial(
                step, "dino", "paper", "size", (*SMALL, "batch_size=2", "local_crops=0", "prototypes=1024")
            ),
        },
        lambda size: (size // 16) ** 2,
    ),
    "queue": Question(
        (4096, 16384, 65536, 262144),
        {
            "MoCo v2 vit_mini, batch 64": partial(step, "moco_v2", "small", "queue_size", ()),
            "MoBY vit_mini, batch 64": partial(step, "moby", "small", "queue_size", ("encoder=vit_mini",)),
        },
    ),
    "embeddings": Question(
        (256, 1024, 4096),
        {
            "SwAV vit_mini, 3,000 prototypes, batch 64": partial(
                step, "swav", "small", "queue_size", ("queue_start=0", "out=128", "prototypes=3000"), fills=True
            ),
        },
    ),
    "prototypes": Question(
        (1024, 4096, 16384, 65536),
        {
            "DINO vit_mini, batch 64": partial(
                step, "dino", "small", "prototypes", ("bottleneck=256", "freeze_last_layer=0")
            ),
            "SwAV vit_mini, batch 64": partial(
                step, "swav", "small", "prototypes", ("out=128", "queue_size=0", "freeze_prototypes=0")
            ),
        },
    ),
    "views": Question(
        (0, 2, 6, 14),
        {
            "DINO vit_mini, all crops of 32, batch 32": partial(
                step, "dino", "small", "local_crops", ("local_size=32", "batch_size=32")
            ),
            "SwAV vit_mini, all crops of 32, batch 32": partial(
                step, "swav", "small", "local_crops", ("local_size=32", "batch_size=32", "queue_size=0")
            ),
        },
        lambda small: 2 + small,
    ),
    "batch": Question(
        (16, 64, 256),
        {
            "MAE vit_mini": partial(step, "mae", "small", "batch_size", ()),
            "SimCLR v2 vit_mini": partial(step, "simclr_v2", "small", "batch_size", TINY),
            "VICReg vit_mini": partial(step, "vicreg", "small", "batch_size", TINY),
        },
    ),
    "workers": Question((1, 2, 4), {"MoCo v3's views": partial(workers, "moco_v3")}),
    "sampler": Question(
        (10**4, 10**5, 10**6, 10**7), {"plain": partial(sampler, False), "weighted": partial(sampler, True)}
    ),
}


def exponents(counts: list[int], values: list[float]) -> str:
    """From the first point to the last, and of the last two."""

    def slope(a: int) -> str:
        grown = values[-1] / values[a] if values[a] > 0 else 0
        return f"{math.log(grown) / math.log(counts[-1] / counts[a]):.2f}" if grown > 0 else "-"

    return f"{slope(0)}, {slope(-2)}"


def alone(line: Callable[[int, argparse.Namespace], Row], point: int, options: argparse.Namespace) -> Row:
    """A point, in a process of its own."""
    context = multiprocessing.get_context("spawn" if DEVICE == "cuda" else "fork")
    with ProcessPoolExecutor(1, mp_context=context, initializer=begin, initargs=(options.threads,)) as process:
        return process.submit(line, point, options).result()


def begin(threads: int) -> None:
    torch.set_num_threads(threads)
    keep_memory()


def ask(name: str, title: str, points: list[int], options: argparse.Namespace) -> str:
    """Measures a line of a question, prints it as a table, and returns what to note of it."""
    rows, counts = [], [QUESTIONS[name].counts(point) for point in points]
    print(f"\n{title}")
    for point, count in zip(points, counts, strict=True):
        rows.append(alone(QUESTIONS[name].lines[title], point, options))
        if len(rows) == 1:
            print("".join(f"{head:>16}" for head in (name, *rows[0])))
        print("".join(f"{value:>16}" for value in (f"{count:,}", *(f"{v:.4g}" for v in rows[-1].values()))), flush=True)
    found = {column: [row[column] for row in rows] for column in rows[0]}
    grown = {column: exponents(counts, values) for column, values in found.items()}
    print("".join(f"{value:>16}" for value in ("exponents", *grown.values())))
    return f"{title}: " + ", ".join(f"{c} {v[0]:.4g} to {v[-1]:.4g} ({grown[c]})" for c, v in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["files", *QUESTIONS])
    parser.add_argument("--points", type=int, nargs="+", help="files, records, pixels of a side, keys, …")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=CHOICES, default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-log", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/growth"), help="where the files are made")
    options = parser.parse_args()
    if options.question == "files":
        for count in options.points or [10_000, 100_000, 1_000_000]:
            files(count, options.work)
        return
    torch.set_num_threads(options.threads)
    question = QUESTIONS[options.question]
    options.precision = resolved(options.precision, DEVICE)
    points = options.points or list(question.points)
    with tempfile.TemporaryDirectory() as made:
        options.folder = photographs(Path(made), 256 if options.question == "batch" else 64)
        found = [ask(options.question, title, points, options) for title in question.lines]
    counts = ", ".join(f"{question.counts(point):,}" for point in points)
    how = f"medians of {options.repeats}, exponents from first to last and of the last two"
    if options.question not in ("workers", "sampler"):
        how = f"{options.precision}, {how}"
    note(f"growth with {options.question}, {counts}, {how}: {'; '.join(found)}", keep=not options.no_log)


if __name__ == "__main__":
    main()
