"""Does pre-training on unlabelled talkers help where few are labelled? Talkers whose structure is known.

    OMP_NUM_THREADS=1 python benchmarks/talkers.py

A clip is a chain of eight hidden states, each a word's time long. Text is a word a state, at times another state's;
audio is the state's vector, blurred in time, with noise, at eight times that rate, vision the same at four times, each
person with a colouring of their own, of whom there are several clips. Six labels say whether states were there long
enough. The encoder of emotion_xmodal is pre-trained on clips of other people, without labels, and fine-tuned on 5 and
20 % of the labels; beside it the same from scratch with as many epochs, its rate swept, as by `tacit evaluate
--protocol emotion`. The line goes to benchmarks/results/LOG.md, intervals over seeds, each with people, labels and
weights of its own.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

STATES, WORDS, SYNONYMS = 8, 14, 4  # most words a clip, words of a state
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
SETS = ((0, 1), (2, 3), (4, 5), (6, 7), (1, 4), (3, 6))  # states that each label is about
ENOUGH = (0.3, 0.3, 0.35, 0.4, 0.3, 0.45)  # share of the time they take
AUDIO, VISION = (8, 20), (4, 12)  # frames a word, dimensions


def world() -> dict[str, np.ndarray]:
    """What all clips have in common."""
    rng = np.random.default_rng(7)
    moves = rng.dirichlet(np.full(STATES, 0.4), STATES) * 0.6 + 0.4 * np.eye(STATES)
    return {"moves": moves, "audio": rng.normal(0, 1, (STATES, AUDIO[1])), "vision": rng.normal(0, 1, (STATES, VISION[1]))}


def clip_of(rng: np.random.Generator, common: dict[str, np.ndarray], person: dict[str, np.ndarray], noise: float):
    """One clip: {"text" [T], "audio" [8 T, 20], "vision" [4 T, 12], times}, its labels [6] and its states [T]."""
    length = int(rng.integers(WORDS - 5, WORDS + 1))
    states = [int(rng.integers(STATES))]
    for _ in range(length - 1):
        states.append(int(rng.choice(STATES, p=common["moves"][states[-1]])))
    states = np.array(states)
    said = np.where(rng.random(length) < 0.3, rng.integers(STATES, size=length), states)
    found = {"text": np.array([f"w{s}{rng.integers(SYNONYMS)}" for s in said]), "text_times": spans(length, 1)}
    for name, (rate, dims) in (("audio", AUDIO), ("vision", VISION)):
        clean = common[name][states.repeat(rate)] * person[f"{name}_gain"] + person[f"{name}_bias"]
        blur = np.ones(rate // 2) / (rate // 2)
        clean = np.apply_along_axis(lambda x: np.convolve(x, blur, "same"), 0, clean)  # noqa: B023
        found[name] = (clean + rng.normal(0, noise, clean.shape)).astype(np.float32)
        found[f"{name}_times"] = spans(length * rate, rate)
    share = np.bincount(states, minlength=STATES) / length
    return found, np.array([share[list(pair)].sum() > enough for pair, enough in zip(SETS, ENOUGH, strict=True)]), states


def spans(count: int, rate: int) -> np.ndarray:
    """Begin and end of each of so many positions, a word taking .4 seconds."""
    edges = 0.4 * np.arange(count + 1) / rate
    return np.stack([edges[:-1], edges[1:]], 1)


def write(folder: Path, people: int, clips: int, seed: int, *, noise: float, parts: dict[str, int] | None = None) -> Path:
    """`people` x `clips` .npz files and labels.csv; the first people are of the first of `parts`, and so on."""
    if (folder / "labels.csv").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    common, rows = world(), []
    of = [part for part, count in (parts or {"train": people}).items() for _ in range(count)]
    for p in range(people):
        rng = np.random.default_rng([seed, p])
        person = {}
        for name, (_, dims) in (("audio", AUDIO), ("vision", VISION)):
            person |= {f"{name}_gain": rng.uniform(0.6, 1.4, dims), f"{name}_bias": rng.normal(0, 0.8, dims)}
        for c in range(clips):
            found, labels, _ = clip_of(rng, common, person, noise)
            np.savez(folder / f"p{p:04d}[{c}].npz", **found)
            rows.append([f"p{p:04d}[{c}]", f"p{p:04d}", of[p], *labels.astype(int)])
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "video", "split", *EMOTIONS), *rows])
    return folder
