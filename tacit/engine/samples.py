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
from tacit.views import View, Views, collate, field_of, finish, shown

COUNT = 8


def save_sample_views(path: Path, dataset: Views, pipelines: Sequence[View]) -> None:
    """A few records as the method sees them, for the report: `views` uint8 [V, n, H, W, C], `names` [V], and the `kind`
    of record, "image", "audio" or "video".

    Where records may lack something also `there` [V, n] bool; and of sentences, which are no pictures, the words
    `sentences` [n, L].
    """
    if (batch := _first(dataset)) is None:
        return
    finished = list(zip(finish(batch, pipelines), pipelines, strict=True))
    seen = [(view["image"], v) for view, v in finished if field_of(v.inputs) != "text"]
    there = [view["valid"].numpy() for view, v in finished if "valid" in view and field_of(v.inputs) != "text"]
    more = {"there": np.stack(there)} if there else {}
    for view, v in finished:
        if field_of(v.inputs) == "text":
            more["sentences"] = np.array([v.inputs.decode(ids) for ids in view["image"]])
    like = seen[0][0] if len({field_of(v.inputs) for _, v in seen}) == 1 else None
    pixels = [shown(x, v.inputs, like) for x, v in seen]
    if like is None:  # a film keeps its proportions, and is drawn as large as the spectrogram beside it
        height, width = pixels[0].shape[-2:]
        times = -(-max(x.shape[-2] for x in pixels) // height)
        pixels = [F.interpolate(x, size=(height * times, width * times)) for x in pixels]
    _save(path, pixels, [v.name for _, v in seen], dataset.source.fields[0], **more)


@torch.no_grad()
def save_reconstructions(path: Path, method: Method, dataset: Views) -> None:
    """What the trained method makes of the same records, in the same form; no file, if it reconstructs nothing."""
    if type(method).reconstructions is Method.reconstructions or (batch := _first(dataset)) is None:
        return
    device = next(method.parameters()).device
    views = [{k: t.to(device) for k, t in view.items()} for view in finish(batch, dataset.views)]
    training = method.training
    made = method.eval().reconstructions(views)
    method.train(training)
    if made:  # a method may reconstruct under some settings alone
        first = next(iter(made.values())).cpu()
        pixels = [shown(x.cpu(), method.encoder.inputs, first) for x in made.values()]
        _save(path, pixels, list(made), dataset.source.fields[0])


def _first(dataset: Views) -> dict[str, Any] | None:
    """A batch of the first readable records; None if there are none among the first few."""
    samples = []
    for index in range(min(len(dataset), 4 * COUNT)):
        try:
            dataset.source.check(index)
            samples.append(dataset[(0, index)])
        except BadRecord:
            continue
        if len(samples) == COUNT:
            break
    return collate(samples) if samples else None


def _save(path: Path, pixels: list[Tensor], names: list[str], kind: str, **more: np.ndarray) -> None:
    size = max((x.shape[-2:] for x in pixels), key=lambda size: size[1])  # small crops are shown as large as the others
    pixels = [F.interpolate(x, size=size) if x.shape[-2:] != size else x for x in pixels]
    views = torch.stack(pixels).permute(0, 1, 3, 4, 2).numpy()
    with atomic(path) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, views=views, names=np.array(names), kind=np.array(kind), **more)
