"""Do frames say what is heard when? Mixtures of real clips with known times, and F1 of segments and of events.

    python benchmarks/events.py --data esc10/

--data holds `audio/CLASS_FOLD-….ogg`, as ESC-10's clips are called here. A mixture is ten seconds of noise 40 dB below
full scale with the loudest second or two of one to four clips at random times, of fold 5 for the test and of the others
for training. ATST-Frame `small` is pre-trained on the clips of training without their labels; beside it stand the same
encoder at random initialisation and the log-mel bands of every frame. The line goes to benchmarks/results/LOG.md, with
intervals over the seeds, each of which draws mixtures of its own.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import soundfile
from learning import told_over  # beside this file
from log import note  # beside this file

import tacit
from tacit.data import Recording, Segment

RATE, SECONDS, NOISE = 16_000, 10, 0.01
METRICS = ("segment_f1", "segment_f1_macro", "event_f1", "event_f1_macro")


def loudest(clip: Path, rng: np.random.Generator) -> np.ndarray:
    """One to two seconds of a clip, those with the most energy, at a peak of 0.1 to 0.5, faded in 10 ms."""
    x = Recording(clip).crops([Segment(0, 5 * RATE, RATE)])[0][0]
    length = int(rng.uniform(1, 2) * RATE)
    energy = np.concatenate([[0.0], np.cumsum(x.astype(np.float64) ** 2)])
    start = int((energy[length:] - energy[:-length]).argmax())
    part = x[start : start + length]
    fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.01 * RATE))
    return part / max(np.abs(part).max(), 1e-3) * rng.uniform(0.1, 0.5) * fade


def mix(clips: list[Path], folder: Path, count: int, seed: int) -> None:
    """So many mixtures and events.tsv, which is written last and says that they are whole."""
    if (folder / "events.tsv").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), [("filename", "onset", "offset", "event_label")]
    for i in range(count):
        x = rng.normal(0, NOISE, SECONDS * RATE)
        for clip in rng.choice(len(clips), rng.integers(1, 5), replace=False):
            part = loudest(clips[clip], rng)
            at = int(rng.integers(len(x) - len(part)))
            x[at : at + len(part)] += part
            label = clips[clip].name.rpartition("_")[0]
            rows.append((f"{i:04d}.wav", f"{at / RATE:.4f}", f"{(at + len(part)) / RATE:.4f}", label))
        soundfile.write(folder / f"{i:04d}.wav", np.clip(x, -1, 1), RATE)
    with (folder / "events.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)


def one_seed(options: argparse.Namespace, parts: dict[str, list[Path]], seed: int) -> dict[tuple[str, str], float]:
    data = options.out / f"mixtures-{options.train}-{options.test}-{seed}"
    for number, (name, count) in enumerate((("train", options.train), ("test", options.test))):
        mix(parts[name], data / name, count, 2 * seed + number)
    table = options.out / "clips.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path",), *((str(p.resolve()),) for p in parts["train"])])
    run = tacit.pretrain(
        "atst_frame", str(table), options.out / f"atst_frame-{seed}", preset="small", seed=seed,
        set=["check_every=0", *options.set], workers=0, resume=True,
    )  # fmt: skip
    result = tacit.evaluate(run, data, protocol="events", seed=seed, workers=0)
    scores = {(r["of"], r["metric"]): r["value"] for r in result["results"]}
    print(f"seed {seed}: " + ", ".join(f"{of} {m} {100 * v:.1f}" for (of, m), v in scores.items()), file=sys.stderr)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ESC-10, with audio/")
    parser.add_argument("--train", type=int, default=200, help="mixtures to learn from")
    parser.add_argument("--test", type=int, default=100, help="mixtures to test on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/events"))
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    clips = sorted((options.data / "audio").glob("*_*-*.ogg"))
    parts = {"train": [p for p in clips if "_5-" not in p.name], "test": [p for p in clips if "_5-" in p.name]}
    if not all(parts.values()):
        parser.error(f"--data {options.data}: must hold audio/CLASS_FOLD-….ogg of folds 1 to 5.")
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [one_seed(options, parts, seed) for seed in options.seeds]
    others = {"random-init": "random init", "raw-input": "log-mel frames"}
    told = [told_over(metric, seeds, others) for metric in METRICS]
    note(
        f"events, atst_frame `small` on {options.train} mixtures of ESC-10, {len(seeds)} seeds: {'; '.join(told)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
