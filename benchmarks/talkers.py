"""Does pre-training on unlabelled talkers help where few are labelled? Talkers whose structure is known.

    OMP_NUM_THREADS=1 python benchmarks/talkers.py

A clip is a chain of eight hidden states, each a word's time long. Text is a word a state, at times another state's;
audio is the state's vector, blurred in time, with noise, at eight times that rate, vision the same at four times, each
person with a colouring of their own, of whom there are several clips. Six labels say whether states were there long
enough. The encoder of emotion_xmodal is pre-trained on clips of other people, without labels, and fine-tuned on 5 and
20 % of the labels; beside it the same from scratch with as many epochs, its rate swept, as by `tacit evaluate
--protocol emotion`. The line goes to benchmarks/results/LOG.md, intervals over the seeds of fine-tuning, each with
labels, head and weights from scratch of its own, after one pre-training.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from log import note  # beside this file

import tacit
from tacit import methods
from tacit.data import open_source
from tacit.evaluation.evaluate import difference
from tacit.settings import from_dict
from tacit.views import Views, collate, finish
from tacit.views.talking import MASK

STATES, WORDS, SYNONYMS = 8, 8, 4  # most words a clip, words of a state
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SETS = ((0, 1), (2, 3), (4, 5), (6, 7), (1, 4), (3, 6))  # states that each label is about
ENOUGH = (0.3, 0.3, 0.35, 0.4, 0.3, 0.45)  # share of the time they take
AUDIO, VISION = (8, 20), (4, 12)  # frames a word, dimensions


def world() -> dict[str, np.ndarray]:
    """What all clips have in common."""
    rng = np.random.default_rng(7)
    moves = rng.dirichlet(np.full(STATES, 0.4), STATES) * 0.6 + 0.4 * np.eye(STATES)
    vectors = {name: rng.normal(0, 1, (STATES, dims)) for name, (_, dims) in (("audio", AUDIO), ("vision", VISION))}
    return {"moves": moves, **vectors}


def clip_of(
    rng: np.random.Generator, common: dict[str, np.ndarray], person: dict[str, np.ndarray], noise: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One clip: {"text" [T], "audio" [8 T, 20], "vision" [4 T, 12], times}, and its labels [6]."""
    length = int(rng.integers(WORDS - 4, WORDS + 1))
    states = [int(rng.integers(STATES))]
    for _ in range(length - 1):
        states.append(int(rng.choice(STATES, p=common["moves"][states[-1]])))
    states = np.array(states)
    said = np.where(rng.random(length) < 0.3, rng.integers(STATES, size=length), states)
    found = {"text": np.array([f"w{s}{rng.integers(SYNONYMS)}" for s in said]), "text_times": spans(length, 1)}
    for name, (rate, _) in (("audio", AUDIO), ("vision", VISION)):
        clean = common[name][states.repeat(rate)] * person[f"{name}_gain"] + person[f"{name}_bias"]
        blur = np.ones(rate // 2) / (rate // 2)
        clean = np.stack([np.convolve(x, blur, "same") for x in clean.T], 1)
        found[name] = (clean + rng.normal(0, noise, clean.shape)).astype(np.float32)
        found[f"{name}_times"] = spans(length * rate, rate)
    share = np.bincount(states, minlength=STATES) / length
    return found, np.array([share[list(pair)].sum() > enough for pair, enough in zip(SETS, ENOUGH, strict=True)])


def spans(count: int, rate: int) -> np.ndarray:
    """Begin and end of each of so many positions, a word taking .4 seconds."""
    edges = 0.4 * np.arange(count + 1) / rate
    return np.stack([edges[:-1], edges[1:]], 1)


def write(folder: Path, people: dict[str, int], clips: int, seed: int, *, noise: float) -> Path:
    """So many people of each part, of each so many clips, as .npz files and labels.csv."""
    if (folder / "labels.csv").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    common, rows = world(), []
    for p, part in enumerate(part for part, count in people.items() for _ in range(count)):
        rng = np.random.default_rng([seed, p])
        person = {}
        for name, (_, dims) in (("audio", AUDIO), ("vision", VISION)):
            person |= {f"{name}_gain": rng.uniform(0.6, 1.4, dims), f"{name}_bias": rng.normal(0, 0.8, dims)}
        for c in range(clips):
            found, labels = clip_of(rng, common, person, noise)
            np.savez(folder / f"p{p:04d}[{c}].npz", **found)
            rows.append([f"p{p:04d}[{c}]", f"p{p:04d}", part, *labels.astype(int)])
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "video", "split", *EMOTIONS), *rows])
    return folder


def word_accuracy(run: tacit.Run, data: str, hear: bool, *, records: int = 1000) -> float:
    """How often a word that the mask vector hides is told; without audio and vision if not `hear`."""
    cls = methods.find(run.settings["method"])
    settings = replace(from_dict(cls.Settings, run.settings["settings"]), modality_drop=0.0)
    method = cls(settings)
    state = torch.load(run.path / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    method.load_state_dict({k.removeprefix("method."): v for k, v in state.items()})
    method.eval()
    source, (pipeline,) = open_source(data), method.views()
    views = Views(source, [pipeline], 12345)
    right = asked = 0
    with torch.no_grad():
        for start in range(0, min(records, len(source)), 100):
            batch = collate([views[(0, i)] for i in range(start, min(start + 100, len(source)))])
            (view,) = finish(batch, [pipeline])
            if not hear:
                view["image"] = method.encoder.inputs.without(view["image"], ("audio", "vision"))
            x, masked = method.corrupted(view)
            states, _ = method.encoder.trunk.sequences(x, masked)
            chosen = (view["hidden"] == MASK)[:, : settings.lengths[0]]
            truth = method.encoder.inputs.parts(view["image"])["text"][chosen][:, 0].long()
            right += int((method.predict("text", states["text"][chosen]).argmax(-1) == truth).sum())
            asked += len(truth)
    return right / asked


def trained(options: argparse.Namespace) -> tuple[dict[str, float], list[dict]]:
    """How often hidden words are told, and the rows of `tacit evaluate`."""
    at = options.out / f"{options.seed}"
    heard = write(at / "unlabelled", {"train": options.people}, 8, 1000 + options.seed, noise=options.noise)
    labelled = write(at / "labelled", {"train": 250, "test": 250}, 4, 2000 + options.seed, noise=options.noise)
    how = {"preset": "small", "seed": options.seed, "workers": 0, "precision": "32", "resume": True, "quiet": True}
    changes = ["check_every=0", *(options.set or SETTINGS)]
    run = tacit.pretrain("emotion_xmodal", f"sequences:{heard}", at / "run", set=changes, **how)
    text = tacit.pretrain("emotion_xmodal", f"sequences:{heard}:audio=no,vision=no", at / "text", set=changes, **how)
    tested = f"sequences:{labelled}:part=test"
    words = {
        "all": word_accuracy(run, tested, True), "deaf": word_accuracy(run, tested, False),
        "text": word_accuracy(text, tested, True),
    }  # fmt: skip
    print(f"hidden words told: {words}", file=sys.stderr, flush=True)
    protocol = f"emotion:{options.emotion}:seeds={options.seeds},multi_label"
    result = tacit.evaluate(run, f"sequences:{labelled}", protocol=protocol, seed=options.seed, workers=0)
    for r in result["results"]:
        if "lr" in r["settings"] and r["metric"] == "weighted_f1":
            print(r["of"], r["protocol"], r["settings"]["lr"], r["settings"]["best_epoch"], file=sys.stderr, flush=True)
    return words, result["results"]


def told(words: dict[str, float], rows: list[dict]) -> str:
    """The line of the log."""
    found = {(r["of"], r["protocol"]): r for r in rows if r["metric"] in ("weighted_accuracy", "map")}

    def value(*key: str) -> str:
        return f"{100 * found[key]['value']:.1f}"

    def over(of: str, protocol: str) -> str:
        a, b = (np.array(found[who, protocol]["settings"]["each_seed"]) for who in ("run", of))
        d, low, high = difference(100 * a, 100 * b)
        return f"{d:+.1f} ({low:+.1f} to {high:+.1f})"

    parts = []
    for _, protocol in (key for key in found if key[0] == "raw-input" and key[1].startswith("emotion")):
        parts.append(
            f"{protocol} weighted accuracy {value('run', protocol)}, {over('random-init', protocol)} over scratch "
            f"({value('random-init', protocol)}), {over('raw-input', protocol)} over a logistic regression of means "
            "and deviations"
        )
    curve = [p for of, p in found if of == "run" and ("without=" in p or "only=" in p)]
    said = [f"{p.rpartition(':')[2]} {value('run', p)} (scratch {value('random-init', p)})" for p in curve]
    parts.append(f"a modality missing at the test, by the last of these models: {', '.join(said)}")
    linear = [f"{of} {value(of, 'multi_label')}" for of in ("run", "random-init", "raw-input")]
    parts.append(f"frozen, linear on all labels, mAP: {', '.join(linear)}")
    parts.append(
        f"hidden words told {100 * words['all']:.1f} % of the time, without audio and vision "
        f"{100 * words['deaf']:.1f}, by one that learned from text alone {100 * words['text']:.1f}"
    )
    return "; ".join(parts)


SETTINGS = ("epochs=6", "batch_size=32", "lr=2e-3", "lr_batch=32", "warmup_epochs=0.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1000, help="unlabelled people, of 8 clips each")
    parser.add_argument("--noise", type=float, default=1.5, help="deviation of audio's and vision's noise")
    parser.add_argument("--emotion", default="percent=5/20:lr=1e-3:scratch_lr=3e-4/1e-3/3e-3")
    parser.add_argument(
        "--seeds", type=int, default=5, help="of fine-tuning: labels, split, head, weights from scratch"
    )
    parser.add_argument("--seed", type=int, default=0, help="of people and pre-training")
    parser.add_argument("--set", action="append", metavar="FIELD=VALUE", help=f"in the place of {' '.join(SETTINGS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/talkers"))
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    said = told(*trained(options))
    note(f"talkers, emotion_xmodal `small`, {options.seeds} seeds of fine-tuning: {said}", keep=not options.no_log)


if __name__ == "__main__":
    main()
