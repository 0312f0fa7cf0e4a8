"""What average precision needs of every image, kept as one array, and the paired difference of two encoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tacit.errors import DataError
from tacit.evaluation.pooled import paired_pooled

RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision
FIELDS = ("objects", "image", "label", "score", "hit", "miss")


class Matches(NamedTuple):
    """Of one class, over all areas and at most 100 detections an image, the best score first."""

    image: np.ndarray  # [N] row of the image of each detection
    hit: np.ndarray  # [T, N] matched to an object that counts
    miss: np.ndarray  # [T, N] matched to none
    objects: np.ndarray  # [images] objects that count
    score: np.ndarray  # [N] of each detection


def weighted_ap(found: list[Matches], weight: np.ndarray, recalls: np.ndarray) -> float:
    """COCO's average precision with image i counted weight[i] times: what a set with copies of images would give."""
    values = []
    for of in found:
        total = float(of.objects @ weight)
        if total == 0:
            continue
        w = weight[of.image]
        here = w > 0
        tp, fp = (np.cumsum(x[:, here] * w[here], axis=1) for x in (of.hit, of.miss))
        precision = np.maximum.accumulate((tp / (tp + fp + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # recall that is never reached
        for t in range(len(tp)):
            values.append(padded[t, np.searchsorted(tp[t] / total, recalls, side="left")].mean())
    return float(np.mean(values)) if values else float("nan")


def pack(found: list[Matches]) -> np.ndarray:
    """The matches of C classes as an array without dimensions, of these fields; `numpy.save` takes it without pickle.

    objects [images, C]: how many there are to find; of every detection image [N], label [N] (its class, 0 to C - 1),
    score [N], and at each of T thresholds hit [N, T] and miss [N, T].
    """
    parts = {
        "objects": np.stack([of.objects for of in found], axis=1).astype(np.int32),
        "image": np.concatenate([of.image for of in found]).astype(np.int32),
        "label": np.concatenate([np.full(len(of.image), k) for k, of in enumerate(found)]).astype(np.int32),
        "score": np.concatenate([of.score for of in found]).astype(np.float64),
        "hit": np.concatenate([of.hit for of in found], axis=1).T,
        "miss": np.concatenate([of.miss for of in found], axis=1).T,
    }
    packed = np.zeros((), np.dtype([(name, part.dtype, part.shape) for name, part in parts.items()]))
    for name, part in parts.items():
        packed[name] = part
    return packed


def unpack(records: np.ndarray) -> list[Matches]:
    """The matches that `pack` made an array of. Raises `DataError` for any other array."""
    if records.dtype.names != FIELDS or records.shape != ():
        raise DataError(f"Detections are kept in the fields {', '.join(FIELDS)}, not as {records.dtype}.")
    image, label, score, hit, miss = (records[name] for name in FIELDS[1:])
    rows = [label == k for k in range(records["objects"].shape[1])]
    return [
        Matches(image[at], hit[at].T, miss[at].T, records["objects"][:, k], score[at]) for k, at in enumerate(rows)
    ]  # fmt: skip


def paired_ap(
    a: np.ndarray, b: np.ndarray, *, resamples: int = 1000, draws: int = 999, seed: int = 0
) -> tuple[float, float, float, float]:
    """Average precision of a minus that of b, its 95 % interval and p value, from `pack`ed matches on the same images.

    See `pooled.paired_pooled`: images are drawn, or exchanged, in both at once; detections of all images together are
    then ranked by their scores and precision taken anew.

    Raises:
        DataError: arrays that `pack` did not make, or of other images or objects.
    """
    of_a, of_b = unpack(a), unpack(b)
    if a["objects"].shape != b["objects"].shape or not np.array_equal(a["objects"], b["objects"]):
        raise DataError(
            f"Detections on {len(a['objects']):,} and on {len(b['objects']):,} images are not of the same images and "
            "objects, in the same order. Evaluate both encoders on one test set."
        )
    images = len(a["objects"])
    both = [_merged(x, y, images) for x, y in zip(of_a, of_b, strict=True)]

    def score(times_a: np.ndarray, times_b: np.ndarray) -> np.ndarray:
        return np.array([weighted_ap(both, np.concatenate(w), RECALLS) for w in zip(times_a, times_b, strict=True)])

    return paired_pooled(score, images, resamples=resamples, draws=draws, seed=seed)


def _merged(a: Matches, b: Matches, images: int) -> Matches:
    """The detections of both in one ranking; image i of b is called images + i."""
    image = np.concatenate([a.image, b.image])
    score = np.concatenate([a.score, b.score])
    order = np.lexsort((image, -score))  # as pycocotools ranks equal scores, by their image
    hit, miss = (np.concatenate(part, axis=1)[:, order] for part in ((a.hit, b.hit), (a.miss, b.miss)))
    called = np.concatenate([a.image, b.image + images])[order]
    return Matches(called, hit, miss, np.concatenate([a.objects, b.objects]), score[order])
