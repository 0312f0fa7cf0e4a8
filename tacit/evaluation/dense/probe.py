"""An encoder against a segmented set by one protocol: a confusion matrix an image, and scores with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import BadRecord, BadSettings, DataError, Unknown, UsageError
from tacit.evaluation.dense import metrics
from tacit.evaluation.dense.finetune import PRESETS, FineTune, check, finetune
from tacit.evaluation.dense.grids import Grids, grids
from tacit.evaluation.dense.heads import Linear, predict, swept, upsample
from tacit.evaluation.dense.inference import segment_picture
from tacit.evaluation.dense.masks import Segmented, check_same_classes
from tacit.evaluation.dense.patch_knn import PatchKnn, build_bank, vote
from tacit.evaluation.task import Score
from tacit.precision import resolved
from tacit.settings import problems, to_dict

Progress = Callable[[int, int], None]
PROTOCOLS: dict[str, type] = {"linear": Linear, "patch_knn": PatchKnn, "upernet": FineTune}


@dataclass(frozen=True)
class Segmentation:
    """scores: of mIoU, pixel accuracy and mean class accuracy, with `metrics.counts` [N, K, 3] as the records of each;
    matrices: [N, K, K] of the test images `names`, rows the true classes; class_iou: [K], NaN for a class that does not
    occur; bad: (name, reason) of what was left out."""

    scores: list[Score]
    matrices: np.ndarray
    names: list[str]
    class_iou: np.ndarray
    bad: list[tuple[str, str]]


def segment(
    encoder: Encoder,
    train: Segmented,
    test: Segmented,
    *,
    protocol: str = "linear",
    settings: Linear | PatchKnn | FineTune | None = None,
    seed: int = 0,
    of: str = "run",
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    precision: str = "auto",
    checkpoint: Path | None = None,
) -> Segmentation:
    """Segment the images of `test` after learning from `train`; every mask is scored at its own size.

    Args:
        encoder: of any size; it is copied and stays as it is.
        protocol: "linear": a 1x1 convolution on frozen features; "patch_knn": the votes of the nearest patches;
            "upernet": fine-tuning end to end (preset `small` unless `settings` say otherwise).
        settings: of the protocol: `Linear`, `PatchKnn` or `FineTune`.
        seed: of the held-out images, the bank, the fresh weights and the crops, and of the intervals.
        progress: called with (done, in all) of what takes time: images, or steps of fine-tuning.
        precision, checkpoint: of fine-tuning, see `finetune`; features and tests are in fp32.

    Raises:
        Unknown: no such protocol. BadSettings: settings that cannot work. UsageError: the encoder cannot take the size,
        or the two parts differ in classes. DataError: masks or files that cannot be used.
    """
    if protocol not in PROTOCOLS:
        raise Unknown("segmentation protocol", protocol, PROTOCOLS)
    s = settings or (PRESETS["small"] if protocol == "upernet" else PROTOCOLS[protocol]())
    if not isinstance(s, PROTOCOLS[protocol]):
        raise UsageError(f"{protocol} takes settings of {PROTOCOLS[protocol].__name__}, not {type(s).__name__}.")
    if found := problems(s):
        raise BadSettings(found)
    check_same_classes(train, test)
    if train.channels != encoder.inputs.channels:
        raise UsageError(
            f"The encoder takes {encoder.inputs.channels} channels and the images were opened with {train.channels}."
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    common = {"seed": seed, "workers": workers, "device": device, "progress": progress}
    if protocol == "upernet":
        found = _upernet(encoder, train, test, s, precision=precision, checkpoint=checkpoint, **common)
    else:
        found = _frozen(encoder, train, test, s, **common)
    matrices, index, bad, more = found
    if not len(matrices):
        raise DataError(
            f"None of the {len(test):,} records of {test.title} can be read; the last: {': '.join(bad[-1])}."
        )
    about, records = {**to_dict(s), **more}, metrics.counts(matrices)
    scores = [
        Score(protocol, name, *numbers, n=len(matrices), of=of, settings=about, records=records)
        for name, numbers in metrics.with_intervals(matrices, seed=seed).items()
    ]
    bad = [*train.skipped, *test.skipped, *bad]
    return Segmentation(scores, matrices, [test.names[i] for i in index], metrics.iou(matrices.sum(0)), bad)


def segment_few(
    encoder: Encoder, train: Segmented, test: Segmented, drawn: Sequence[np.ndarray], *,
    settings: Linear | PatchKnn | None = None, seed: int = 0, workers: int = 0,
    device: torch.device | str | None = None, progress: Progress | None = None,
) -> tuple[list[np.ndarray], list[tuple[str, str]]]:  # fmt: skip
    """Confusion matrices [N, K, K] of the test images for every draw of labelled images, and what was left out.

    Args:
        drawn: rows of `train` to learn from; features are computed once for all draws.
        settings: of the frozen head.

    Raises:
        As `segment`, and DataError for a draw of which no image can be read.
    """
    s = settings or Linear()
    check_same_classes(train, test)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    first, second, _ = _grids(encoder, train, test, s, workers=workers, device=device, progress=progress)
    found = []
    for rows in drawn:
        kept = torch.from_numpy(np.isin(first.index, rows))
        if not kept.any():
            raise DataError(f"None of the {len(rows)} labelled images that were drawn can be read.")
        few = Grids(first.x[kept], first.y[kept], first.index[kept.numpy()], first.bad)
        classes_at, _ = _learned(few, train.classes, s, seed=seed, device=device)
        found.append(_score(second, test, classes_at, None))
    return found, [*train.skipped, *test.skipped, *first.bad, *second.bad]


def _frozen(
    encoder: Encoder, train: Segmented, test: Segmented, s: Linear | PatchKnn, *, seed: int, **how: Any
) -> tuple[np.ndarray, list[int], list[tuple[str, str]], dict[str, Any]]:
    first, second, size = _grids(encoder, train, test, s, **how)
    classes_at, more = _learned(first, train.classes, s, seed=seed, device=how["device"])
    matrices = _score(second, test, classes_at, how["progress"])
    return matrices, second.index.tolist(), first.bad + second.bad, {"size": size, **more}


def _grids(
    encoder: Encoder, train: Segmented, test: Segmented, s: Linear | PatchKnn, **how: Any
) -> tuple[Grids, Grids, int]:
    """Features of both parts, and the side of the inputs they are of."""
    size = s.size or encoder.inputs.size
    made = encoders.any_size(encoder)
    first, second = (grids(made, part, size=size, levels=s.levels, **how) for part in (train, test))
    return first, second, size


def _learned(
    first: Grids, classes: int, s: Linear | PatchKnn, *, seed: int, device: torch.device
) -> tuple[Callable, dict[str, Any]]:
    """What names the classes of features [1, D, h, w] at a shape, learned from `first`; and what was chosen."""
    if isinstance(s, Linear):
        head, chosen = swept(first.x, first.y, classes, s, seed=seed, device=device)
        return lambda x, shape: predict(head, x, shape, device), {"chosen": chosen}
    bank, labels = (part.to(device) for part in build_bank(first.x, first.y, classes, s.bank, seed))

    def classes_at(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        votes = vote(bank, labels, x.to(device), k=s.k, temperature=s.temperature)
        return upsample(votes, shape).argmax(1).cpu()

    return classes_at, {"patches": len(bank)}


def _score(found: Grids, test: Segmented, classes_at: Callable, progress: Progress | None) -> np.ndarray:
    """Confusion matrices [N, K, K] int32, each mask at its own size."""
    matrices = np.zeros((len(found.index), test.classes, test.classes), np.int32)
    for row, i in enumerate(found.index.tolist()):
        mask = test.mask(i)
        predicted = classes_at(found.x[row : row + 1], mask.shape)[0].numpy()
        matrices[row] = metrics.confusion(predicted, mask, test.classes)
        if progress is not None:
            progress(row + 1, len(found.index))
    return matrices


def _upernet(
    encoder: Encoder, train: Segmented, test: Segmented, s: FineTune, *, seed: int, workers: int, device: torch.device,
    progress: Progress | None, precision: str, checkpoint: Path | None,
) -> tuple[np.ndarray, list[int], list[tuple[str, str]], dict[str, Any]]:  # fmt: skip
    check(s)
    precision = resolved(precision, device)
    model, losses, bad = finetune(
        encoder, train, s, seed=seed, workers=workers, device=device, progress=progress, precision=precision,
        checkpoint=checkpoint,
    )  # fmt: skip
    matrices, index = [], []
    for i in range(len(test)):
        try:
            picture, mask = test[i]
            predicted = segment_picture(model, picture, s, device)
        except BadRecord as error:
            bad.append((test.names[i], str(error)))
            continue
        matrices.append(metrics.confusion(predicted, mask, test.classes).astype(np.int32))
        index.append(i)
    tenth = max(len(losses) // 10, 1)
    return np.array(matrices), index, bad, {"loss": float(np.mean(losses[-tenth:])), "precision": precision}
