"""SimCLR v2's three stages: what does each give at few labels? Several seeds, intervals over them.

    python benchmarks/stages.py --data DIR --name cifar10 --runs OUT --percent 1 --set patch=8

DIR holds train.parquet and test.parquet (columns image, label). Stage one is what benchmarks/methods.py left in OUT, or
made here. Stage two trains a classifier on `--percent` of the labels, from the encoder alone, from the middle of the
projector, and from random weights; stage three distils that of the middle on all images without labels. All are the
ordinary verbs at presets and recipes `small`. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from learning import subset  # beside this file
from log import note  # beside this file

import tacit
from tacit import encoders
from tacit.evaluation import classifier, difference
from tacit.evaluation.task import random_twin

PAIRS = (
    ("encoder", "random"),
    ("middle", "random"),
    ("middle", "encoder"),
    ("student", "middle"),
    ("student", "random"),
)


def one_seed(options: argparse.Namespace, data: Path, seed: int) -> dict[str, float]:
    """Accuracy on the test part of every classifier."""
    train, out = str(data / "train.parquet"), options.runs / f"stages-{options.percent:g}-{seed}"
    how = {"preset": "small", "encoder": options.encoder, "seed": seed, "workers": 0, "resume": True}
    run = tacit.pretrain(
        "simclr_v2", train, options.runs / f"simclr_v2-{seed}", epochs=options.epochs, val=str(data / "test.parquet"),
        set=["check_every=2", *options.set], **how,
    )  # fmt: skip
    begins = {"random": (random_twin(encoders.load(run.path), seed), 0), "encoder": (run, 0), "middle": (run, 1)}
    for name, (subject, neck) in begins.items():
        if not classifier.is_classifier(out / name):
            tacit.finetune(subject, train, out / name, percent=options.percent, neck=neck, seed=seed, workers=0)
    tacit.pretrain(
        "simclr_v2_distil", train, out / "student", epochs=options.distil_epochs,
        set=[f"teacher={out / 'middle'}", "check_every=0", *options.set], **how,
    )  # fmt: skip
    test = str(data / "test.parquet")
    found = {
        name: tacit.predict(out / name, test, out / f"{name}.csv", workers=0)["accuracy"]["value"]
        for name in (*begins, "student")
    }
    print(f"seed {seed}: {json.dumps(found)}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--name", required=True, help="what the data set is called")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"), help="what benchmarks/methods.py left")
    parser.add_argument("--encoder", default="vit_mini")
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--percent", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--distil-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    data = subset(options.data, options.runs / f"{options.name}-{options.records}", options.records, options.test)
    seeds = [one_seed(options, data, seed) for seed in options.seeds]
    scores = {name: np.array([s[name] for s in seeds]) for name in seeds[0]}
    told = [f"{name} {100 * values.mean():.1f}" for name, values in scores.items()]
    if len(seeds) > 1:
        for a, b in PAIRS:
            gain, low, high = (100 * x for x in difference(scores[a], scores[b]))
            told.append(f"{a} over {b} {gain:+.1f} points ({low:.1f} to {high:.1f})")
    note(
        f"SimCLR v2's stages on {options.name}, {options.records:,} images of which "
        f"{options.percent:g} % have labels, accuracy of classifiers, {len(seeds)} seeds: {'; '.join(told)}"
    )


if __name__ == "__main__":
    main()
