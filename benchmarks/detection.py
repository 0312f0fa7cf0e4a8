"""Does pre-training help detection? Train a detector over an encoder and over its random twin, and compare their AP.

    python benchmarks/detection.py --data DIR --encoder runs/moby --preset small --seeds 0 1 2

DIR holds train/ and test/, each with images/ and annotations/*.xml (Pascal VOC) or labels/*.png (instance maps); or
give COCO files with --data and --test and their images with --images and --test-images. Both detectors have the same
schedule, seed and order of images. Intervals of a score are over test images, those of the gain over seeds. Needs
pip install 'tacit[detection]'.
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

import tacit
from tacit import encoders
from tacit.evaluation import detection, difference
from tacit.evaluation.task import random_twin
from tacit.run import write_json


def sets(options: argparse.Namespace) -> tuple[detection.DetectionSet, detection.DetectionSet]:
    """Training and test set in the same classes, cut to the first --limit and --test-limit images."""
    folders = options.data.suffix != ".json"
    train = detection.open_set(options.data / "train" if folders else options.data, options.images, masks=options.masks)
    second = options.test or options.data / "test"
    test = detection.open_set(second, options.test_images or options.images, masks=options.masks)
    test = detection.match_classes(test, train)
    for name, data in (("train", train), ("test", test)):
        print(f"{name}: {data}", file=sys.stderr)
    return train.select(range(len(train))[: options.limit]), test.select(range(len(test))[: options.test_limit])


def one(options: argparse.Namespace, encoder: encoders.Encoder, train, test, seed: int, of: str) -> dict:
    names = ("epochs", "drops", "batch_size", "lr")
    schedule = detection.preset(
        options.preset, **{k: getattr(options, k) for k in names if getattr(options, k) is not None}
    )
    torch.manual_seed(seed)  # pyramid and heads begin the same over both encoders
    model = detection.build(options.model, encoder, train, schedule, frozen=options.frozen)
    begun = time.time()

    def tell(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            print(f"seed {seed}, {of}: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr)

    history, bad = detection.train(
        model, train, schedule, seed=seed, workers=options.workers, device=options.device, progress=tell
    )
    results, unread = detection.predict(model, test, device=options.device)
    scores = {"box": detection.average_precision(detection.to_coco(test, masks=False), results, seed=seed)}
    if train.masks:
        scores["mask"] = detection.average_precision(detection.to_coco(test), results, kind="segm", seed=seed)
    for kind, s in scores.items():
        print(
            f"seed {seed} {of:11} {kind} AP {100 * s['ap']:5.2f} ({100 * s['low']:.2f} to {100 * s['high']:.2f})  "
            f"AP50 {100 * s['ap50']:5.2f}  n {s['n']}"
        )
    return {
        "seed": seed, "of": of, "minutes": round((time.time() - begun) / 60, 2), "steps": len(history),
        "loss": sum(history[-1].values()), "bad_files": bad + unread, "scores": scores,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/, or a COCO file")
    parser.add_argument("--test", type=Path, help="where the test set lies, if not in DIR/test")
    parser.add_argument("--images", type=Path, help="images of a COCO file, if not beside it")
    parser.add_argument("--test-images", type=Path)
    parser.add_argument("--encoder", required=True, help="run folder, encoder folder, timm name, or NAME:random")
    parser.add_argument("--model", choices=detection.MODELS, default="mask_rcnn")
    parser.add_argument("--masks", action="store_true", help="train and score masks too")
    parser.add_argument("--frozen", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--preset", choices=list(detection.PRESETS), default="small")
    parser.add_argument("--epochs", type=int, help="drops move with it, unless they are given")
    parser.add_argument("--drops", type=int, nargs="*")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--test-limit", type=int, help="test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for all of it")
    options = parser.parse_args()
    train, test = sets(options)
    encoder = encoders.load(options.encoder)
    rows = []
    for seed in options.seeds:
        for of, subject in (("run", encoder), ("random-init", random_twin(encoder, seed))):
            rows.append(one(options, subject, train, test, seed, of))
    for kind in rows[0]["scores"]:
        ours, theirs = (
            np.array([r["scores"][kind]["ap"] for r in rows if r["of"] == of]) for of in ("run", "random-init")
        )
        gain, low, high = difference(ours, theirs)
        print(
            f"{kind} AP over random init, {len(options.seeds)} seeds: {100 * gain:+.2f} points "
            f"({100 * low:.2f} to {100 * high:.2f})"
        )
    if options.out:
        about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        about |= {"data": options.data.name, "test": None, "images": None, "test_images": None, "out": None}
        versions = {"tacit": tacit.__version__, "torch": torch.__version__}
        write_json(options.out, {"date": f"{date.today()}", "options": about, "versions": versions, "rows": rows})
        print(json.dumps({"written": str(options.out)}), file=sys.stderr)


if __name__ == "__main__":
    main()
