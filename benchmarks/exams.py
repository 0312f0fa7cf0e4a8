"""Does SB-SSL's pre-training help to tell exams apart? AUROC after it and after none, from few labelled exams.

    python benchmarks/exams.py --out OUT
    python benchmarks/exams.py --out OUT --data hippocampus_mri --labelled 48 96 --set size=48 --set patch=12

Without --data exams are made (see knee.py): 200 without labels, of which 50 and then all get one, and 120 to test on.
With it, a folder in the layout of the Decathlon's hippocampus set, {train,test}/{images,labels}/*.nii.gz, whose slices
are taken as coronal. Its label is whether more of the hippocampus is anterior than in the median training exam. The
volume itself would be the label one thinks of first, but these exams are cut out around the structure: their number of
slices and their size tell it (AUROC .7 to .77), and the anterior share not (coronal slices: .48).

Every seed makes exams, run, choice of labelled ones and classifier anew; the difference is taken on the same test
exams and its interval is Student's over the seeds. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from knee import make  # beside this file
from log import note  # beside this file

import tacit
from tacit.evaluation.intervals import over_draws
from tacit.run import write_json, write_text


def hippocampus(data: Path, folder: Path) -> Path:
    """MRNet's layout by links, and tables of the label."""
    import nibabel

    shares: dict[str, dict[str, float]] = {}
    for part, there in (("train", "train"), ("valid", "test")):
        (folder / part / "coronal").mkdir(parents=True, exist_ok=True)
        shares[part] = {}
        for image in sorted((data / there / "images").glob("*.nii.gz")):
            mask = np.asarray(nibabel.load(data / there / "labels" / image.name).dataobj)
            shares[part][image.name.removesuffix(".nii.gz")] = float((mask == 1).sum() / (mask > 0).sum())
            link = folder / part / "coronal" / image.name
            link.unlink(missing_ok=True)
            link.symlink_to(image.resolve())
    median = float(np.median(list(shares["train"].values())))
    for part, found in shares.items():
        write_text(
            folder / f"{part}-anterior.csv", "\n".join(f"{n},{int(s > median)}" for n, s in found.items()) + "\n"
        )
    return folder


def one_seed(options: argparse.Namespace, seed: int) -> dict:
    out = options.out / f"seed-{seed}"
    if (out / "result.json").is_file():
        return json.loads((out / "result.json").read_text(encoding="utf-8"))
    if options.data:
        data, label, plane = hippocampus(options.data, out / "data"), "anterior", "coronal"
    else:
        data, label, plane = out / "data", "lesion", "sagittal"
        if not (data / "valid-lesion.csv").is_file():
            make(data, {"train": options.unlabelled, "valid": options.test}, seed=seed)
    run = tacit.pretrain(
        "sb_ssl", f"exams:{data}:plane={plane}", out / "run", preset="small", seed=seed, resume=True, workers=0,
        epochs=options.epochs, set=["check_every=0", *options.set],
    )  # fmt: skip
    found = {}
    for count in options.labelled:
        told = tacit.exams(
            run, data, label, planes=[plane], recipe=options.recipe, max_exams=count, seed=seed, workers=0
        )
        found[str(count)] = {
            "gain": {d["head"]: d["value"] for d in told["differences"]},
            "auroc": {f"{r['of']} {r['head']}": r["value"] for r in told["results"] if r["metric"] == "auroc"},
        }
    print(f"seed {seed}: {json.dumps(found)}", file=sys.stderr)
    write_json(out / "result.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--unlabelled", type=int, default=200)
    parser.add_argument("--test", type=int, default=120)
    parser.add_argument("--labelled", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", action="append", default=None, metavar="FIELD=VALUE")
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    options.set = options.set or ["size=64", "patch=16"]
    found = [one_seed(options, seed) for seed in options.seeds]
    parts = []
    for count in map(str, options.labelled):
        for head in ("transformer", "mean", "max"):
            gains = np.array([one[count]["gain"][head] for one in found])
            low, high = over_draws(gains) if len(gains) > 1 else (np.nan, np.nan)
            pre, none = (np.mean([o[count]["auroc"][f"{of} {head}"] for o in found]) for of in ("run", "random-init"))
            parts.append(f"{count} by {head} {pre:.3f} and {none:.3f}, {gains.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    counted = np.mean([next(v for k, v in o[count]["auroc"].items() if k.startswith("slice count")) for o in found])
    name = options.data.name if options.data else "made knees"
    note(
        f"exams of {name}, AUROC pre-trained and random init by exams labelled, {len(found)} seeds: "
        f"{'; '.join(parts)}; number of slices alone {counted:.3f}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
