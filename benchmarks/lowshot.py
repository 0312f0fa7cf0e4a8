"""`tacit study lowshot` on real pictures: which pre-training is worth most with few labels, under one budget.

    python benchmarks/lowshot.py --data DIR --segment DIR --out OUT --set patch=8

DATA holds train.parquet and test.parquet of CIFAR-10 (columns image, label in its order of classes). What is multi-
label is what its classes have in common (TAGS): a horse is an animal, has fur and hooves. SEGMENT is laid out as for
`--protocol segment`, with maps of instances, which are read as one class beside the ground. Everything else is the
study's own, and so is the table that it prints; a line of it goes to benchmarks/results/LOG.md, the whole beside it.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from learning import subset  # beside this file
from log import LOG, note  # beside this file
from PIL import Image

import tacit

TAGS = {  # by class: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
    "animal": (2, 3, 4, 5, 6, 7), "flies": (0, 2), "fur": (3, 4, 5, 7), "hooves": (4, 7), "pet": (3, 5),
    "water": (6, 8), "wheels": (0, 1, 9),
}  # fmt: skip


def tagged(data: Path, out: Path) -> Path:
    """The same records with a column of tags in the place of their class."""
    out.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        rows = pq.read_table(data / f"{part}.parquet")
        tags = [[tag for tag, of in TAGS.items() if label in of] for label in rows.column("label").to_pylist()]
        pq.write_table(rows.select(["image"]).append_column("tags", pa.array(tags)), out / f"{part}.parquet")
    return out


def one_class(data: Path, out: Path, side: int) -> Path:
    """Pictures and their maps of instances as maps of 0 and 1, shrunk to `side` pixels."""
    for part in ("train", "test"):
        labels = next(folder for folder in (data / part / "masks", data / part / "labels") if folder.is_dir())
        for kind in ("images", "masks"):
            (out / part / kind).mkdir(parents=True, exist_ok=True)
        for file in sorted((data / part / "images").glob("*.png")):
            mask = Image.fromarray((np.asarray(Image.open(labels / file.name)) > 0).astype(np.uint8))
            mask.resize((side, side), Image.Resampling.NEAREST).save(out / part / "masks" / file.name)
            Image.open(file).convert("RGB").resize((side, side)).save(out / part / "images" / file.name)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--segment", type=Path, help="folder with train/ and test/, each of images/ and labels/")
    parser.add_argument("--side", type=int, default=64, help="of the pictures with masks")
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--encoder", default="vit_mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/lowshot"))
    options = parser.parse_args()
    data = subset(options.data, options.out / "data", options.records, options.test)
    masks = options.segment and one_class(options.segment, options.out / "masks", options.side)
    found = tacit.study(
        "lowshot", data, options.out / "study", epochs=options.epochs, seeds=options.seeds, draws=options.draws,
        encoder=options.encoder, multi_label=tagged(data, options.out / "tags"), segment=masks, set=options.set,
        workers=0,
    )  # fmt: skip
    kept = LOG.parent / f"{date.today()}-lowshot.md"
    table = (options.out / "study" / "table.md").read_text(encoding="utf-8")
    kept.write_text(table.replace(str(data), "CIFAR-10"), encoding="utf-8")
    note(
        f"low-shot study, {options.records:,} pictures, {options.epochs} epochs, {len(found['rows'])} rows, "
        f"{len(options.seeds)} seeds, {options.draws} draws: {kept.name}"
    )


if __name__ == "__main__":
    main()
