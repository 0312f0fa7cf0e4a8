"""COCO average precision of boxes and masks through pycocotools, with a 95 % interval over images."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np

from tacit.errors import DataError, MissingExtra, UsageError
from tacit.evaluation.detection.records import RECALLS, Matches, pack, weighted_ap
from tacit.evaluation.intervals import LEVEL

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium",
         "ar_large")  # fmt: skip


def average_precision(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    *,
    kind: str = "bbox",
    resamples: int = 1000,
    seed: int = 0,
    keep: bool = False,
) -> dict[str, Any]:
    """COCO's twelve numbers, as fractions, and the interval of the first.

    Args:
        truth: a COCO document, as `coco.to_coco` makes. results: COCO results, as `predict` makes; may be empty.
        kind: "bbox" or "segm".
        resamples: how often images are drawn again with replacement for the interval; 0 for none.
        keep: give the matches too, as "records": an array for `records.paired_ap`.

    Matching is pycocotools' and done once; a resample only counts each image's matches as often as it was drawn.

    Returns:
        `{"ap": …, "ap50": …, …, "ar_large": …, "low": …, "high": …, "n": images, "classes": {name: ap}}`; NaN where
        there is no such object, as pycocotools says -1.

    Raises:
        MissingExtra: pycocotools is not installed. UsageError: no such kind. DataError: nothing to find, or results
            for images that are not in `truth`, or without masks.
    """
    if kind not in ("bbox", "segm"):
        raise UsageError(f"kind = {kind!r}: average precision is of boxes (bbox) or masks (segm).")
    scorer = _matched(truth, results, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        scorer.accumulate()
        scorer.summarize()
    numbers = {name: float(v) if v >= 0 else float("nan") for name, v in zip(NAMES, scorer.stats, strict=True)}
    precision = scorer.eval["precision"][:, :, :, 0, -1]  # [T, R, K]
    names = {c["id"]: c.get("name", str(c["id"])) for c in truth["categories"]}
    classes = {
        names[c]: float(precision[:, :, k].mean()) if (precision[:, :, k] >= 0).all() else float("nan")
        for k, c in enumerate(scorer.params.catIds)
    }
    found = matches(scorer)
    low, high = interval(found, RECALLS, resamples=resamples, seed=seed)
    about = {**numbers, "low": low, "high": high, "n": len(scorer.params.imgIds), "classes": classes}
    return about | {"records": pack(found)} if keep else about


def _matched(truth: dict[str, Any], results: list[dict[str, Any]], kind: str):
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtra("Detection (COCO masks, average precision)", "pycocotools", "detection") from error
    if not any(not a.get("iscrowd") for a in truth["annotations"]):
        raise DataError("There is no object to find, so there is no average precision.")
    ids = {image["id"] for image in truth["images"]}
    for result in results:
        if result["image_id"] not in ids:
            raise DataError(f"There are results for the image {result['image_id']!r}, which is not in the truth.")
        if kind == "segm" and not result.get("segmentation"):
            raise DataError(f"The results for the image {result['image_id']!r} hold no masks; score kind='bbox'.")
    drop = "bbox" if kind == "segm" else "segmentation"  # of masks, the mask's area says which are small
    rows = [{k: v for k, v in r.items() if k != drop} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        gt, dt = COCO(), COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        if rows:
            dt = gt.loadRes(rows)
        else:
            dt.dataset = {**gt.dataset, "annotations": []}
            dt.createIndex()
        scorer = COCOeval(gt, dt, kind)
        scorer.evaluate()
    return scorer


def matches(scorer) -> list[Matches]:
    """pycocotools' matches of every class, from an evaluated `COCOeval`."""
    p = scorer._paramsEval
    images, areas = len(p.imgIds), len(p.areaRng)
    found = []
    for k in range(len(p.catIds)):
        start = k * areas * images  # all areas come first
        rows = [(i, e) for i, e in enumerate(scorer.evalImgs[start : start + images]) if e is not None]
        objects = np.zeros(images, dtype=np.int64)
        for i, e in rows:
            objects[i] = np.count_nonzero(np.asarray(e["gtIgnore"]) == 0)
        score = np.concatenate([np.zeros(0), *(e["dtScores"] for _, e in rows)])
        order = np.argsort(-score, kind="mergesort")
        image = np.concatenate([np.zeros(0, int), *(np.full(len(e["dtScores"]), i) for i, e in rows)])[order]
        empty = np.zeros((len(p.iouThrs), 0), dtype=bool)
        match = np.concatenate([empty, *(np.asarray(e["dtMatches"]) > 0 for _, e in rows)], axis=1)[:, order]
        ignore = np.concatenate([empty, *(np.asarray(e["dtIgnore"], dtype=bool) for _, e in rows)], axis=1)[:, order]
        found.append(Matches(image, match & ~ignore, ~match & ~ignore, objects, score[order]))
    return found


def interval(found: list[Matches], recalls: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the average precision, images drawn again with replacement."""
    rng = np.random.default_rng(seed)
    n = len(found[0].objects) if found else 0
    draws = [
        weighted_ap(found, np.bincount(rng.integers(n, size=n), minlength=n), recalls) for _ in range(resamples)
    ]  # fmt: skip
    draws = [d for d in draws if np.isfinite(d)]  # a resample may hold no object
    if not draws:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
