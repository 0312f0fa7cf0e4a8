"""All methods side by side: one encoder, equal data, epochs and probes, several seeds; one table.

    python benchmarks/methods.py run --data DIR --name cifar10 --methods moby dino --seeds 0 1 2 --out OUT
    python benchmarks/methods.py table --name cifar10 --out OUT

DIR holds train.parquet and test.parquet (columns image, label). `run` pre-trains by preset `small`, probes, and keeps a
file for each method and seed in OUT: several calls, one after another or at once, may share it, and what is there is
not done again; random weights that methods share are scored once. With --fine-tune 1000 each encoder is also trained
whole on so many labels, and so is its random twin; --fine-tune-with :epochs=100:batch_size=32 says how. `table` reads
them all and writes the table to benchmarks/results/ as Markdown and JSON. Scores are those of the ordinary verbs;
labels are for the probes alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from learning import subset  # beside this file
from log import machine  # beside this file

import tacit
from tacit import encoders
from tacit.evaluation import difference
from tacit.evaluation.task import random_twin
from tacit.methods import METHODS
from tacit.run import Run, read_json, write_json, write_text

HERE = Path(__file__).parent
PROBES = {
    "knn": "20-NN",
    "linear": "linear",
    **{f"few_shot:shots={n}:classifier=prototypes": f"{n}-shot" for n in (1, 5, 10)},
}
FINE_TUNED = "fine_tune"  # the whole encoder on some of the labels, by the recipe `small`


def one(options: argparse.Namespace, data: Path, method: str, seed: int) -> None:
    path = options.out / f"{method}-{seed}.json"
    kept = read_json(path) if path.is_file() else {}
    asked = [p for p in _protocols(options) if p not in kept.get("scores", {}).get("run", {})]
    if not asked:
        return
    begun = time.time()
    given = [item.partition(":")[2] for item in options.set if item.partition(":")[0] in (method, "all")]
    run = tacit.pretrain(
        method, str(data / "train.parquet"), options.out / f"{method}-{seed}", preset="small", encoder=options.encoder,
        epochs=options.epochs, seed=seed, set=["check_every=2", *given], workers=0, resume=True,
        val=str(data / "test.parquet"), precision=options.precision,
    )  # fmt: skip
    minutes = kept.get("minutes", round((time.time() - begun) / 60, 1))
    encoder = encoders.load(run.path)
    scores = {
        "run": _scores(run, data, asked, seed, options),
        "random-init": _of_twin(random_twin(encoder, seed), data, asked, seed, options),
    }
    for of, before in kept.get("scores", {}).items():
        scores[of] = before | scores[of]
    raw = options.out / "raw.json"  # the same for all, and slow: pixels are many
    if not raw.is_file():
        found = tacit.evaluate(encoder, data, protocol=list(PROBES), seed=seed, workers=0)
        of_pixels = [r["value"] for r in found["results"] if r["of"] == "raw-input"]
        write_json(raw, dict(zip(PROBES, of_pixels, strict=True)))
    facts = {"method": method, "seed": seed, "minutes": minutes, "set": given, "encoder": options.encoder}
    facts["labels_tuned_on"] = options.fine_tune or kept.get("labels_tuned_on", 0)
    verdict = (Run(options.out / f"{method}-{seed}").summary or {}).get("verdict")
    how = {"precision": options.precision, "fine_tuned_with": options.fine_tune_with}
    size = {"records": options.records, "test": options.test, "epochs": options.epochs}
    write_json(path, {**facts, **how, **size, "verdict": verdict, "scores": scores})
    print(f"{method} {seed}: {json.dumps(scores['run'])}", file=sys.stderr)


def _protocols(options: argparse.Namespace) -> list[str]:
    return [*PROBES, *[FINE_TUNED] * bool(options.fine_tune)]


def _of_twin(twin: encoders.Encoder, data: Path, asked: list[str], seed: int, options: argparse.Namespace) -> dict:
    """The scores of random weights, once for all methods that have the same ones."""
    key = hashlib.sha256(json.dumps(encoders.describe(twin), sort_keys=True, default=str).encode())
    for value in twin.state_dict().values():
        key.update(value.numpy().tobytes())
    path = options.out / "random" / f"{key.hexdigest()[:16]}-{seed}.json"
    known = read_json(path) if path.is_file() else {}
    known |= _scores(twin, data, [p for p in asked if p not in known], seed, options)
    path.parent.mkdir(exist_ok=True)
    write_json(path, known)
    return {p: known[p] for p in asked}


def _scores(subject, data: Path, asked: list[str], seed: int, options: argparse.Namespace) -> dict[str, float]:
    found = {}
    for on, protocols in ((data, [p for p in asked if p in PROBES]), (None, [p for p in asked if p == FINE_TUNED])):
        if not protocols:
            continue
        few = options.out / f"{options.name}-{options.fine_tune}"
        on = on or subset(data, few, options.fine_tune, options.test)
        how = [p + options.fine_tune_with * (p == FINE_TUNED) for p in protocols]
        told = tacit.evaluate(subject, on, protocol=how, seed=seed, workers=0, baselines=False)
        found |= dict(zip(protocols, [r["value"] for r in told["results"]], strict=True))
    return found


def table(options: argparse.Namespace) -> str:
    kept = [read_json(path) for path in sorted(options.out.glob("*-*.json"))]
    budgets = {(k["records"], k["test"], k["epochs"], k["encoder"], k.get("fine_tuned_with", "")) for k in kept}
    if len(budgets) != 1:
        raise SystemExit("The files in OUT are of different budgets, which no table may mix.")
    names = [name for name in METHODS if any(k["method"] == name for k in kept)]
    asked = [p for p in (*PROBES, FINE_TUNED) if any(p in k["scores"]["run"] for k in kept)]
    rows = [
        _row("raw pixels", asked, [read_json(options.out / "raw.json")]),
        _row("random init", asked, [k["scores"]["random-init"] for k in kept if k["method"] == names[0]]),
    ]
    summary = {}
    for name in names:
        of = sorted((k for k in kept if k["method"] == name), key=lambda k: k["seed"])
        gains = {}
        for protocol in asked:
            if all(protocol in k["scores"]["run"] for k in of):
                a, b = (np.array([k["scores"][who][protocol] for k in of]) for who in ("run", "random-init"))
                gains[protocol] = difference(a, b) if len(of) > 1 else (float(a[0] - b[0]), np.nan, np.nan)
        rows.append(_row(f"`{name}`", asked, [k["scores"]["run"] for k in of], gains))
        summary[name] = {
            "seeds": [k["seed"] for k in of], "minutes": [k["minutes"] for k in of], "set": of[0]["set"],
            "verdicts": [k["verdict"] for k in of],
            "over_random_init": {p: tuple(round(float(x), 4) for x in gain) for p, gain in gains.items()},
        }  # fmt: skip
    one_of, tuned = kept[0], max(k.get("labels_tuned_on", 0) for k in kept)
    titles = PROBES | {FINE_TUNED: f"fine-tuned on {tuned:,} labels"}
    head = (
        f"{options.name}: {one_of['records']:,} unlabelled training images, {one_of['epochs']} epochs of preset "
        f"`small`, {one_of['encoder']}; {one_of['test']:,} test images; means over seeds in per cent, and in brackets "
        "the gain over the same encoder at random initialisation in points with its 95 % interval over the seeds.\n\n"
    )
    text = (
        head + f"| | {' | '.join(titles[p] for p in asked)} |\n|{'---|' * (len(asked) + 1)}\n" + "\n".join(rows) + "\n"
    )
    about = {
        "date": f"{date.today()}", "machine": machine(),
        "versions": {"tacit": tacit.__version__, "torch": torch.__version__},
    }  # fmt: skip
    stem = f"{date.today()}-{options.name}-methods"
    write_text(HERE / "results" / f"{stem}.md", text)
    write_json(HERE / "results" / f"{stem}.json", {**about, "methods": summary, "runs": kept})
    return text


def _row(title: str, asked: list[str], scores: list[dict[str, float]], gains: dict | None = None) -> str:
    cells = []
    for protocol in asked:
        if not all(protocol in s for s in scores):
            cells.append("–")
            continue
        value = f"{100 * np.mean([s[protocol] for s in scores]):.1f}"
        if gains is not None:
            gain, low, high = (100 * x for x in gains[protocol])
            value += f" ({gain:+.1f}: {low:.1f} to {high:.1f})" if np.isfinite(low) else f" ({gain:+.1f})"
        cells.append(value)
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet")
    parser.add_argument("--name", required=True, help="what the data set is called")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--encoder", default="vit_mini")
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fine-tune", type=int, default=0, metavar="LABELS", help="also train encoders on so many")
    parser.add_argument("--fine-tune-with", default="", metavar=":OPTION=VALUE…", help="options of that protocol")
    parser.add_argument("--precision", default="auto", help="of pre-training: auto, 32 or bf16")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:FIELD=VALUE", help="METHOD may be all")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    if options.what == "run":
        data = subset(options.data, options.out / f"{options.name}-{options.records}", options.records, options.test)
        for seed in options.seeds:
            for method in options.methods:
                one(options, data, method, seed)
    else:
        print(table(options))


if __name__ == "__main__":
    main()
