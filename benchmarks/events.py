"""Do frames say what is heard when? Mixtures of real clips with known times; F1 of segments and of events, and PSDS.

    python benchmarks/events.py --name esc10 --data esc10/ --label '^(.+)_[1-5]-' --test '_5-'
    python benchmarks/events.py --name fsdd --data fsdd/ --label '^([0-9])_' --test '(^|/)test/' --seconds 4 \
        --on mixtures --set size=401

--label finds the class in the name of a file, --test is found in the paths of the clips to test on. A mixture is some
seconds of noise 40 dB below full scale with the loudest second or two (or all, if it is shorter) of one to four clips
at random times. ATST-Frame `small`, or another --method, is pre-trained without labels on the clips of training, or on
their mixtures; or else --runs names what was pre-trained before (as by benchmarks/sounds.py), with {seed} in its path.
Beside it stand the same encoder at random initialisation and the log-mel bands of every frame. The line goes to
benchmarks/results/LOG.md, with intervals over the seeds, each of which draws mixtures of its own.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path

import numpy as np
import soundfile
from learning import told_over  # beside this file
from log import note  # beside this file

import tacit
from tacit.data import Recording, Segment
from tacit.data.recording import EXTENSIONS
from tacit.evaluation.psds import SCENARIOS

RATE, NOISE = 16_000, 0.01
METRICS = ("segment_f1", "segment_f1_macro", "event_f1", "event_f1_macro", *SCENARIOS)


def loudest(clip: Path, rng: np.random.Generator) -> np.ndarray:
    """One to two seconds of a clip, those with the most energy, at a peak of 0.1 to 0.5, faded in 10 ms."""
    recording = Recording(clip)
    x = recording.crops([Segment(0, min(recording.samples * RATE // recording.rate, 5 * RATE), RATE)])[0][0]
    length = min(int(rng.uniform(1, 2) * RATE), len(x))
    energy = np.concatenate([[0.0], np.cumsum(x.astype(np.float64) ** 2)])
    start = int((energy[length:] - energy[:-length]).argmax())
    part = x[start : start + length]
    fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.01 * RATE))
    return part / max(np.abs(part).max(), 1e-3) * rng.uniform(0.1, 0.5) * fade


def mix(clips: list[tuple[Path, str]], folder: Path, count: int, seconds: float, seed: int) -> None:
    """So many mixtures of clips with their labels, and events.tsv, which is written last: then all are there."""
    if (folder / "events.tsv").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), [("filename", "onset", "offset", "event_label")]
    for i in range(count):
        x = rng.normal(0, NOISE, int(seconds * RATE))
        for clip in rng.choice(len(clips), rng.integers(1, 5), replace=False):
            path, label = clips[clip]
            part = loudest(path, rng)
            at = int(rng.integers(len(x) - len(part)))
            x[at : at + len(part)] += part
            rows.append((f"{i:04d}.wav", f"{at / RATE:.4f}", f"{(at + len(part)) / RATE:.4f}", label))
        soundfile.write(folder / f"{i:04d}.wav", np.clip(x, -1, 1), RATE)
    with (folder / "events.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)


def pretrained(options: argparse.Namespace, clips: list[tuple[Path, str]], data: Path, seed: int) -> tacit.Run:
    table = options.out / f"{options.name}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path",), *((str(path.resolve()),) for path, _ in clips)])
    return tacit.pretrain(
        options.method, str(table if options.on == "clips" else data / "train"),
        options.out / f"{options.method}-{options.name}-{seed}", preset="small", seed=seed,
        set=["check_every=0", *options.set], workers=0, resume=True,
    )  # fmt: skip


def one_seed(options: argparse.Namespace, parts: dict[str, list[tuple[Path, str]]], seed: int) -> dict:
    """Scores by (of, metric)."""
    data = options.out / f"{options.name}-{options.train}-{options.tests}-{options.seconds:g}-{seed}"
    for number, (name, count) in enumerate((("train", options.train), ("test", options.tests))):
        mix(parts[name], data / name, count, options.seconds, 2 * seed + number)
    run = Path(options.runs.format(seed=seed)) if options.runs else pretrained(options, parts["train"], data, seed)
    result = tacit.evaluate(run, data, protocol="events", seed=seed, workers=0)
    scores = {(r["of"], r["metric"]): r["value"] for r in result["results"]}
    print(f"seed {seed}: " + ", ".join(f"{of} {m} {100 * v:.1f}" for (of, m), v in scores.items()), file=sys.stderr)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="what the data set is called in the log")
    parser.add_argument("--data", type=Path, required=True, help="folder of clips")
    parser.add_argument(
        "--label", metavar="REGEX", required=True, help="its first group is the class, in a file's name"
    )
    parser.add_argument("--test", metavar="REGEX", required=True, help="found in the paths of clips to test on")
    parser.add_argument("--method", default="atst_frame")
    parser.add_argument("--runs", metavar="PATH", help="score these; {seed} stands for the seed")
    parser.add_argument("--on", choices=("clips", "mixtures"), default="clips", help="what is pre-trained on")
    parser.add_argument("--seconds", type=float, default=10, help="of a mixture")
    parser.add_argument("--train", type=int, default=200, help="mixtures to learn from")
    parser.add_argument("--tests", type=int, default=100, help="mixtures to test on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/events"))
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "test": []}
    for path in sorted(p for p in options.data.rglob("*") if p.suffix.lower() in EXTENSIONS):
        if found := re.search(options.label, path.name):
            tested = re.search(options.test, path.relative_to(options.data).as_posix())
            parts["test" if tested else "train"].append((path, found.group(1)))
    if not all(parts.values()):
        parser.error(f"--data {options.data}: has no clips for {' and '.join(p for p in parts if not parts[p])}.")
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [one_seed(options, parts, seed) for seed in options.seeds]
    others = {"random-init": "random init", "raw-input": "log-mel frames"}
    told = [told_over(metric, seeds, others) for metric in METRICS]
    note(
        f"events, {options.method} `small` on {options.on} of {options.name}, {options.train} mixtures with labels, "
        f"{len(seeds)} seeds: {'; '.join(told)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
