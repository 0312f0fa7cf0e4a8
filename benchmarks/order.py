"""Does TOV-VICReg learn time? Pre-train on episodes of a bouncing sprite and ask for what is known of other episodes.

    python benchmarks/order.py --episodes 80 --set size=32 --set patch=8

Two questions, both of episodes that the training never saw: does the head tell the right order from that with before
and after exchanged (chance is one half; the interval is over episodes), and how much of position and velocity does a
ridge probe read from the frozen encoder, beside the same encoder at random initialisation (R², the interval of the
difference is over seeds)? The summary goes to benchmarks/results/ as JSON and as a line of LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from log import command, machine, note  # beside this file
from sprites import write_episodes

import tacit
from tacit import encoders
from tacit.data import Source, open_source
from tacit.engine import Method
from tacit.evaluation import difference, features
from tacit.evaluation.regression import ridge
from tacit.methods import find
from tacit.run import Run, write_json
from tacit.settings import from_dict
from tacit.views import Views, collate, finish

HERE = Path(__file__).parent
TARGETS = ("x", "y", "velocity x", "velocity y")


def trained(run: Run) -> Method:
    """The method as the run left it, heads and all."""
    cls = find(run.settings["method"])
    method = cls(from_dict(cls.Settings, run.settings["settings"]))
    state = torch.load(run.path / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    method.load_state_dict({name.removeprefix("method."): value for name, value in state.items()})
    return method.eval()


@torch.no_grad()
def time_accuracy(method: Method, source: Source, batch: int = 128) -> np.ndarray:
    """[episodes]: the share of stacks of each whose right order and whose exchanged one are told apart."""
    pipelines = method.views()
    views, found = Views(source, pipelines, seed=0), [[] for _ in source.store.ends]
    for first in range(0, len(source), batch):
        rows = range(first, min(first + batch, len(source)))
        images = [v["image"] for v in finish(collate([views[(0, i)] for i in rows]), pipelines)]
        now, _, before, after = method.encoder(torch.cat(images)).chunk(4)
        slots = [before, now, after] if method.s.chronological else [now, before, after]
        for k, i in enumerate(rows):
            judged = method.judged(torch.stack([s[k : k + 1] for s in slots], dim=1))
            found[source.store.locate(i)[0]].append(float(judged["metric/order_time"]))
    return np.array([np.mean(episode) for episode in found])


def probe(encoder: encoders.Encoder, train: Source, states: np.ndarray, test: Source, truth: np.ndarray) -> dict:
    """R² on `test` of every target, read from the features by ridge regression; of a stack its middle frame counts.

    The penalty is chosen on every fifth episode of the training set, which the fit it is chosen for leaves out.
    """
    x, y = (features(encoder, s, workers=0).x.numpy() for s in (train, test))
    states, truth = (of_stacks(s, v) for s, v in ((train, states), (test, truth)))
    held = np.array([train.store.locate(i)[0] % 5 == 0 for i in range(len(train))])
    parts = np.flatnonzero(~held), np.flatnonzero(held)
    predicted = ridge(x, states, y, select="held-out", parts=parts).predicted
    r2 = 1 - np.square(predicted - truth).sum(0) / np.square(truth - truth.mean(0)).sum(0)
    return dict(zip(TARGETS, r2.tolist(), strict=True))


def of_stacks(source: Source, states: np.ndarray) -> np.ndarray:
    rows = [source.store.locate(i) for i in range(len(source))]
    starts = source.store.index.table.column("start").to_numpy()
    return states[[starts[row] + at + source.store.frames // 2 for row, at in rows]]


def one_seed(options: argparse.Namespace, seed: int) -> dict:
    out = options.out / f"order-{seed}"
    states = write_episodes(out / "train", options.episodes, options.length, seed=2 * seed)
    truth = write_episodes(out / "test", options.test, options.length, seed=2 * seed + 1)
    begun = time.time()
    run = tacit.pretrain(
        "tov_vicreg", f"episodes:{out / 'train'}:edges=drop", out / "run", preset="small", seed=seed,
        set=options.set, workers=options.workers,
        resume=True,
    )  # fmt: skip
    minutes = (time.time() - begun) / 60
    train, test = (open_source(f"episodes:{out / part}:edges=drop") for part in ("train", "test"))
    method = trained(run)
    scores = {"run": probe(method.encoder, train, states, test, truth)}
    torch.manual_seed(seed)
    scores["random-init"] = probe(encoders.like(method.encoder).eval(), train, states, test, truth)
    accuracy = time_accuracy(method, test)
    mean, low, high = difference(accuracy, np.zeros(len(accuracy)))
    print(f"seed {seed}: time {100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f}); R² {scores}", file=sys.stderr)
    return {"seed": seed, "minutes": round(minutes, 1), "time": {"mean": mean, "low": low, "high": high}, "r2": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=400, help="of the training")
    parser.add_argument("--test", type=int, default=40, help="episodes that are kept unseen")
    parser.add_argument("--length", type=int, default=50, help="frames of an episode")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/order"))
    options = parser.parse_args()
    seeds = [one_seed(options, seed) for seed in options.seeds]
    gains = {}
    for target in TARGETS:
        rows = [np.array([s["r2"][of][target] for s in seeds]) for of in ("run", "random-init")]
        mean = difference(*rows) if len(seeds) > 1 else (float((rows[0] - rows[1]).mean()), None, None)
        gains[target] = dict(zip(("gain", "low", "high"), mean, strict=True))
    summary = {
        "date": f"{date.today()}",
        "command": command(),
        "machine": machine(),
        "versions": {"tacit": tacit.__version__, "torch": torch.__version__},
        "seeds": seeds,
        "over_random_init": gains,
    }
    write_json(HERE / "results" / f"{summary['date']}-sprites-tov_vicreg.json", summary)
    told = ", ".join(f"{100 * s['time']['mean']:.1f} % ({100 * s['time']['low']:.1f} up)" for s in seeds)
    more = ", ".join(f"{name} {g['gain']:+.2f}" for name, g in gains.items())
    print(json.dumps(gains, indent=2))
    note(f"sprites tov_vicreg, {len(seeds)} seeds: order told {told}; R² over random init: {more}")


if __name__ == "__main__":
    main()
