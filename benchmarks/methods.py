"""All methods side by side: one encoder, equal data, epochs and probes, several seeds; one table.

    python benchmarks/methods.py run --data DIR --name cifar10 --methods moby dino --seeds 0 1 2 --out OUT
    python benchmarks/methods.py table --name cifar10 --out OUT

DIR holds train.parquet and test.parquet (columns image, label). `run` pre-trains by preset `small`, probes, and keeps a
file for each method and seed in OUT: several calls, one after another or at once, may share it, and what is there is
not done again. `table` reads them all and writes the table to benchmarks/results/ as Markdown and JSON. Scores are
those of the ordinary verbs; labels are for the probes alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from learning import subset  # beside this file

import tacit
from tacit import encoders
from tacit.evaluation import difference
from tacit.evaluation.task import random_twin
from tacit.methods import METHODS
from tacit.run import Run, read_json, write_json, write_text

HERE = Path(__file__).parent
PROTOCOLS = ("knn", "linear", *(f"few_shot:shots={n}:classifier=prototypes" for n in (1, 5, 10)))
TITLES = ("20-NN", "linear", "1-shot", "5-shot", "10-shot")


def one(options: argparse.Namespace, data: Path, method: str, seed: int) -> None:
    path = options.out / f"{method}-{seed}.json"
    if path.is_file():
        return
    begun = time.time()
    given = [item.partition(":")[2] for item in options.set if item.partition(":")[0] in (method, "all")]
    run = tacit.pretrain(
        method, str(data / "train.parquet"), options.out / f"{method}-{seed}", preset="small", encoder=options.encoder,
        epochs=options.epochs, seed=seed, set=["check_every=2", *given], workers=0, resume=True,
        val=str(data / "test.parquet"),
    )  # fmt: skip
    minutes = (time.time() - begun) / 60
    how = {"protocol": list(PROTOCOLS), "seed": seed, "workers": 0, "baselines": False}
    encoder = encoders.load(run.path)
    scores = {
        "run": _scores(tacit.evaluate(run, data, **how)),
        "random-init": _scores(tacit.evaluate(random_twin(encoder, seed), data, **how)),
    }
    raw = options.out / "raw.json"  # the same for all, and slow: pixels are many
    if not raw.is_file():
        found = tacit.evaluate(encoder, data, **{**how, "baselines": True})
        write_json(raw, _scores({"results": [r for r in found["results"] if r["of"] == "raw-input"]}))
    facts = {"method": method, "seed": seed, "minutes": round(minutes, 1), "set": given, "encoder": options.encoder}
    verdict = (Run(options.out / f"{method}-{seed}").summary or {}).get("verdict")
    size = {"records": options.records, "test": options.test, "epochs": options.epochs}
    write_json(path, {**facts, **size, "verdict": verdict, "scores": scores})
    print(f"{method} {seed}: {json.dumps(scores['run'])}", file=sys.stderr)


def _scores(found: dict) -> dict[str, float]:
    return {r["protocol"]: r["value"] for r in found["results"]}


def table(options: argparse.Namespace) -> str:
    kept = [read_json(path) for path in sorted(options.out.glob("*-*.json"))]
    if len({(k["records"], k["test"], k["epochs"], k["encoder"]) for k in kept}) != 1:
        raise SystemExit("The files in OUT are of different budgets, which no table may mix.")
    names = [name for name in METHODS if any(k["method"] == name for k in kept)]
    rows = [
        _row("raw pixels", [read_json(options.out / "raw.json")]),
        _row("random init", [k["scores"]["random-init"] for k in kept if k["method"] == names[0]]),
    ]
    summary = {}
    for name in names:
        of = sorted((k for k in kept if k["method"] == name), key=lambda k: k["seed"])
        gains = []
        for protocol in PROTOCOLS:
            a, b = (np.array([k["scores"][who][protocol] for k in of]) for who in ("run", "random-init"))
            gains.append(difference(a, b) if len(of) > 1 else (float(a[0] - b[0]), float("nan"), float("nan")))
        rows.append(_row(f"`{name}`", [k["scores"]["run"] for k in of], gains))
        summary[name] = {
            "seeds": [k["seed"] for k in of], "minutes": [k["minutes"] for k in of], "set": of[0]["set"],
            "verdicts": [k["verdict"] for k in of],
            "over_random_init": dict(zip(PROTOCOLS, [tuple(round(x, 4) for x in g) for g in gains], strict=True)),
        }  # fmt: skip
    one_of = kept[0]
    head = (
        f"{options.name}: {one_of['records']:,} unlabelled training images, {one_of['epochs']} epochs of preset "
        f"`small`, {one_of['encoder']}; {one_of['test']:,} test images; means over seeds in per cent, and in brackets "
        "the gain over the same encoder at random initialisation in points with its 95 % interval over the seeds.\n\n"
    )
    text = head + f"| | {' | '.join(TITLES)} |\n|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    about = {"date": f"{date.today()}", "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
             "versions": {"tacit": tacit.__version__, "torch": torch.__version__}}  # fmt: skip
    stem = f"{date.today()}-{options.name}-methods"
    write_text(HERE / "results" / f"{stem}.md", text)
    write_json(HERE / "results" / f"{stem}.json", {**about, "methods": summary, "runs": kept})
    return text


def _row(title: str, scores: list[dict[str, float]], gains: list[tuple[float, float, float]] | None = None) -> str:
    cells = []
    for i, protocol in enumerate(PROTOCOLS):
        value = f"{100 * np.mean([s[protocol] for s in scores]):.1f}"
        if gains is not None:
            gain, low, high = (100 * x for x in gains[i])
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
