"""The main job from end to end on scikit-learn's bundled digits, read as an ordinary folder of images.

    python examples/demo.py --out runs/demo

Pre-trains MoBY on a small Swin without labels, prints k-NN and 5-shot accuracy before and after, writes a report page.
Stopped half-way, it goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import tacit
from tacit.errors import RunFailed, TacitError

SIDE = 28


def write_digits(folder: Path) -> None:
    """1,797 scanned digits of 8 x 8 pixels as PNG files: class folders under train/ and, every fourth, test/."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = folder / ("test" if number % 4 == 0 else "train") / str(label)
        part.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).astype("uint8")).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.save(part / f"{number:04d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    data, run, page = options.out / "digits", options.out / "moby", options.out / "report.html"
    if not data.is_dir():
        half = options.out / "digits.part"
        shutil.rmtree(half, ignore_errors=True)
        write_digits(half)
        half.rename(data)
    if page.is_file():  # a whole demo, of before
        shutil.rmtree(run, ignore_errors=True)
        page.unlink()

    print(f"1. Pre-training on {data / 'train'}; the labels (folder names) are not used.", file=sys.stderr)
    changes = ["patch=4", "min_area=0.4", "check_every=2"]  # a digit cut to a fifth of its area is no digit any more
    tacit.pretrain("moby", data / "train", run, preset="small", epochs=options.epochs, set=changes, resume=True)

    print("2. Probing before and after.", file=sys.stderr)
    scores = tacit.evaluate(run, data, protocol="knn,few_shot")["results"]
    names = {"knn": "20-NN", "few_shot": "5 labels a class"}
    print(f"\n{'accuracy':18}{'before':>22}{'after':>22}")
    for protocol, name in names.items():
        cells = {s["of"]: s for s in scores if s["protocol"] == protocol}
        shown = [
            f"{100 * s['value']:.1f} % ({100 * s['low']:.1f} to {100 * s['high']:.1f})"
            for s in (cells["random-init"], cells["run"])
        ]
        print(f"{name:18}{shown[0]:>22}{shown[1]:>22}")

    print("\n3. Writing the report.", file=sys.stderr)
    tacit.report(run, page, limit=600)
    print(f"Look at {page}; the encoder is in {run / 'encoder'}.")


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"Error: {error} (The demo needs no --resume.)")
    except TacitError as error:
        sys.exit(f"Error: {error}")
