"""Does DINO's attention find objects? Pre-train on pictures without masks, then compare with random init, with them.

    python benchmarks/attention.py --data DIR --name nuclei --size 64 --epochs 60
    python benchmarks/attention.py --made 4000 --size 32          pictures of one object each, made here

DIR is laid out as for `--protocol segment` (train/ and test/ with images/ and masks/ or labels/). What is scored is the
Jaccard index of the mask that holds 60 % of the class token's attention: of the best head for every picture, as in the
paper, and of the one head that is best over all. Every seed is one run beside its own random twin; the interval is over
the seeds. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from log import note  # beside this file
from PIL import Image

import tacit
from tacit import encoders
from tacit.evaluation import difference
from tacit.evaluation.task import random_twin

PROTOCOLS = {"best head": "attention:foreground=yes", "one head": "attention:foreground=yes:heads=one"}


def waves(rng: np.random.Generator, side: int, count: int, fastest: float) -> np.ndarray:
    """[side, side, 3] in [0, 1]: a mean colour and some waves of other colours."""
    mean, colours = rng.uniform(0.2, 0.8, 3), rng.uniform(-0.2, 0.2, (count, 3))
    return np.clip(mean + np.tensordot(_sines(rng, side, count, fastest), colours, (0, 0)), 0, 1)


def lawn(rng: np.random.Generator, side: int) -> np.ndarray:
    """[side, side, 1]: many fine grey waves, of every picture other ones and alike to look at."""
    return 0.5 + _sines(rng, side, 12, 16.0).mean(0)[..., None] * 0.5


def _sines(rng: np.random.Generator, side: int, count: int, fastest: float) -> np.ndarray:
    at = np.mgrid[:side, :side] / side
    return np.sin(
        np.pi * (np.tensordot(rng.uniform(-fastest, fastest, (count, 2)), at, 1) + rng.uniform(0, 2, (count, 1, 1)))
    )


def picture(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One object on a lawn, [side, side, 3] uint8, and its mask [side, side] bool, a twelfth to a third of it.

    The object is an ellipse or a polygon, turned, anywhere within the frame, of coloured waves: of all the colours and
    patterns, so that none tells objects from lawns, and its own, so that it is what tells pictures apart.
    """
    y, x = np.mgrid[:side, :side] / side
    while True:
        (cy, cx), (a, b), turn = rng.uniform(0.25, 0.75, 2), rng.uniform(0.14, 0.36, 2), rng.uniform(0, np.pi)
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / a
        v = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / b
        sides = rng.integers(3, 7)
        angle = (np.arctan2(v, u) % (2 * np.pi / sides)) - np.pi / sides
        reach = np.cos(np.pi / sides) / np.cos(angle) if rng.random() < 0.5 else 1.0
        mask = np.hypot(u, v) < reach
        if 1 / 12 < mask.mean() < 1 / 3:
            break
    shown = np.where(mask[..., None], waves(rng, side, 3, 6.0), lawn(rng, side))
    shown = np.clip(shown + rng.normal(0, 0.02, shown.shape), 0, 1)
    return (255 * shown).astype(np.uint8), mask


def write_pictures(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    """`count` pictures to train on and a tenth as many to score, as folders of images and masks."""
    for part, number in (("train", count), ("test", count // 10)):
        rng = np.random.default_rng((seed, part == "test"))
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            image, mask = picture(rng, side)
            Image.fromarray(image).save(folder / part / "images" / f"{i:05d}.png")
            Image.fromarray(mask.astype(np.uint8)).save(folder / part / "masks" / f"{i:05d}.png")
    return folder


def score(subject, data: Path, seed: int, size: int | None) -> dict[str, float]:
    more = f":size={size}" if size else ""
    asked = [f"{protocol}{more}" for protocol in PROTOCOLS.values()]
    found = tacit.evaluate(subject, data, protocol=asked, seed=seed, workers=0, baselines=False)["results"]
    return dict(zip(PROTOCOLS, [r["value"] for r in found], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of train/ and test/")
    parser.add_argument("--made", type=int, help="in place of --data: make so many pictures")
    parser.add_argument("--name", default="made")
    parser.add_argument("--encoder", default="vit_mini")
    parser.add_argument("--size", type=int, default=32, help="of the views, in pixels")
    parser.add_argument("--test-size", type=int, help="short side of the scored pictures; their own if not said")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"))
    options = parser.parse_args()
    data = options.data or options.out / f"made-{options.made}"
    if options.data is None and not data.is_dir():
        write_pictures(data, options.made, options.size)
    rows: dict[str, list[dict[str, float]]] = {"run": [], "random-init": []}
    for seed in options.seeds:
        run = tacit.pretrain(
            "dino", data / "train" / "images", options.out / f"{options.name}-{seed}", preset="small", seed=seed,
            encoder=options.encoder, epochs=options.epochs, workers=0, resume=True,
            set=[f"size={options.size}", f"local_size={options.size // 2}", "check_every=0", *options.set],
        )  # fmt: skip
        twin = random_twin(encoders.load(run.path), seed)
        for of, subject in (("run", run), ("random-init", twin)):
            rows[of].append(score(subject, data, seed, options.test_size))
        print(f"seed {seed}: {json.dumps({of: scores[-1] for of, scores in rows.items()})}", file=sys.stderr)
    told = []
    for name in PROTOCOLS:
        a, b = (np.array([s[name] for s in rows[of]]) for of in ("run", "random-init"))
        gain, low, high = difference(a, b) if len(a) > 1 else (float(a[0] - b[0]), np.nan, np.nan)
        told.append(
            f"{name} {100 * a.mean():.1f} and {100 * b.mean():.1f}, {100 * gain:+.1f} points "
            f"({100 * low:.1f} to {100 * high:.1f})"
        )
    note(
        f"attention of DINO on {options.name}, Jaccard index, pre-trained and random init, {len(options.seeds)} seeds: "
        f"{'; '.join(told)}"
    )


if __name__ == "__main__":
    main()
