"""The step alone: what share of the machine's own matrix products pre-training reaches, views already made.

    python benchmarks/step.py --jobs mae moco_v3 --batch 32
    python benchmarks/step.py --profile --jobs mae

A step is the whole of one: forward passes of student and teacher, heads, backward pass, clipping, optimiser and moving
averages. Its matrix products are counted by torch (convolutions and attention with them), so what a method could spare
and does not counts for it; how fast the machine multiplies is measured in turns with the steps, as the best of three
sizes of square matrices in the same precision. Both precisions are told. A line a job goes to
benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jobs import JOBS  # beside this file
from log import note  # beside this file
from torch.utils.flop_counter import FlopCounterMode

from tacit.data import open_source
from tacit.engine import Method, Progress
from tacit.engine.memory import keep_memory
from tacit.engine.optim import clip, optimiser
from tacit.methods import find
from tacit.precision import unfuse_attention
from tacit.settings import with_assignments
from tacit.views import Views, collate, finish

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = {"32": torch.float32, "bf16": torch.bfloat16}
STEPS = 1000  # of a run of which these are the first: what is warmed up or frozen then is so here


def peak(precision: str) -> float:
    """Multiplications and additions a second, of the best of three sizes."""
    best = 0.0
    for n in (1024, 2048, 4096) if DEVICE == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(n, n, device=DEVICE).to(TYPES[precision]) for _ in range(2))
        a @ b
        best = max(best, 2 * n**3 / min(timed(lambda a=a, b=b: a @ b) for _ in range(5)))
    return best


def timed(call: Callable[[], object]) -> float:
    """Seconds, on a CPU those of a core, which what else the machine does lengthens little."""
    if DEVICE == "cpu":
        begun = time.process_time()
        call()
        return (time.process_time() - begun) / torch.get_num_threads()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def stepper(
    name: str, sets: Sequence[str], precision: str, folder: Path, *, preset: str = "paper",
    change: Callable[[Method], None] | None = None,
) -> Callable[[], None]:  # fmt: skip
    """One step of training by a method, again and again on one batch, of as many records in `folder`.

    change: is done to the method before the first step.
    """
    method, step = trainer(name, sets, precision, preset=preset)
    if change is not None:
        change(method)
    pipelines = method.views()
    drawn = Views(open_source(str(folder)), pipelines, seed=0)
    made = collate([drawn[(0, i)] for i in range(method.s.batch_size)])
    views = finish({**made, "views": [_moved(view) for view in made["views"]]}, pipelines)
    return lambda: step(views)


def trainer(
    name: str, sets: Sequence[str], precision: str, *, preset: str = "paper"
) -> tuple[Method, Callable[[list[dict[str, torch.Tensor]]], None]]:
    """A method, and a step of training it on views that are made."""
    kind = find(name)
    torch.manual_seed(0)
    settings = with_assignments(kind.presets[preset], list(sets))
    method = kind(settings).to(DEVICE)
    unfuse_attention(method, DEVICE, precision)
    method.after_init()
    solver = optimiser(method, settings)
    done = 0

    def step(views: list[dict[str, torch.Tensor]]) -> None:
        nonlocal done
        progress = Progress(done, STEPS, STEPS)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            method.before_step(progress)
            part = method.loss(views, progress)
        sum(part.terms.values()).backward()
        named = [(n, p.grad) for n, p in method.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([g for _, g in named])
        clip(settings, [n for n, _ in named], [g for _, g in named], norms, torch.stack(norms).tolist())
        method.before_update(progress)
        solver.step()
        solver.zero_grad()
        method.after_step([part.signals], progress)
        done += 1

    return method, step


def _moved(view: dict) -> dict:
    return {"image": view["image"].to(DEVICE), "params": {n: p.to(DEVICE) for n, p in view["params"].items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precisions", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print what takes the time, and log nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    for name in options.jobs:
        parts = []
        with tempfile.TemporaryDirectory() as made:
            folder = JOBS[name].files.make(Path(made), options.batch)
            for precision in options.precisions:
                sets = [*JOBS[name].sets, f"batch_size={options.batch}"]
                step = stepper(JOBS[name].method, sets, precision, folder)
                with FlopCounterMode(display=False) as counter:
                    step()
                step()
                if options.profile:
                    profile(step)
                    continue
                turns = [(timed(step), peak(precision)) for _ in range(options.repeats)]
                shares = sorted(counter.get_total_flops() / seconds / best for seconds, best in turns)
                seconds, best = (statistics.median(column) for column in zip(*turns, strict=True))
                parts.append(
                    f"{precision} {options.batch / seconds:,.1f} records/s, {statistics.median(shares):.0%} "
                    f"({shares[0]:.0%} to {shares[-1]:.0%}) of {best / 1e9:,.0f} GFLOP/s"
                )
            if parts:
                note(
                    f"step alone, {JOBS[name].title}, batch {options.batch}, medians of {options.repeats}: "
                    f"{'; '.join(parts)}"
                )


def profile(step: Callable[[], None]) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if DEVICE == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        step()
    print(found.key_averages().table(sort_by=f"self_{DEVICE}_time_total", row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
