"""Scores of a segmentation from confusion matrices, and their intervals by the bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tacit.errors import DataError, Unknown
from tacit.evaluation.dense.masks import IGNORE
from tacit.evaluation.intervals import LEVEL
from tacit.evaluation.pooled import paired_pooled


def confusion(predicted: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes] int64, a row for each true class and a column for each predicted one.

    Args:
        predicted, target: class numbers of one shape; pixels whose target is `IGNORE` are not counted.

    Raises:
        DataError: shapes that differ, or numbers that are no class.
    """
    predicted, target = np.asarray(predicted), np.asarray(target)
    if predicted.shape != target.shape:
        raise DataError(f"The prediction is {list(predicted.shape)} and the mask {list(target.shape)}.")
    known = target != IGNORE
    p, t = predicted[known].astype(np.int64), target[known].astype(np.int64)
    for name, values in (("prediction", p), ("mask", t)):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            raise DataError(f"The {name} holds {values.min()} to {values.max()}; classes are 0 to {classes - 1}.")
    return np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union [..., classes] of matrices [..., classes, classes]; NaN for a class that occurs neither
    in the masks nor in the predictions."""
    hit, true, said = _areas(matrix)
    return _ratio(hit, true + said - hit)


def miou(matrix: np.ndarray) -> np.ndarray:
    """Mean IoU [...] over the classes that occur in the masks or the predictions; NaN where none does."""
    return _mean(iou(matrix))


def pixel_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share [...] of the labelled pixels that are right."""
    hit, true, _ = _areas(matrix)
    return _ratio(hit.sum(-1), true.sum(-1))


def mean_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Mean recall [...] over the classes that occur in the masks."""
    hit, true, _ = _areas(matrix)
    return _mean(_ratio(hit, true))


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "miou": miou,
    "pixel_accuracy": pixel_accuracy,
    "mean_accuracy": mean_accuracy,
}


def with_intervals(
    matrices: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Every metric of the summed matrices [N, K, K], with the 95 % percentile interval over images drawn again.

    Returns:
        metric -> (value, low, high). The value is that of all images together, as usual for mIoU, not a mean over them.
    """
    drawn = _resampled(_checked(matrices), resamples, seed)
    found = {}
    for name, metric in METRICS.items():
        low, high = np.nanquantile(metric(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found[name] = (float(metric(matrices.sum(0, dtype=np.float64))), float(low), float(high))
    return found


def counts(matrices: np.ndarray) -> np.ndarray:
    """What the metrics need of matrices [N, K, K]: [N, K, 3] of the same type, a class's pixels that are right
    (intersection), that were predicted, and that are true."""
    hit, true, said = (np.asarray(part, matrices.dtype) for part in _areas(matrices))
    return np.stack([hit, said, true], axis=-1)


def paired_miou(
    a: np.ndarray, b: np.ndarray, *, metric: str = "miou", resamples: int = 2000, draws: int = 1999, seed: int = 0
) -> tuple[float, float, float, float]:
    """Pooled metric of a minus that of b, its 95 % interval and p value, from `counts` [N, K, 3] of the same images.

    See `pooled.paired_pooled`: images are drawn, or exchanged, in both at once, and counts are summed before the metric
    is taken.

    Raises:
        DataError: counts of other images, or of masks that differ. Unknown: no such metric.
    """
    if metric not in METRICS:
        raise Unknown("segmentation metric", metric, METRICS)
    a, b = _pair(a, b)
    images, classes = a.shape[:2]
    of_a, of_b = (c.reshape(images, -1).astype(np.float64) for c in (a, b))

    def score(times_a: np.ndarray, times_b: np.ndarray) -> np.ndarray:
        sums = sum(times @ of for times, of in ((times_a, of_a), (times_b, of_b)) if times.any())
        return METRICS[metric](np.reshape(sums, (-1, classes, 3)).view(_Counts))

    return paired_pooled(score, images, resamples=resamples, draws=draws, seed=seed)


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, metric: str = "miou", resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Metric of `first` minus that of `second` with its 95 % interval, matrices [N, K, K] of the same images."""
    if first.shape != second.shape:
        raise DataError(f"Matrices {list(first.shape)} and {list(second.shape)} are not of the same images.")
    a, b = (counts(_checked(m)) for m in (first, second))
    return paired_miou(a, b, metric=metric, resamples=resamples, draws=1, seed=seed)[:3]


class _Counts(np.ndarray):
    """[..., K, 3]: hits, predicted and true pixels, all that the metrics need of a matrix."""


def _areas(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, true and predicted pixels [..., K]."""
    if isinstance(matrix, _Counts):
        plain = matrix.view(np.ndarray)
        return plain[..., 0], plain[..., 2], plain[..., 1]
    m = np.asarray(matrix, dtype=np.float64)
    return np.diagonal(m, axis1=-2, axis2=-1), m.sum(-1), m.sum(-2)


def _resampled(matrices: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over as many images as there are, drawn with replacement, `resamples` times."""
    n = len(matrices)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.tensordot(times.astype(np.float64), counts(matrices).astype(np.float64), axes=1).view(_Counts)


def _checked(matrices: np.ndarray) -> np.ndarray:
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or not len(matrices):
        raise DataError(f"Matrices must be [images, classes, classes], one image or more, not {list(matrices.shape)}.")
    if not matrices.sum():
        raise DataError(f"None of the {len(matrices):,} masks has a labelled pixel.")
    return matrices


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    for c in (a, b):
        if c.ndim != 3 or c.shape[2] != 3 or not len(c):
            raise DataError(f"Counts must be [images, classes, 3], one image or more, not {list(c.shape)}.")
    if a.shape != b.shape or not np.array_equal(a[..., 2], b[..., 2]):
        raise DataError(
            f"Counts {list(a.shape)} and {list(b.shape)} are not of the same images and masks, in the same order. "
            "Evaluate both encoders on one test set."
        )
    if not a[..., 2].any():
        raise DataError(f"None of the {len(a):,} masks has a labelled pixel.")
    return a, b


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(-1), there.sum(-1))
