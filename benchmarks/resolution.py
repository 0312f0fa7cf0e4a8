"""Pre-trained at one resolution, probed at it and at half as much again: Swin and Swin V2, same method and budget.

    python benchmarks/resolution.py --data DIR --name cifar10 --method simmim --seeds 0 1 2

DIR holds train.parquet and test.parquet (columns image, label). Every encoder is pre-trained by preset `small` at 32
pixels, then made anew for 48 with windows that grow as much (`encoders.at_size`: tables interpolated, continuous
positions extrapolated); no weight is trained after that. The probes are the ordinary ones, at each size on the same
pictures, resized; random weights at each size come with them. The summary goes to benchmarks/results/ as JSON and as a
line of LOG.md, with the change of accuracy from 32 to 48 and its interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from learning import subset  # beside this file
from log import machine, note  # beside this file

import tacit
from tacit import encoders
from tacit.evaluation import difference
from tacit.evaluation.task import random_twin
from tacit.run import write_json

HERE = Path(__file__).parent
SIZE, WINDOW = 32, 4  # of pre-training; the window is the presets'
SIZES = {"1x": (SIZE, WINDOW), "1.5x": (SIZE * 3 // 2, WINDOW * 3 // 2)}


def one_seed(options: argparse.Namespace, data: Path, encoder: str, seed: int) -> dict[str, float]:
    """Accuracies by "who/scale/protocol"."""
    run = tacit.pretrain(
        options.method, str(data / "train.parquet"), options.out / f"{options.method}-{encoder}-{seed}",
        preset="small", encoder=encoder, epochs=options.epochs, seed=seed, workers=0, resume=True,
        set=[f"size={SIZE}", f"window={WINDOW}", *options.set],
    )  # fmt: skip
    trained = encoders.load(run.path)
    scores = {}
    for who, start in (("run", trained), ("random-init", random_twin(trained, seed))):
        for scale, (size, window) in SIZES.items():
            made = encoders.at_size(start, size, window)
            found = tacit.evaluate(made, data, protocol=options.protocols, seed=seed, workers=0, baselines=False)
            scores |= {f"{who}/{scale}/{r['protocol']}": r["value"] for r in found["results"]}
    print(f"{encoder} seed {seed}: " + json.dumps(scores), file=sys.stderr)
    return scores


def summarise(options: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> dict:
    rows = {}
    for encoder, seeds in found.items():
        means = {name: float(np.mean([s[name] for s in seeds])) for name in seeds[0]}
        lost = {}
        for protocol in options.protocols.split(","):
            near, far = (np.array([s[f"run/{scale}/{protocol}"] for s in seeds]) for scale in SIZES)
            if len(seeds) > 1:
                lost[protocol] = dict(zip(("change", "low", "high"), difference(far, near), strict=True))
            else:
                lost[protocol] = {"change": float(far[0] - near[0])}
        rows[encoder] = {"mean": means, "from_1x_to_1.5x": lost, "seeds": seeds}
    return {
        "date": f"{date.today()}", "data": options.name, "method": options.method, "records": options.records,
        "test": options.test, "epochs": options.epochs, "set": options.set,
        "sizes": {scale: {"size": s, "window": w} for scale, (s, w) in SIZES.items()},
        "machine": machine(),
        "versions": {"tacit": tacit.__version__, "torch": torch.__version__},
        "encoders": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--name", required=True, help="what the data set is called in the log")
    parser.add_argument("--method", default="simmim")
    parser.add_argument("--encoders", nargs="+", default=["swin_mini", "swinv2_mini"])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--protocols", default="knn,linear")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/resolution"))
    options = parser.parse_args()
    data = subset(options.data, options.out / f"{options.name}-{options.records}", options.records, options.test)
    found = {name: [one_seed(options, data, name, seed) for seed in options.seeds] for name in options.encoders}
    summary = summarise(options, found)
    stem = f"{summary['date']}-{options.name}-{options.method}-resolution"
    write_json(HERE / "results" / f"{stem}.json", summary)
    told = []
    for name, row in summary["encoders"].items():
        for protocol, lost in row["from_1x_to_1.5x"].items():
            near, far = (100 * row["mean"][f"run/{scale}/{protocol}"] for scale in SIZES)
            within = f" ({100 * lost['low']:+.1f} to {100 * lost['high']:+.1f})" if "low" in lost else ""
            told.append(f"{name} {protocol} {near:.1f} and {far:.1f}, {100 * lost['change']:+.1f} points{within}")
    note(
        f"{options.method} on {options.name}, {options.records:,} images, {options.epochs} epochs, "
        f"{len(options.seeds)} seeds, at {SIZE} pixels and at half as much again: {'; '.join(told)}"
    )


if __name__ == "__main__":
    main()
