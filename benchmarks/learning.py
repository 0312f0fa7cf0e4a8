"""Does a method learn? Pre-train on a real labelled set without its labels, probe, and compare with random weights.

    python benchmarks/learning.py --data DIR --name cifar10 --method moby --encoder swin_mini --records 5000

DIR holds train.parquet and test.parquet (columns image, label). Every seed is one run by the ordinary commands'
functions; scores of the same encoder at random initialisation and of raw pixels come with them. The summary, with
intervals over the seeds of the differences, goes to benchmarks/results/ as JSON and as a line of LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from log import command, machine, note  # beside this file

import tacit
from tacit.evaluation import difference
from tacit.run import write_json

HERE = Path(__file__).parent


def subset(data: Path, out: Path, records: int, test: int) -> Path:
    """The first rows of both files (they are stored shuffled), as a data set of its own."""
    for name, count in (("train", records), ("test", test)):
        target = out / f"{name}.parquet"
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pq.read_table(data / f"{name}.parquet").slice(0, count), target)
    return out


def told_over(name: str, seeds: list[dict[tuple[str, str], float]], others: dict[str, str]) -> str:
    """A score of the run and its gains, in points, over what else was scored; intervals over the seeds.

    Args:
        seeds: of each {(of, name): score}. others: {of: what it is called}.
    """
    rows = {of: np.array([scores[of, name] for scores in seeds]) for of in ("run", *others)}
    line = f"{name} {100 * rows['run'].mean():.1f}"
    for of, what in others.items():
        gain, low, high = (100 * x for x in difference(rows["run"], rows[of]))
        interval = f" ({low:+.1f} to {high:+.1f})" if len(seeds) > 1 else ""
        line += f", {gain:+.1f}{interval} over {what} ({100 * rows[of].mean():.1f})"
    return line


def one_seed(options: argparse.Namespace, data: Path, seed: int) -> dict:
    out = options.out / f"{options.method}-{options.encoder}-{seed}"
    begun = time.time()
    run = tacit.pretrain(
        options.method, str(data / "train.parquet"), out, preset="small", encoder=options.encoder, seed=seed,
        set=["check_every=1", *options.set], workers=options.workers, resume=True,
    )  # fmt: skip
    minutes = (time.time() - begun) / 60
    result = tacit.evaluate(run, data, protocol=options.protocols, seed=seed, workers=0)
    scores = {(r["of"], r["protocol"]): r["value"] for r in result["results"]}
    print(f"seed {seed}: " + ", ".join(f"{of} {p} {100 * v:.1f}" for (of, p), v in scores.items()), file=sys.stderr)
    return {"seed": seed, "minutes": round(minutes, 1), "scores": {f"{of}/{p}": v for (of, p), v in scores.items()}}


def summarise(options: argparse.Namespace, seeds: list[dict]) -> dict:
    rows = {name: [s["scores"][name] for s in seeds] for name in seeds[0]["scores"]}
    return {
        "date": f"{date.today()}",
        "command": command(),
        "data": options.name,
        "records": options.records,
        "test": options.test,
        "method": options.method,
        "encoder": options.encoder,
        "machine": machine(),
        "versions": {"tacit": tacit.__version__, "torch": torch.__version__},
        "seeds": seeds,
        "mean": {name: float(np.mean(values)) for name, values in rows.items()},
        "over_random_init": gains(rows),
    }


def gains(rows: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By protocol what the run has over random initialisation, of scores by "of/protocol", one a seed."""
    found = {}
    for protocol in (name.removeprefix("random-init/") for name in rows if name.startswith("random-init/")):
        gain = difference(np.array(rows[f"run/{protocol}"]), np.array(rows[f"random-init/{protocol}"]))
        found[protocol] = dict(zip(("gain", "low", "high"), gain, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--name", required=True, help="what the data set is called in the log")
    parser.add_argument("--method", default="moby")
    parser.add_argument("--encoder", default="swin_mini")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--protocols", default="knn,linear")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    options = parser.parse_args()
    data = subset(options.data, options.out / f"{options.name}-{options.records}", options.records, options.test)
    summary = summarise(options, [one_seed(options, data, seed) for seed in options.seeds])
    stem = f"{summary['date']}-{options.name}-{options.method}-{options.encoder}"
    write_json(HERE / "results" / f"{stem}.json", summary)
    told = "; ".join(
        f"{p} {100 * g['gain']:+.1f} points ({100 * g['low']:.1f} to {100 * g['high']:.1f})"
        for p, g in summary["over_random_init"].items()
    )
    print(json.dumps(summary["mean"], indent=2))
    note(f"{options.name} {options.method} {options.encoder}, {len(options.seeds)} seeds: {told}")


if __name__ == "__main__":
    main()
