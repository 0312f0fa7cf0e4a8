"""A few records for people to look at: what the method sees of them, and what it makes of what it does not see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.engine.method import Method
from tacit.errors import BadRecord
from tacit.run import atomic
from tacit.views import Inputs, View, Views, collate, finish

COUNT = 8


def save_sample_views(path: Path, dataset: Views, pipelines: Sequence[View]) -> None:
    """A few records as the method sees them, for the report: `views` uint8 [V, n, H, W, C] and `names` [V]."""
    if (batch := _first(dataset)) is None:
        return
    views = [v["image"] for v in finish(batch, pipelines)]
    _save(path, [_pixels(x, v.inputs) for x, v in zip(views, pipelines, strict=True)], [v.name for v in pipelines])


@torch.no_grad()
def save_reconstructions(path: Path, method: Method, dataset: Views) -> None:
    """What the trained method makes of the same records, in the same form; no file, if it reconstructs nothing."""
    if type(method).reconstructions is Method.reconstructions or (batch := _first(dataset)) is None:
        return
    device = next(method.parameters()).device
    views = [{k: t.to(device) for k, t in view.items()} for view in finish(batch, dataset.views)]
    training = method.training
    shown = method.eval().reconstructions(views)
    method.train(training)
    if shown:  # a method may reconstruct under some settings alone
        _save(path, [_pixels(x.cpu(), method.encoder.inputs) for x in shown.values()], list(shown))


def _first(dataset: Views) -> dict[str, Any] | None:
    """A batch of the first readable records; None if there are none among the first few."""
    samples = []
    for index in range(min(len(dataset), 4 * COUNT)):
        try:
            dataset.source[index]["image"].array()
            samples.append(dataset[(0, index)])
        except BadRecord:
            continue
        if len(samples) == COUNT:
            break
    return collate(samples) if samples else None


def _pixels(x: Tensor, inputs: Inputs) -> Tensor:
    """Inputs of an encoder [n, C, H, W] as pixels, uint8."""
    mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (inputs.mean, inputs.std))
    return ((x.float() * std + mean).clamp(0, 1) * 255).round().byte()


def _save(path: Path, shown: list[Tensor], names: list[str]) -> None:
    side = max(x.shape[-1] for x in shown)  # small crops are shown as large as the others
    shown = [F.interpolate(x, size=(side, side)) if x.shape[-1] != side else x for x in shown]
    with atomic(path) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, views=torch.stack(shown).permute(0, 1, 3, 4, 2).numpy(), names=np.array(names))
