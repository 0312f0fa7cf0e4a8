"""Do films, sounds and words find one another? Pre-train VATT on clips, rank clips it never saw, probe its encoders.

    python benchmarks/clips.py --out DIR                    # clips made on the spot, H.264 and AAC with subtitles
    python benchmarks/clips.py --out DIR --preset small_agnostic
    python benchmarks/clips.py --out DIR --digits PATH      # recordings of spoken digits and the words for them
    python benchmarks/clips.py --out DIR --tune 5           # how it moves, learned from five films of each of 6 motions

Made clips have 24 classes, a shape and how it moves, which tone and subtitles tell of; see made_clips.py. Of a folder
of recordings train/ is learned from and test/ ranked; the first character of a file's name is its digit. Retrieval is
counted by class and by record, beside chance and the same encoders and head at random initialisation; probes beside
random initialisation and what needs no encoder (pixels' means and deviations over time, log-mel statistics). With
--tune the runs that are there already have their encoders of films fine-tuned on few labels instead, beside the same
training from scratch. The line goes to benchmarks/results/LOG.md, intervals over the seeds.
"""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import product
from pathlib import Path

from learning import told_over  # beside this file
from log import note  # beside this file
from made_clips import write_clips  # beside this file

import tacit

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = ("{}", "a {}", "the number {}", "somebody says {}", "{} it is")
MADE = ("text_to_video", "audio_to_video")
HEARD = ("text_to_audio",)
TEST_SEED = 1_000_003
BESIDE = {"chance": "chance", "raw-input": "what needs no encoder"}


def clips(options: argparse.Namespace) -> Path:
    folder = options.out / "clips"
    for part, count, seed in (("train", options.count, 0), ("test", options.test, TEST_SEED)):
        if not (folder / part / "clips.csv").is_file():
            write_clips(folder / part, count, seed=seed)
    return folder


def digits(options: argparse.Namespace) -> Path:
    """Tables of every recording with its digit and a phrase for it, which differ as the recordings do."""
    folder = options.out / "digits"
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        rows = []
        for number, file in enumerate(sorted((options.digits / part).rglob("*.wav"))):
            word = WORDS[int(file.name[0])]
            rows.append((str(file.resolve()), PHRASES[number % len(PHRASES)].format(word), word))
        with (folder / part / "clips.csv").open("w", newline="", encoding="utf-8") as made:
            csv.writer(made).writerows([("audio", "text", "label"), *rows])
    return folder


def one_seed(options: argparse.Namespace, data: Path, seed: int) -> dict[tuple[str, str], float]:
    train, test = (str(data / part / "clips.csv") for part in ("train", "test"))
    run = tacit.pretrain(
        "vatt", f"clips:{train}", options.out / f"{data.name}-{options.preset}-{seed}", preset=options.preset,
        seed=seed, set=[*(["audio_text=1"] if options.digits else []), *options.set], workers=0, resume=True,
    )  # fmt: skip
    scores: dict[tuple[str, str], float] = {}
    how = {"label": "label", "seed": seed, "workers": 0}
    for pair, by in product(HEARD if options.digits else MADE, ("class", "record")):
        found = tacit.evaluate(run, f"clips:{test}", protocol=f"{pair}:by={by}", **how)
        for r in found["results"]:
            depth = 1 if by == "class" else 10
            if r["metric"] == f"recall_at_{depth}":
                name = f"{pair.replace('_', ' ')}, by {by}, R@{depth}"
                scores |= {(r["of"], name): r["value"], ("chance", name): r["settings"]["chance"]}
    heard = {"audio": run.path} if options.digits else {"video": run.path, "audio": run.path / "encoders" / "audio"}
    for of, folder in heard.items():
        found = tacit.evaluate(folder, f"clips:{train}", f"clips:{test}", protocol="knn,linear", whole=True, **how)
        scores |= {(r["of"], f"{of} {r['protocol']}"): r["value"] for r in found["results"]}
    print(f"seed {seed}: " + ", ".join(f"{of} {p} {100 * v:.1f}" for (of, p), v in scores.items()), file=sys.stderr)
    return scores


def tuned(options: argparse.Namespace, data: Path, seed: int) -> dict[tuple[str, str], float]:
    """Fine-tuning on other clips each seed, which the run has seen without their labels."""
    run = options.out / f"{data.name}-{options.preset}-{seed}"
    with (data / "train" / "clips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    few = []
    for motion in sorted({row["motion"] for row in rows}):
        few += [row for row in rows if row["motion"] == motion][seed * options.tune : (seed + 1) * options.tune]
    table = data / "train" / f"{options.tune}-a-motion-{seed}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        made = csv.DictWriter(file, list(rows[0]))
        made.writeheader()
        made.writerows(few)
    found = tacit.evaluate(
        run, f"clips:{table}", f"clips:{data / 'test' / 'clips.csv'}", label="motion", seed=seed, workers=0,
        protocol=f"fine_tune:steps={options.tune_steps}:batch_size=16:flip=no,linear",
    )  # fmt: skip
    scores = {(r["of"], f"{r['protocol']}, {options.tune} films a motion,"): r["value"] for r in found["results"]}
    print(f"seed {seed}: " + ", ".join(f"{of} {p} {100 * v:.1f}" for (of, p), v in scores.items()), file=sys.stderr)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--digits", type=Path, help="folder of spoken digits with train/ and test/")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--count", type=int, default=600, help="made clips to learn from")
    parser.add_argument("--test", type=int, default=240, help="made clips to rank")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tune", type=int, default=0, metavar="N", help="learn from N films of each motion")
    parser.add_argument("--tune-steps", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    data = digits(options) if options.digits else clips(options)
    seeds = [(tuned if options.tune else one_seed)(options, data, seed) for seed in options.seeds]
    told = []
    for name in dict.fromkeys(name for _, name in seeds[0]):
        others = {"random-init": "random init"}
        others |= {of: what for of, what in BESIDE.items() if (of, name) in seeds[0]}
        told.append(told_over(name, seeds, others))
    what = "spoken digits and their words" if options.digits else f"{options.count} made clips"
    what += f", films fine-tuned for {options.tune_steps} steps" if options.tune else ""
    note(f"clips, vatt `{options.preset}` on {what}, {len(seeds)} seeds: {'; '.join(told)}", keep=not options.no_log)


if __name__ == "__main__":
    main()
