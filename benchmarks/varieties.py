"""Does contrast under labels help to tell how somebody speaks, of speakers never heard? Fine-tune with it and without.

    python benchmarks/varieties.py --name accents
    python benchmarks/varieties.py --name fsdd --data fsdd/ --label '^(\\d)_' --group '^\\d_([a-z]+)_'
    python benchmarks/varieties.py --name accents --encoder runs/frame --teacher runs/clip --recordings 12

Without --data, accents are generated: speakers with a pitch, a vocal tract and a tempo of their own say the same words
of vowels; an accent moves the formants of some vowels and the rhythm, always alike. With --data, --label and --group
are found in the names of files. Each seed draws other test speakers and other first weights, the same for every way:
cross-entropy, contrast before it, contrast beside it. The same with parts drawn by recording shows what a leak of
speakers is worth. With --teacher that encoder is fine-tuned too ("teacher"), and --encoder learns what it says beside
the labels ("taught": ATST-C2F). The line goes to benchmarks/results/LOG.md, intervals over the seeds.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from log import note  # beside this file
from scipy.signal import lfilter

import tacit
from tacit import encoders
from tacit.data.recording import EXTENSIONS
from tacit.evaluation import difference
from tacit.views import kaldi_inputs

RATE = 8000
VOWELS = {"a": (730, 1090), "e": (530, 1840), "i": (270, 2290), "o": (570, 840), "u": (300, 870)}  # first two formants


def vowel(pitch: float, formants: tuple[float, ...], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Pulses at `pitch` Hz, with a little jitter, through a resonance of 80 Hz at each of `formants`."""
    wave, place = np.zeros(int(seconds * RATE)), 0.0
    while place < len(wave):
        wave[int(place)] = 1.0
        place += RATE / pitch * (1 + rng.normal(0, 0.01))
    for formant in formants:
        radius, angle = np.exp(-np.pi * 80 / RATE), 2 * np.pi * formant / RATE
        wave = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], wave)
    return wave * np.hanning(len(wave)) ** 0.25


def accents(folder: Path, options: argparse.Namespace) -> Path:
    """Wave files, and table.csv with path, label (the accent) and speaker."""
    rng, folder = np.random.default_rng(0), folder / "accents"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["".join(rng.choice(list(VOWELS), 4)) for _ in range(options.recordings)]  # everybody says the same
    rows = []
    for accent in range(options.accents):
        shifts = {v: 1 + rng.normal(0, 0.12, 2) for v in VOWELS}
        stressed, stretch = int(rng.integers(4)), rng.uniform(1.2, 1.6)
        for speaker in range(options.speakers):
            name, pitch = f"{accent}-{speaker}", rng.uniform(90, 250)
            tract, tempo = rng.normal(1, 0.04), rng.uniform(0.85, 1.15)
            for number, word in enumerate(words):
                parts = []
                for place, v in enumerate(word):
                    seconds = 0.16 * tempo * (stretch if place == stressed else 1) * rng.uniform(0.9, 1.1)
                    formants = [f * tract * shift for f, shift in zip(VOWELS[v], shifts[v], strict=True)]
                    parts.append(vowel(pitch * rng.uniform(0.95, 1.05), (*formants, 2700 * tract), seconds, rng))
                wave = np.concatenate(parts)
                wave = 0.5 * wave / np.abs(wave).max() + rng.normal(0, 0.003, len(wave))
                file = folder / f"{name}-{number}.wav"
                soundfile.write(file, wave, RATE)
                rows.append((file.name, f"accent{accent}", name))
    return written(folder / "table.csv", rows)


def named(folder: Path, options: argparse.Namespace) -> Path:
    """table.csv of the recordings whose names say class and speaker."""
    label, group, rows = re.compile(options.label), re.compile(options.group), []
    for file in sorted(p for p in options.data.rglob("*") if p.suffix.lower() in EXTENSIONS):
        if (of := label.search(file.name)) and (by := group.search(file.name)):
            rows.append((str(file.resolve()), of.group(1), by.group(1)))
    folder.mkdir(parents=True, exist_ok=True)
    return written(folder / f"{options.name}.csv", rows)


def written(table: Path, rows: list[tuple[str, str, str]]) -> Path:
    with table.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("path", "label", "speaker"), *rows])
    print(f"{len(rows):,} recordings of {len({row[2] for row in rows}):,} speakers", file=sys.stderr)
    return table


def one_seed(options: argparse.Namespace, table: Path, seed: int) -> dict[str, dict[str, float]]:
    torch.manual_seed(seed)
    encoder = options.encoder or encoders.build("vit_mini", inputs=kaldi_inputs(96, 64, RATE), patch=8).eval()
    beside = {"contrast": options.contrast}
    ways = {"cross-entropy": {}, "before": {**beside, "stage": "before"}, "auxiliary": beside, "by recording": {}}
    if options.teacher:
        ways |= {"teacher": {}, "taught": {"teacher": options.out / f"{options.name}-teacher-{seed}"}}
    found = {}
    for way, how in ways.items():
        group = None if way == "by recording" else "speaker"
        what = options.teacher if way == "teacher" else encoder
        result = tacit.finetune(
            what, table, options.out / f"{options.name}-{way.replace(' ', '-')}-{seed}", label="label", group=group,
            recipe=options.recipe, set=options.set, seed=seed, workers=0, **how,
        )  # fmt: skip
        found[way] = {row["metric"]: row["value"] for row in result["results"]}
        print(f"seed {seed}, {way}: {found[way]}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="what the data set is called in the log")
    parser.add_argument("--data", type=Path, help="folder of recordings; without it accents are generated")
    parser.add_argument("--label", metavar="REGEX", help="its first group is the class, in the name of a file")
    parser.add_argument("--group", metavar="REGEX", help="its first group is the speaker")
    parser.add_argument("--accents", type=int, default=5, help="generated")
    parser.add_argument("--speakers", type=int, default=12, help="of each accent")
    parser.add_argument("--recordings", type=int, default=12, help="of each speaker")
    parser.add_argument("--encoder", help="a run of a method for sounds, or a speech model; fresh weights without it")
    parser.add_argument("--teacher", help="a run that reads the same spectrograms, no longer ones")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--contrast", default="multi_similarity")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/varieties"), help="a new folder")
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    table = named(options.out, options) if options.data else accents(options.out, options)
    seeds = [one_seed(options, table, seed) for seed in options.seeds]
    told = []
    for metric in ("macro_f1", "silhouette"):
        rows = {way: np.array([found[way].get(metric, np.nan) for found in seeds]) for way in seeds[0]}
        line = f"{metric} {100 * rows['cross-entropy'].mean():.1f} by cross-entropy"
        for way in list(rows)[1:]:
            if way == "by recording" and metric != "macro_f1":
                continue
            gap = rows[way] - rows["cross-entropy"]
            if len(seeds) > 1:
                gain, low, high = (100 * x for x in difference(rows[way], rows["cross-entropy"]))
                line += f", {way} {gain:+.1f} ({low:+.1f} to {high:+.1f})"
            else:
                line += f", {way} {100 * gap[0]:+.1f}"
        told.append(line)
    note(
        f"varieties, {options.contrast} on {options.name}, unheard speakers, {len(seeds)} seeds: {'; '.join(told)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
