"""Do features segment? An encoder and its random twins under one protocol and schedule, mIoU with intervals.

    python benchmarks/segmentation.py --data DIR --encoder RUN --protocols linear,patch_knn --size 64 --foreground

DIR is laid out as ADE20K, VOC or plainly (train/ and test/ with images/ and masks/ or labels/). RUN is a run folder, an
encoder folder or a name. Every seed draws a twin with fresh weights, the held-out images, the heads and the crops. The
interval of one score is over the test images, that of the gain by Student's t over the seeds, or, of one seed, over the
test images, drawn together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import torch

from tacit import encoders
from tacit.evaluation import difference
from tacit.evaluation.dense import MULTI_SCALE, PRESETS, PROTOCOLS, open_segmentation, paired_difference, segment
from tacit.evaluation.dense.masks import Segmented
from tacit.evaluation.task import random_twin
from tacit.settings import with_assignments


def settings_for(protocol: str, options: argparse.Namespace):
    """The preset or defaults, the size where one is given, and the assignments that this protocol knows."""
    s = PRESETS[options.preset] if protocol == "upernet" else PROTOCOLS[protocol]()
    if options.size and protocol == "upernet":
        s = replace(s, crop=options.size, short=options.size, long=4 * options.size)
    elif options.size:
        s = replace(s, size=options.size)
    if options.multi_scale and protocol == "upernet":
        s = replace(s, **MULTI_SCALE)
    known = asdict(s)
    return with_assignments(s, [item for item in options.set if item.partition("=")[0].replace("-", "_") in known])


def some(source: Segmented, count: int | None) -> Segmented:
    """`count` records, evenly spread."""
    return (
        source
        if not count or count >= len(source)
        else source.select(np.linspace(0, len(source) - 1, count).astype(int))
    )


def compare(protocol: str, train: Segmented, test: Segmented, options: argparse.Namespace) -> dict:
    s, encoder = settings_for(protocol, options), encoders.load(options.encoder)
    rows: dict[str, list[float]] = {"run": [], "random-init": []}
    matrices = {}
    for seed in options.seeds:
        for of, subject in (("run", encoder), ("random-init", random_twin(encoder, seed))):
            begun = time.time()
            found = segment(
                subject, train, test, protocol=protocol, settings=s, seed=seed, of=of, workers=options.workers
            )
            scores = {score.metric: score for score in found.scores}
            rows[of].append(scores["miou"].value)
            matrices[of] = found.matrices
            words = ", ".join(
                f"{m} {100 * v.value:.1f} ({100 * v.low:.1f} to {100 * v.high:.1f})" for m, v in scores.items()
            )
            print(f"{protocol}, {of}, seed {seed}: {words}; {time.time() - begun:.0f} s", file=sys.stderr)
    if len(options.seeds) > 1:
        gain, low, high = difference(np.array(rows["run"]), np.array(rows["random-init"]))
        over = f"{len(options.seeds)} seeds"
    else:
        gain, low, high = paired_difference(matrices["run"], matrices["random-init"])
        over = f"{len(test)} test images of one seed"
    print(
        f"{protocol}: run {100 * np.mean(rows['run']):.1f}, random init {100 * np.mean(rows['random-init']):.1f}, "
        f"gain {100 * gain:+.1f} points of mIoU ({100 * low:.1f} to {100 * high:.1f}) over {over}"
    )
    return {"protocol": protocol, "miou": rows, "gain": gain, "low": low, "high": high, "left_out": found.bad}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images with masks")
    parser.add_argument("--encoder", required=True, help="run folder, encoder folder, timm name or NAME:random")
    parser.add_argument("--layout", default="auto", choices=["auto", "ade20k", "voc", "plain"])
    parser.add_argument("--classes", type=int, default=None)
    parser.add_argument("--foreground", action="store_true", help="every value but 0 is one class (instance maps)")
    parser.add_argument("--protocols", default="linear,patch_knn")
    parser.add_argument("--preset", default="small", choices=list(PRESETS), help="of upernet")
    parser.add_argument("--multi-scale", action="store_true", help="test upernet at ratios .5 to 1.75 with flips")
    parser.add_argument("--size", type=int, default=None, help="side of the images, or of the crops of upernet")
    parser.add_argument("--train", type=int, default=None, help="so many training images")
    parser.add_argument("--test", type=int, default=None, help="so many test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="of the protocols that know it"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
    channels = encoders.load(options.encoder).inputs.channels
    train, test = open_segmentation(
        options.data, layout=options.layout, classes=options.classes, foreground=options.foreground, channels=channels
    )
    train, test = some(train, options.train), some(test, options.test)
    print(f"{len(train):,} training and {len(test):,} test images, {train.classes} classes", file=sys.stderr)
    results = [compare(protocol, train, test, options) for protocol in options.protocols.split(",")]
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
