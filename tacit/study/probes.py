"""What the arms are scored on: classes, several labels a record, and masks, where the user has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.data import Source, open_splits
from tacit.data.targets import WORDS
from tacit.errors import DataError, UsageError
from tacit.evaluation import dense

METRICS = {"multi-class": "accuracy", "multi-label": "mAP", "segmentation": "mIoU"}


@dataclass(frozen=True)
class Probes:
    """Training and test part of each kind of labels, None where there is none; `left_out` says why, by name."""

    classes: tuple[Source, Source | None] | None
    multi: tuple[Source, Source | None] | None
    masks: tuple[dense.Segmented, dense.Segmented] | None
    paths: dict[str, str]
    left_out: dict[str, str]

    def columns(self, shots: Sequence[int]) -> list[dict[str, Any]]:
        """One a kind and number of labels: `{"name", "kind", "shots", "title"}`."""
        there = {"multi-class": self.classes, "multi-label": self.multi, "segmentation": self.masks}
        return [
            {"name": f"{kind}:{k}", "kind": kind, "shots": k, "title": f"{kind} {k}-shot {METRICS[kind]}"}
            for kind, data in there.items()
            if data is not None
            for k in shots
        ]


def open_probes(
    data: Any, test: Any, multi_label: Any, segment: str | os.PathLike | None, *, channels: int, label: str | None,
    columns: Sequence[str],
) -> tuple[Source, Probes]:  # fmt: skip
    """The records to train on, and all that there is to score by.

    Raises:
        DataError, UsageError: data that is given and cannot be used.
    """
    train, held_out = open_splits(data, test, channels=channels, labels=[label] if label else "auto")
    classes, multi, masks, left_out = None, None, None, {}
    paths = {}
    if train.labels is None:
        left_out["multi-class"] = f"{data} has no labels"
    elif held_out is not None and held_out.labels is None:
        raise DataError("The test data has no labels, and the training data has.")
    else:
        classes, paths["multi-class"] = (train, held_out), str(data)
    if multi_label is None:
        left_out["multi-label"] = "no --multi-label"
    else:
        wanted = [name if ":" in name else f"{name}:multi" for name in columns]
        multi = open_splits(multi_label, channels=channels, labels=wanted)
        kind = "none" if multi[0].targets is None else multi[0].targets.kind
        if kind != "multi":
            raise UsageError(f"--multi-label {multi_label}: needs {WORDS['multi']}, and holds {WORDS[kind]}.")
        paths["multi-label"] = str(multi_label)
    if segment is None:
        left_out["segmentation"] = "no --segment"
    else:
        masks = dense.open_segmentation(Path(segment), channels=channels)
        paths["segmentation"] = str(segment)
    return train, Probes(classes, multi, masks, paths, left_out)
