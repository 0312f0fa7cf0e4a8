"""Views alone: photographs a second and core, from JPEG files to batches, beside peers and decoding alone.

    python benchmarks/views.py
    python benchmarks/views.py --peer lightly=ENV/bin/python --peer torchvision=ENV/bin/python --pairs 5

`decode` is decoding alone by Pillow, as peers do it, `torchcodec` by the library of that name, as it is done here. A
peer is a script of its name in benchmarks/peers, run by the Python of an environment that has it. `lightly` are its
transforms as documented, `torchvision` the same views by torchvision's v2 transforms on bytes decoded to a tensor.
Programs take turns, each on one core and by that core's time, so that what else the machine does weighs little; ratios
are of one turn, and their median is told with the smallest and largest. Photographs are scikit-learn's two, cut to 500
x 375 pixels each time elsewhere, unless DATA is given. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from log import note  # beside this file
from peers.timing import seconds  # beside this file
from PIL import Image
from sklearn.datasets import load_sample_images

HERE = Path(__file__).parent
# A job's name, our method, and what of its paper's settings is not the peers' documented default.
JOBS = {
    "two views": ("moco_v3", {}),
    "2 + 6 views": ("dino", {"local_crops": 6}),
    "one view": ("mae", {}),
}
SIZE = (500, 375)
OWN = ("tacit", "decode", "torchcodec")


def photographs(folder: Path, count: int = 64) -> Path:
    rng, pictures = np.random.default_rng(0), [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        picture = pictures[number % 2]
        height = int(picture.height * rng.uniform(0.8, 1.0))
        width = height * SIZE[0] // SIZE[1]
        left, top = rng.integers(picture.width - width + 1), rng.integers(picture.height - height + 1)
        cut = picture.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.BICUBIC)
        cut.save(folder / f"{number:03d}.jpg", quality=90)
    return folder


def ours(job: str, folder: Path, count: int) -> float:
    """Seconds of one core for a photograph."""
    import torch

    from tacit.data import open_source
    from tacit.engine.memory import keep_memory
    from tacit.methods import find
    from tacit.views import Views, collate, finish

    torch.set_num_threads(1)
    keep_memory()  # as in every run
    name, changes = JOBS[job]
    kind = find(name)
    views = kind(replace(kind.presets["paper"], encoder="vit_mini", patch=16, **changes)).views()
    source = open_source(str(folder))
    drawn = Views(source, views, seed=0)

    def batch(start: int, size: int) -> None:
        finish(collate([drawn[(0, (start + i) % len(source))] for i in range(size)]), views)

    return seconds(batch, count)


def decoding(who: str, folder: Path, count: int) -> float:
    """Seconds of one core for a photograph, by Pillow or by torchcodec."""
    files = sorted(folder.glob("*.jpg"))
    if who == "decode":

        def read(file: Path) -> None:
            Image.open(file).convert("RGB")
    else:
        from torchcodec.decoders import decode_jpeg as read

    def batch(start: int, size: int) -> None:
        for i in range(size):
            read(files[(start + i) % len(files)])

    return seconds(batch, count)


def told(who: str, python: str, job: str, folder: Path, count: int) -> float:
    """What a program of its own says, on one core."""
    own = who in OWN
    script = [str(HERE / "views.py"), "--one", who] if own else [str(HERE / "peers" / f"{who}_views.py")]
    command = [python, *script, job, str(folder), str(count)]
    alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    if done.returncode:
        raise SystemExit(f"{who} failed on {job}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of JPEG files")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=128, help="photographs a turn")
    parser.add_argument("--no-log", action="store_true")
    parser.add_argument("--one", nargs=4, metavar=("WHO", "JOB", "DATA", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, job, folder, count = options.one
        print(ours(job, Path(folder), int(count)) if who == "tacit" else decoding(who, Path(folder), int(count)))
        return
    programs = dict.fromkeys(OWN, sys.executable)
    programs |= dict(item.split("=", 1) for item in options.peer)
    parts = []
    with tempfile.TemporaryDirectory() as made:
        folder = options.data or photographs(Path(made))
        for job in JOBS:
            turns = [
                {who: told(who, python, job, folder, options.count) for who, python in programs.items()}
                for _ in range(options.pairs)
            ]
            rates = {who: 1 / statistics.median(turn[who] for turn in turns) for who in programs}
            line = f"{job}: {rates['tacit']:.0f} a second"
            for who in programs:
                if who != "tacit":
                    ratio = sorted(turn[who] / turn["tacit"] for turn in turns)
                    low, middle, high = ratio[0], statistics.median(ratio), ratio[-1]
                    line += f", {middle:.2f} x {who} ({low:.2f} to {high:.2f}; {rates[who]:.0f})"
            print(line, flush=True)
            parts.append(line)
    of = "" if options.data else f" of {SIZE[0]} x {SIZE[1]}"
    note(
        f"views of photographs{of}, one core, medians of {options.pairs} turns: {'; '.join(parts)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
