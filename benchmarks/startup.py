"""How long the command takes to its first step: a folder of small pictures, `tacit pretrain moby --preset small`.

    python benchmarks/startup.py --turns 5

Every turn is a process of its own, told from the moment the system began it; the first, which compiles and reads from
the disk what the others find ready, does not count. Told are the wall clock and the time of the processor, for
importing, until the data is open and the method built, and until the first step is done. A line goes to
benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("imports", "built", "first step")


def one(folder: str, encoder: str) -> None:
    """The command, in this process; seconds since it began at each stage, as a line of JSON."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    boot = float(Path("/proc/uptime").read_text().split()[0])
    begun = time.perf_counter() - (boot - ticks / os.sysconf("SC_CLK_TCK"))
    found = []

    def mark() -> None:
        if len(found) < len(STAGES):
            found.append((time.perf_counter() - begun, time.process_time()))

    import tacit
    from tacit.engine import train
    from tacit.methods import find

    mark()
    kind, prepare = find("moby"), train.prepare

    def prepared(*given, **named):
        made = prepare(*given, **named)
        mark()
        return made

    after_step = kind.after_step

    def step(self, signals, progress):
        after_step(self, signals, progress)
        mark()

    train.prepare, kind.after_step = prepared, step
    with tempfile.TemporaryDirectory() as out:
        tacit.pretrain("moby", folder, f"{out}/run", preset="small", encoder=encoder, steps=2, workers=0, quiet=True)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--encoder", default="swin_mini")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-log", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.encoder)
        return
    from log import note  # beside this file
    from views import photographs  # beside this file

    with tempfile.TemporaryDirectory() as made:
        photographs(Path(made), 64)
        command = [sys.executable, __file__, "--one", made, "--encoder", options.encoder]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(options.threads),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        turns = []
        for _ in range(options.turns + 1):
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"It failed:\n{done.stderr[-3000:]}")
            turns.append(json.loads(done.stdout.strip().splitlines()[-1]))
    wall, core = (
        ", ".join(
            f"{name} {statistics.median(turn[k][clock] for turn in turns[1:]):.1f} s" for k, name in enumerate(STAGES)
        )
        for clock in (0, 1)
    )
    note(
        f"start-up to the first step, MoBY {options.encoder}, medians of {options.turns}: {wall}; of the processor "
        f"{core}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
