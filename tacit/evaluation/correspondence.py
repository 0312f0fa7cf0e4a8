"""Do regions find themselves again in a mirrored, recoloured, grey copy of the image (EsViT, section 4.3)?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder, token_grid
from tacit.errors import DataError, UsageError
from tacit.views import Crop, Inputs, Plain, rng

JITTER = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue, with chance 0.8, as in EsViT's analysis


@dataclass(frozen=True)
class Correspondence:
    """accuracy: [N] share of pairs that are right; distance: [N] mean pixels off; index: [N] the records' numbers;
    chance: accuracy of random matches; bad: (name, reason) of unreadable records."""

    accuracy: np.ndarray
    distance: np.ndarray
    index: np.ndarray
    chance: float
    bad: list[tuple[str, str]]


def matches(first: Tensor, second: Tensor, *, top: int = 10) -> tuple[Tensor, Tensor]:
    """The `top` most similar pairs of a region of the first view and its nearest (cosine) region of the second.

    Args:
        first, second: [B, h, w, D]. Grids of fewer than `top` regions give all of theirs.

    Returns:
        Regions of the first view, and of the second, [B, top] each, numbered row by row; most similar pair first.

    Raises:
        DataError: shapes that do not match, or features that are not numbers.
    """
    if first.ndim != 4 or first.shape != second.shape or not first.numel():
        raise DataError(f"Grids {list(first.shape)} and {list(second.shape)} must both be [B, h, w, D].")
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise DataError("The features of some regions are not numbers: the encoder is broken.")
    if top < 1:
        raise UsageError(f"top = {top}: must be at least 1.")
    a, b = (F.normalize(x.float().flatten(1, 2), dim=2) for x in (first, second))
    similarity, nearest = (a @ b.transpose(1, 2)).max(2)  # [B, N]
    kept = similarity.topk(min(top, similarity.shape[1]), dim=1).indices
    return kept, nearest.gather(1, kept)


def correspondence(first: Tensor, second: Tensor, *, pixels: tuple[int, int], top: int = 10) -> tuple[Tensor, Tensor]:
    """(accuracy [B], mean distance in pixels [B]) of the `top` pairs, the second view being the first one mirrored.

    A pair is right when the found region is the mirrored one exactly; the distance is between the centres of these two.

    Args:
        first, second: [B, h, w, D] features of the views; pixels: (height, width) of the images.
    """
    here, there = matches(first, second, top=top)
    h, w = first.shape[1:3]
    down = (here // w - there // w) * (pixels[0] / h)
    across = (w - 1 - here % w - there % w) * (pixels[1] / w)
    distance = torch.hypot(down.float(), across.float())
    return (distance == 0).float().mean(1), distance.mean(1)


def second_view(images: Tensor, inputs: Inputs, *, index: Tensor, seed: int = 0) -> Tensor:
    """The copy to find regions in: mirrored, colour-jittered (chance 0.8), grey, and prepared as `inputs` says.

    Args:
        images: [B, C, H, W], uint8 or float in [0, 1]; index: [B], the records' numbers, whose draws they get.
    """
    view = Crop(inputs=inputs, jitter=JITTER, jitter_p=0.8, gray_p=1.0)
    drawn = [view.draw(rng(seed, 0, int(i), 1), *images.shape[2:]) for i in index]
    params = {name: torch.tensor([p[name] for p in drawn], device=images.device) for name in drawn[0]}
    params = {name: p.float() if p.is_floating_point() else p for name, p in params.items()}
    return view.finish(images.flip(-1), params)["image"]


@torch.no_grad()
def correspondences(
    encoder: Encoder,
    source: Source,
    *,
    top: int = 10,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Correspondence:
    """`correspondence` of every readable record's centre crop with its `second_view`, by an encoder's patch tokens.

    The encoder is in eval mode. `progress` is called with (records done, records in all).

    Raises:
        DataError: no record could be read, or features that are not numbers.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    encoder = encoder.to(device).eval()
    inputs = encoder.inputs
    loader = DataLoader(Plain(source, inputs), batch_size=batch_size, num_workers=workers, collate_fn=Plain.collate)
    accuracy, distance, indices, bad, done, regions = [], [], [], [], 0, 1
    for batch in loader:
        bad += [(source.name(index), reason) for index, reason in batch["bad"]]
        if batch["image"] is not None:
            images = batch["image"].to(device)
            first = token_grid(encoder, inputs.prepare(images))
            second = token_grid(encoder, second_view(images, inputs, index=batch["index"], seed=seed))
            right, off = correspondence(first, second, pixels=(inputs.size, inputs.size), top=top)
            regions = first.shape[1] * first.shape[2]
            accuracy.append(right.cpu())
            distance.append(off.cpu())
            indices.append(batch["index"])
        done += len(batch["index"]) + len(batch["bad"])
        if progress is not None:
            progress(done, len(source))
    if not accuracy:
        raise DataError(f"None of the {len(source):,} records can be read; the first: {bad[0][0]}: {bad[0][1]}.")
    columns = (torch.cat(part).numpy() for part in (accuracy, distance, indices))
    return Correspondence(*columns, chance=1 / regions, bad=bad)
