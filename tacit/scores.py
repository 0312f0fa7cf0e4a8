"""How scores are read: which are shares, and of which less is better. For every room that shows one."""

from __future__ import annotations

from typing import Any

LOWER = frozenset(["mae", "rmse", "nmad", "brier", "ece", "uniformity", "eer", "min_dcf", "median_rank"])
SHARES = frozenset(
    [
        "top1", "mean_per_class", "accuracy", "map", "average_precision", "sensitivity", "specificity",
        "balanced_accuracy", "miou", "pixel_accuracy", "mean_accuracy", "box_ap", "mask_ap", "jaccard", "jf_mean",
        "j_mean", "f_mean", "segment_f1", "segment_f1_macro", "event_f1", "event_f1_macro",
        "eer", "weighted_accuracy", "weighted_f1", "acc2", "acc2_without_0", "acc5", "acc7",
    ]
)  # fmt: skip


def sign(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in LOWER else 1


def is_share(metric: str) -> bool:
    """Whether a metric is said in per cent."""
    return metric in SHARES or metric.startswith(("recall_at_", "precision_at_", "map_"))


def shown(score: dict[str, Any], which: str = "value") -> str:
    """`41.2 %`, or `0.412` for what is no share."""
    return f"{100 * score[which]:.1f} %" if is_share(score["metric"]) else f"{score[which]:.3f}"


def interval(score: dict[str, Any]) -> str:
    """`38.1 to 44.5`, without a second per cent sign."""
    if is_share(score["metric"]):
        return f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
    return f"{score['low']:.3f} to {score['high']:.3f}"
