"""`revisited`: retrieval on revisited Oxford and Paris, or any set with their ground truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tacit.encoders import Encoder, any_size, step
from tacit.errors import BadSettings, DataError
from tacit.evaluation import choices
from tacit.evaluation.copy_detection import SCALES, multi_scale
from tacit.evaluation.retrieval import rank
from tacit.evaluation.revisited import LEVELS, Truth, read_revisited, revisited
from tacit.evaluation.scenes.scene import Found, Job, Opened, Scene, one_folder
from tacit.evaluation.whole import Pictures, pictures_in, shrunk, vectors

NEEDS = "a folder with jpg/ and one ground truth, gnd_NAME.json or the published gnd_NAME.pkl"


class Set(NamedTuple):
    truth: Truth
    images: tuple[Path, ...]  # as truth.images
    queries: tuple[Path, ...]


def open_data(data: Path, test: Path | None, encoder: Encoder, options: dict[str, Any]) -> Opened:
    root = one_folder("revisited", data, test, NEEDS)
    found = sorted(root.glob("gnd*.json")) or sorted(root.glob("gnd*.pkl"))
    if len(found) != 1 or not (root / "jpg").is_dir():
        had = ", ".join(path.name for path in found) or "no gnd_*"
        raise DataError(f"{root} must be {NEEDS}; it holds {had} and {'a' if (root / 'jpg').is_dir() else 'no'} jpg/.")
    truth = read_revisited(found[0])
    there: dict[str, Path] = {}
    for path in pictures_in(root / "jpg"):
        name = path.relative_to(root / "jpg")
        there |= {name.as_posix(): path, name.with_suffix("").as_posix(): path}
    wanted = [*truth.images, *truth.queries]
    if lost := [name for name in wanted if name not in there]:
        raise DataError(f"{root / 'jpg'} lacks {len(lost):,} of the {len(wanted):,} pictures of {found[0].name}: "
                        f"{', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}.")  # fmt: skip
    lists = zip(truth.queries, truth.easy, truth.hard, truth.junk, truth.boxes, strict=True)
    about = [f"{name} {[part.tolist() for part in parts]} {box}" for name, *parts, box in lists]
    images, queries = (tuple(there[name] for name in names) for names in (truth.images, truth.queries))
    return Opened(Set(truth, images, queries), [truth.images, about])


def check(encoder: Encoder, options: dict[str, Any]) -> None:
    choices.check(encoder, [options["feature"]])
    if options["scales"] > len(SCALES):
        raise BadSettings([f"revisited:scales = {options['scales']}: must be 1, or 3 for 1, 0.71 and 0.5."])


def run(
    job: Job, data: Set, *,
    imsize: int = 224, scales: int = 1, crop: bool = True, feature: str = "pooled", hits: tuple = (1, 5, 10),
) -> Found:  # fmt: skip
    """mAP and mP@k at each level of difficulty by cosine, intervals over queries (Radenović et al. 2018; DINO).

    Images come whole, one by one, their long side at most `imsize`; the mean of the features at `scales` sizes. With
    `crop` a query is the part in its box, at the scale that all of its image would have.
    """
    encoder, inputs = any_size(job.encoder).to(job.device).eval(), job.encoder.inputs
    how = {"long": imsize, "unit": step(encoder), "how": inputs.interpolation}
    sides = {
        "images": partial(shrunk, **how),
        "queries": partial(shrunk, **how, boxes=data.truth.boxes if crop else None),
    }
    total, done, x = len(data.images) + len(data.queries), 0, {}
    for side, cut in sides.items():
        pictures = Pictures(getattr(data, side), cut, inputs.channels)
        x[side], _, bad = vectors(
            lambda y: multi_scale(
                encoder, y, SCALES[:scales], lambda e, y: choices.choose(e, y, (feature,))[feature]
            ),
            pictures, inputs, device=job.device, workers=job.workers,
            progress=job.tell and (lambda n, _, done=done: job.tell(done + n, total)),
        )  # fmt: skip
        if bad:
            raise DataError(
                f"{pictures.paths[bad[0][0]]} cannot be used: {bad[0][1]} ({len(bad)} such). The ranking must be of "
                "all pictures."
            )
        done += len(pictures)
    order = rank(x["queries"], x["images"])
    about = {"imsize": imsize, "scales": scales, "crop": crop, "feature": feature, "gallery": len(data.images)}
    scores, skipped = [], {}
    for level, (positives, _) in LEVELS.items():
        if not any(len(part) for name in positives for part in getattr(data.truth, name)):
            skipped[level] = f"no query has a positive that is {' or '.join(positives)}"
            continue
        found = revisited(order, data.truth, level, hits=hits)
        names = {"AP": f"map_{level}"} | {f"P@{k}": f"precision_at_{k}_{level}" for k in hits}
        scores += [job.mean(names[name], values, about) for name, values in found.values.items()]
    if not scores:
        raise DataError("No query of the ground truth has a positive; there is nothing to score.")
    return Found(scores, [], skipped)


SCENE = Scene(open_data, run, NEEDS, check=check)
