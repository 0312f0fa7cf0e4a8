"""Is a collapse named early? Methods with what holds them up taken away, and whole, each for a tenth of a `small` run.

    python benchmarks/collapse.py --data DIR --name cifar10 --set patch=8

DIR holds train.parquet and test.parquet (column image). A case is an ordinary run of preset `small` at its 20 epochs.
Its monitors may stop it; if they have not by the end of the first tenth, it is stopped. The step at which each was
called goes to benchmarks/results/ as a line of LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from learning import subset  # beside this file
from log import note  # beside this file

from tacit.run import Run

SIMSIAM = ("momentum=0", "target_start=copied")  # the target is the online network of this step
CASES = {
    "DINO": ("dino",),
    "DINO without centering": ("dino", "centering=no"),
    "DINO without sharpening": ("dino", "teacher_temperature=1", "teacher_temperature_start=1"),
    "BYOL": ("byol",),
    "BYOL without predictor": ("byol", "predictor=no"),
    "BYOL without stop-gradient": ("byol", "stop_gradient=no"),
    "BYOL without either": ("byol", "predictor=no", "stop_gradient=no"),
    "SimSiam": ("byol", *SIMSIAM),
    "SimSiam without predictor": ("byol", *SIMSIAM, "predictor=no"),
    "SimSiam without stop-gradient": ("byol", *SIMSIAM, "stop_gradient=no"),
    "SwAV": ("swav",),
    "SwAV without equal partition": ("swav", "sinkhorn_iterations=0"),
    "VICReg": ("vicreg",),
    "VICReg without variance": ("vicreg", "variance_weight=0"),
}


def one(name: str, data: Path, options: argparse.Namespace) -> dict:
    method, *settings = CASES[name]
    out = options.out / re.sub(r"\W+", "-", name.lower())
    shutil.rmtree(out, ignore_errors=True)
    assignments = [word for item in (*options.set, *settings, "check_every=0") for word in ("--set", item)]
    command = ["pretrain", method, "--preset", "small", "--encoder", options.encoder, "--workers", "0", "--json",
               "--data", str(data / "train.parquet"), "--out", str(out), *assignments]  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "tacit", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    tenth = None
    while child.poll() is None:
        time.sleep(3.0)
        if (out / "metrics.csv").is_file():
            run = Run(out)
            s = run.settings["settings"]
            tenth = s["epochs"] * (options.records // s["batch_size"]) // 10
            if run.metrics.get("loss", [(0, 0)])[-1][0] >= tenth:
                os.kill(child.pid, signal.SIGINT)
                break
    said = child.communicate()[1]
    if tenth is None:
        raise SystemExit(f"{name} did not begin: {said}")
    # A collapse is told in the summary, a run that was stopped has none.
    verdict = (Run(out).summary or {}).get("verdict", "")
    step = re.match(r"collapsed at step (\d+): (.*)", verdict)
    last = {k: c[-1][1] for k, c in Run(out).metrics.items()}
    shown = ("embedding_std", "embedding_rank", "target_information")
    found = {"case": name, "tenth": tenth, "collapsed_at": step and int(step[1]), "reason": step and step[2]}
    return found | {k: round(last[k], 3) for k in shown if k in last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--name", required=True, help="what the data set is called")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--encoder", default="vit_mini")
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"))
    options = parser.parse_args()
    data = subset(options.data, options.out / f"{options.name}-{options.records}", options.records, 1)
    told = []
    for name in options.cases:
        found = one(name, data, options)
        print(json.dumps(found), file=sys.stderr)
        at = f"step {found['collapsed_at']}" if found["collapsed_at"] else "no"
        told.append(f"{name}: {at}")
    note(
        f"collapse on {options.name}, {options.records:,} images, first tenth ({found['tenth']} "
        f"steps) of a run of preset small with {options.encoder} {' '.join(options.set)}, called at: {'; '.join(told)}"
    )


if __name__ == "__main__":
    main()
