"""`copies`: which original a changed picture is a copy of, as on Copydays (DINO, section 4.2.1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tacit.encoders import Encoder, any_size, step
from tacit.errors import BadSettings, DataError
from tacit.evaluation.copy_detection import copy_detection, describe, fit_whitening
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene, one_folder
from tacit.evaluation.whole import Pictures, pictures_in, square, vectors

NEEDS = (
    "a folder with original/ and strong/, jpegqual/*/ or crops/*/, as Copydays has them, and if wanted distractors/ "
    "and whitening/"
)
PARTS = ("strong", "jpegqual", "crops")
BATCH = 32


class Set(NamedTuple):
    """Paths of each side: "original", "copies", "distractors", "whitening"; ids of the first two; what each copy's
    folder is called below the root."""

    paths: dict[str, tuple[Path, ...]]
    ids: dict[str, np.ndarray]
    folders: np.ndarray


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    root, part, key = one_folder("copies", data, test, NEEDS), options["part"], options["key"]
    sides = {"original": "original", "copies": part, "distractors": "distractors", "whitening": "whitening"}
    paths = {side: tuple(pictures_in(root / folder)) for side, folder in sides.items()}
    for side in ("original", "copies"):
        if not paths[side]:
            raise DataError(f"{root / sides[side]} holds no picture. copies needs {NEEDS}.")
    ids = {side: np.array([path.name[:key] for path in paths[side]]) for side in ("original", "copies")}
    names, counts = np.unique(ids["original"], return_counts=True)
    if counts.max() > 1:
        begin = str(names[counts.argmax()])
        raise DataError(
            f"{counts.max()} pictures of {root / 'original'} begin with {begin!r}. The first {key} characters of a "
            "name say what is a copy of what; set key to how many do."
        )
    folders = np.array([path.parent.relative_to(root).as_posix() for path in paths["copies"]])
    listed = [[path.relative_to(root).as_posix() for path in some] for some in paths.values()]
    return Opened(Set(paths, ids, folders), listed)


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    if options["size"] % step(encoder):
        raise BadSettings(
            [f"copies:size = {options['size']}: must be a multiple of {step(encoder)}, which {encoder.name} takes."]
        )


def run(
    job: Job, data: Set, *,
    part: str = "strong", size: int = 320, p: float = 4.0, k: int = 20, whiten: bool = True, key: int = 4,
) -> Found:  # fmt: skip
    """mAP of the first `k` by cosine, and how often the first is right, intervals over originals.

    Pictures are squeezed into squares of `size`; the feature is class token and generalised mean (`p`) of the patch
    tokens, whitened by what is in whitening/ where there is such a folder. The first `key` characters of a name say
    what is a copy of what.
    """
    encoder, inputs = any_size(job.encoder).to(job.device).eval(), job.encoder.inputs
    used = [side for side, paths in data.paths.items() if paths and (whiten or side != "whitening")]
    total, done = sum(len(data.paths[side]) for side in used), 0
    x: dict[str, Tensor] = {}
    index: dict[str, list[int]] = {}
    bad: list[tuple[str, str]] = []
    for side in used:
        pictures = Pictures(data.paths[side], partial(square, size=size, how=inputs.interpolation), inputs.channels)
        x[side], index[side], unread = vectors(
            lambda y: describe(encoder, y, p), pictures, inputs, device=job.device, batch_size=BATCH,
            workers=job.workers, progress=job.tell and (lambda n, _, done=done: job.tell(done + n, total)),
        )  # fmt: skip
        bad += [(f"{pictures.paths[i].parent.name}/{pictures.paths[i].name}", why) for i, why in unread]
        done += len(pictures)
    ids = {side: data.ids[side][index[side]] for side in ("original", "copies")}
    found = copy_detection(
        x["copies"], ids["copies"], x["original"], ids["original"], x.get("distractors"), k=k,
        whitening=fit_whitening(x["whitening"]) if "whitening" in x else None,
    )  # fmt: skip
    folders = data.folders[index["copies"]][found.queries]
    average = found.values["AP"]
    about = {
        "part": part, "size": size, "p": p, "k": k, "whiten": whiten, "key": key,
        "feature": "class token and GeM" if "cls" in encoder.can else "GeM", "originals": len(x["original"]),
        "distractors": len(x.get("distractors", ())), "whitened_by": len(x.get("whitening", ())),
        "by_folder": {str(f): round(float(average[folders == f].mean()), 4) for f in np.unique(folders)},
    }  # fmt: skip
    of = ids["copies"][found.queries]
    names = {"AP": "map", "R@1": "recall_at_1"}
    return Found([job.mean(names[n], v, about, of, "originals") for n, v in found.values.items()], bad)


SCENE = Scene(open_data, run, NEEDS, reads=("part", "key"), known={"part": PARTS}, check=check)
