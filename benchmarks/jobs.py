"""Whole pre-training jobs, from JPEG or WAV files to weights, beside peers: seconds and memory a record.

    python benchmarks/jobs.py
    python benchmarks/jobs.py --peer lightly=ENV/bin/python --peer stable=ENV/bin/python --turns 3
    python benchmarks/jobs.py --jobs mae --precision 32 --no-log
    python benchmarks/jobs.py --jobs asit --peer torchaudio=ENV/bin/python
    OFFICIAL=CLONES python benchmarks/jobs.py --jobs dino moby mae moco_v3 --peer official=ENV/bin/python

A job is an entry of JOBS: our method, what is set of it, and who else has it. A peer is benchmarks/peers/NAME_jobs.py,
run by the Python of an environment that has it: the same files, trunk, crops and batch, its own way of all else. The
peer `official` is the papers' own repositories, cloned into the folder that OFFICIAL names (official_jobs.py says
which). Ours is in the precision that `tacit pretrain` takes by itself, or in --precision; where that is bf16, a peer
runs twice, as its documentation has it, in fp32, and with torch's autocast to bf16. Programs take turns. A ratio is of
one turn, by the time of the program's own threads (`core`, what a machine that others use measures best; with workers,
whose time that is not, read `wall`) and by the clock on the wall; the median is told with the smallest and largest.
Losses at the first and last step are printed, so that it shows that all learn alike. Photographs as in
benchmarks/views.py, sounds as in benchmarks/recordings.py. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from log import note  # beside this file
from peers.timing import Steps  # beside this file
from recordings import SECONDS, recordings  # beside this file
from views import SIZE, photographs  # beside this file

from tacit.precision import CHOICES, resolved

HERE = Path(__file__).parent


class Files(NamedTuple):
    """What a job reads: the name of one, of those that are made here, and what makes so many in a folder."""

    one: str
    made: str
    make: Callable[[Path, int], Path]


PHOTOGRAPHS = Files("photograph", f"of {SIZE[0]} x {SIZE[1]}", photographs)
RECORDINGS = Files("recording", f"of {SECONDS} s at 32 kHz", recordings)


class Job(NamedTuple):
    title: str
    method: str
    sets: tuple[str, ...]
    peers: tuple[str, ...]
    files: Files = PHOTOGRAPHS


JOBS = {
    "moby": Job("MoBY Swin-T, 224", "moby", (), ("lightly", "official")),
    "dino": Job(
        "DINO ViT-T/16, 2 x 224 + 6 x 96", "dino", ("encoder=vit_tiny_patch16_224", "local_crops=6"),
        ("lightly", "stable", "official", "lightly_train"),
    ),
    "moco_v3": Job("MoCo v3 ViT-S/16, 224", "moco_v3", (), ("stable", "official", "solo")),
    "mae": Job(
        "MAE ViT-S/16, 224", "mae", ("encoder=vit_small_patch16_224",), ("lightly", "stable", "official", "solo"),
    ),
    "simmim": Job(
        "SimMIM ViT-S/16, 224", "simmim", ("encoder=vit_small_patch16_224", "size=224", "window="),
        ("lightly", "stable"),
    ),
    "simmim_swin": Job("SimMIM Swin-T, 192", "simmim", ("encoder=swin_tiny",), ()),
    "asit": Job(
        "ASiT ViT-S/16, 2 x 6 s", "asit", ("encoder=vit_small_patch16_224",), ("torchaudio",), RECORDINGS
    ),
}  # fmt: skip


def ours(job: Job, folder: str, batch: int, steps: int, threads: int, workers: int, precision: str) -> None:
    """What `tacit pretrain METHOD` does, with a look at the clock after every step."""
    import torch

    import tacit
    from tacit.methods import find

    torch.set_num_threads(threads)
    clock, kind = Steps(batch), find(job.method)
    loss_of, after_step = kind.loss, kind.after_step
    losses = []

    def loss(self, views, progress):
        made = loss_of(self, views, progress)
        losses.append(sum(term.detach() for term in made.terms.values()))
        return made

    def step(self, signals, progress):
        after_step(self, signals, progress)
        clock.tick(losses[-1])

    kind.loss, kind.after_step = loss, step
    with tempfile.TemporaryDirectory() as out:
        tacit.pretrain(
            job.method, folder, f"{out}/run", steps=steps, batch_size=batch, set=list(job.sets), workers=workers,
            quiet=True, precision=precision,
        )  # fmt: skip
    clock.say()


def told(
    who: str, python: str, name: str, folder: Path, options: argparse.Namespace, precision: str
) -> dict[str, float]:
    """What a program of its own says of the job."""
    numbers = [str(n) for n in (options.batch, options.steps, options.threads, options.workers)]
    script = [str(HERE / "jobs.py"), "--one"] if who == "tacit" else [str(HERE / "peers" / f"{who}_jobs.py")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    environment = os.environ | threads | {"PYTHONPATH": str(HERE.parent)}
    command = [python, *script, name, str(folder), *numbers, precision]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed on {name}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(turns: list[dict[str, dict[str, float]]], who: str, what: str) -> str:
    ratios = sorted(turn[who][what] / turn["tacit"][what] for turn in turns)
    return f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of files, for jobs of one kind")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of each turn; the first two do not count")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--no-log", action="store_true")
    parser.add_argument("--precision", choices=CHOICES, default="auto")
    parser.add_argument("--one", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, folder, *numbers, precision = options.one
        ours(JOBS[name], folder, *map(int, numbers), precision)
        return
    pythons = dict(item.split("=", 1) for item in options.peer)
    precision = resolved(options.precision, "cpu")
    as_well = ["32", "bf16"] if precision == "bf16" else ["32"]
    for name in options.jobs:
        job = JOBS[name]
        with tempfile.TemporaryDirectory() as made:
            folder = options.data or job.files.make(Path(made), max(64, options.batch * options.steps))
            programs = {"tacit": ("tacit", sys.executable, precision)} | {
                f"{who}{' in bf16' * (p == 'bf16')}": (who, pythons[who], p)
                for who in job.peers if who in pythons for p in as_well
            }  # fmt: skip
            turns = [
                {title: told(who, python, name, folder, options, p) for title, (who, python, p) in programs.items()}
                for _ in range(options.turns)
            ]
            own = [turn["tacit"] for turn in turns]
            core, wall, memory = (statistics.median(turn[what] for turn in own) for what in ("core", "wall", "memory"))
            line = (
                f"{job.title}, {'bf16' if precision == 'bf16' else 'fp32'}: {core:.3f} core seconds a {job.files.one} "
            )
            line += f"({wall:.3f} s waited), {memory / 2**30:.2f} GiB"
            for who in programs:
                first, *_, last = turns[0][who]["losses"]
                print(f"{job.title}, {who}: loss {first:.3f} at the first step, {last:.3f} at the last", flush=True)
                if who != "tacit":
                    each = [f"{compared(turns, who, what)} {what}" for what in ("core", "wall", "memory")]
                    line += f"; {who} takes {', '.join(each)}"
            of = "" if options.data else f" {job.files.made}"
            note(
                f"whole job on {job.files.one}s{of}, batch {options.batch}, --threads {options.threads}, --workers "
                f"{options.workers}, medians of {options.turns} turns: {line}",
                keep=not options.no_log,
            )


if __name__ == "__main__":
    main()
