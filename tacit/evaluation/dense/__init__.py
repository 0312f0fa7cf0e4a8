"""Semantic segmentation: images with masks, frozen and fine-tuned protocols, mIoU with intervals over images."""

from tacit.evaluation.dense.finetune import MULTI_SCALE, PRESETS, FineTune, finetune
from tacit.evaluation.dense.heads import Linear
from tacit.evaluation.dense.layouts import open_segmentation
from tacit.evaluation.dense.masks import IGNORE, Segmented, classes_in
from tacit.evaluation.dense.metrics import (
    METRICS,
    confusion,
    counts,
    iou,
    miou,
    paired_difference,
    paired_miou,
    with_intervals,
)
from tacit.evaluation.dense.patch_knn import PatchKnn
from tacit.evaluation.dense.probe import PROTOCOLS, Segmentation, segment, segment_few
from tacit.evaluation.dense.upernet import UPerNet

__all__ = [
    "IGNORE",
    "METRICS",
    "MULTI_SCALE",
    "PRESETS",
    "PROTOCOLS",
    "FineTune",
    "Linear",
    "PatchKnn",
    "Segmentation",
    "Segmented",
    "UPerNet",
    "classes_in",
    "confusion",
    "counts",
    "finetune",
    "iou",
    "miou",
    "open_segmentation",
    "paired_difference",
    "paired_miou",
    "segment",
    "segment_few",
    "with_intervals",
]
