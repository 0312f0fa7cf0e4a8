"""Does a method learn from sounds? Pre-train on recordings without their labels, probe, and compare.

    python benchmarks/sounds.py --data fsdd/ --name fsdd --method asit --label '^(\\d)_' --set size=48 \\
        --set epochs=60 --set lr=2e-3

    python benchmarks/sounds.py --data esc10/ --name esc10 --method atst_clip --label '^(.+)_[1-5]-' --test '_5-' \\
        --folds '_([1-5])-' --whole --protocols linear,linear:feature=blocks,knn --set size=201 --set positions=250 \\
        --set epochs=1500 --set warmup_epochs=10 --set batch_size=32 --set bands=0.8,1.2 --set drop_path=0

The first group of --label is the class, found in the name of a file; names in which --test is found are held out, or
else the files below DATA/test. Compared are the same encoder at random initialisation and the mean and deviation over
time of every log-mel band, which need no encoder. --whole scores all of a recording and not its middle. With --folds,
whose first group is the fold, probes are also scored fold by fold over all recordings, most of which pre-training heard
without their labels; with --unheard as well, each fold by a run of its own that has not heard it, which takes as many
runs as there are folds. The line goes to benchmarks/results/LOG.md, intervals over the seeds.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path
from typing import Any

from learning import told_over  # beside this file
from log import note  # beside this file

import tacit
from tacit.data.recording import EXTENSIONS


def manifests(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """train.csv, test.csv and all.csv with the classes and folds that the names of files say, and without-K.csv of
    every fold; their folder, and the folds."""
    files = sorted(p for p in options.data.rglob("*") if p.suffix.lower() in EXTENSIONS)
    label, held_out = re.compile(options.label), re.compile(options.test) if options.test else None
    folds = re.compile(options.folds or "()")
    folder = options.out / options.name
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": [], "test": []}
    for file in files:
        test = held_out.search(file.name) if held_out else file.relative_to(options.data).parts[0] == "test"
        if (found := label.search(file.name)) and (fold := folds.search(file.name)):
            parts["test" if test else "train"].append((str(file.resolve()), found.group(1), fold.group(1)))
    parts["all"] = parts["train"] + parts["test"]
    names = sorted({fold for *_, fold in parts["all"]})
    for name in names:
        parts[f"without-{name}"] = [row for row in parts["all"] if row[2] != name]
    for name, rows in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as made:
            csv.writer(made).writerows([("path", "label", "fold"), *rows])
    print(f"{len(parts['train']):,} recordings to learn from, {len(parts['test']):,} to test", file=sys.stderr)
    return folder, names


def pretrained(options: argparse.Namespace, data: Path, seed: int, train: str = "train") -> tacit.Run:
    suffix = "" if train == "train" else f"-{train}"
    return tacit.pretrain(
        options.method, str(data / f"{train}.csv"), options.out / f"{options.name}-{options.method}-{seed}{suffix}",
        preset="small", seed=seed, set=["check_every=0", *options.set], workers=0, resume=True,
    )  # fmt: skip


def probed(options: argparse.Namespace, run: tacit.Run, seed: int, *data: Path, **how: str) -> list[dict[str, Any]]:
    asked = {"protocol": options.protocols, "label": "label", "whole": options.whole, "seed": seed, "workers": 0}
    return tacit.evaluate(run, *data, **asked, **how)["results"]


def one_seed(options: argparse.Namespace, data: Path, seed: int) -> dict[tuple[str, str], float]:
    run = pretrained(options, data, seed)
    found = probed(options, run, seed, data / "train.csv", data / "test.csv")
    scores = {(r["of"], r["protocol"]): r["value"] for r in found}
    if options.folds:
        found = probed(options, run, seed, data / "all.csv", folds="fold")
        scores |= {(r["of"], f"{r['protocol']} by folds"): r["value"] for r in found}
    return told(f"seed {seed}", scores)


def unheard(options: argparse.Namespace, data: Path, seed: int, folds: list[str]) -> dict[tuple[str, str], float]:
    """Means over the folds, each scored by the run that has not heard it; the probe is the one of all folds."""
    each: list[dict[tuple[str, str], float]] = []
    for place, fold in enumerate(folds):
        run = pretrained(options, data, seed, train=f"without-{fold}")
        found = probed(options, run, seed, data / "all.csv", folds="fold")
        scores = {(r["of"], r["protocol"]): r["settings"]["folds"][place] for r in found}
        each.append(told(f"seed {seed}, fold {fold}", scores))
    return {key: sum(scores[key] for scores in each) / len(each) for key in each[0]}


def told(of: str, scores: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    print(f"{of}: {', '.join(f'{who} {p} {100 * v:.1f}' for (who, p), v in scores.items())}", file=sys.stderr)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--name", required=True, help="what the data set is called in the log")
    parser.add_argument("--method", default="asit")
    parser.add_argument("--label", required=True, metavar="REGEX")
    parser.add_argument("--test", metavar="REGEX")
    parser.add_argument("--folds", metavar="REGEX")
    parser.add_argument("--unheard", action="store_true", help="a run for every fold, without it")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--protocols", default="knn,linear", help="with options: linear:feature=blocks is ATST's probe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/sounds"))
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    if options.unheard and not options.folds:
        parser.error("--unheard takes --folds.")
    data, folds = manifests(options)
    if options.unheard:
        seeds = [unheard(options, data, seed, folds) for seed in options.seeds]
    else:
        seeds = [one_seed(options, data, seed) for seed in options.seeds]
    others = {"random-init": "random init", "raw-input": "log-mel statistics"}
    lines = [told_over(name, seeds, others) for name in dict.fromkeys(protocol for _, protocol in seeds[0])]
    note(
        f"sounds, {options.method} `small` on {options.name}{', by unheard folds' * options.unheard}, {len(seeds)} "
        f"seeds: {'; '.join(lines)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
