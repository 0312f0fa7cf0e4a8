"""How well a mask follows an object: region J and boundary F as on DAVIS, and their statistics over frames."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tacit.errors import DataError


def region_j(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Jaccard index [T] of masks [T, H, W] bool; 1 where both are empty."""
    predicted, truth = _pair(predicted, truth)
    union = (predicted | truth).sum((1, 2))
    return np.where(union, (predicted & truth).sum((1, 2)) / np.maximum(union, 1), 1.0)


def boundary_f(predicted: np.ndarray, truth: np.ndarray, bound: float = 0.008) -> np.ndarray:
    """F-measure [T] of the outlines of masks [T, H, W] bool (Perazzi et al. 2016, section 5).

    An outline's pixel is met when the other outline passes within a disk of `bound` times the image's diagonal, rounded
    up; a `bound` of at least 1 is in pixels. F is 1 where both are empty and 0 where one is.
    """
    predicted, truth = _pair(predicted, truth)
    disk = bound if bound >= 1 else math.ceil(bound * math.hypot(*truth.shape[1:]))
    return np.array([_f(outline(p), outline(t), disk) for p, t in zip(predicted, truth, strict=True)])


def _f(predicted: np.ndarray, truth: np.ndarray, disk: float) -> float:
    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    # Dilation by a disk is distance within its radius; outside the box of both outlines nothing is counted.
    box = ndimage.find_objects((predicted | truth).astype(np.uint8))[0]
    predicted, truth = predicted[box], truth[box]
    precision = (ndimage.distance_transform_edt(~truth)[predicted] <= disk).mean()
    recall = (ndimage.distance_transform_edt(~predicted)[truth] <= disk).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of [H, W] that differ from the one to the right, below, or right below; the border's are not outlines."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _pair(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    if predicted.shape != truth.shape or truth.ndim != 3 or not len(truth):
        raise DataError(f"Masks [T, H, W] must agree; predicted {predicted.shape}, true {truth.shape}.")
    return predicted, truth


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, recall, decay) of an object's values [T]: recall is the share over 0.5, decay first less last quarter."""
    edges = np.floor(np.linspace(0, len(values) - 1, 5) + 0.5 + 1e-10).astype(int)  # quarters share their edges
    decay = values[: edges[1] + 1].mean() - values[edges[3] :].mean()
    return float(values.mean()), float((values > 0.5).mean()), float(decay)
