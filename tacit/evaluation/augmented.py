"""Features of several augmented views of every record: what measures look at that ask how much views differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.evaluation import choices
from tacit.views import Crop, Views, collate, finish

BATCH = 256  # images in one pass


@torch.no_grad()
def augmented_features(
    encoder: Encoder,
    source: Source,
    *,
    views: int,
    feature: str = "pooled",
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """[N, views, D] float32: crops, flips, colours and greys as MoCo v2 draws them, but for the blur.

    What is drawn follows from (seed, record, number of the view) alone. The encoder is in eval mode.
    """
    view = Crop(
        inputs=encoder.inputs, name="augmented", scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_p=0.2
    )
    pipelines = [view] * views
    loader = DataLoader(
        Views(source, pipelines, seed), sampler=[(0, i) for i in range(len(source))], collate_fn=collate,
        batch_size=max(BATCH // views, 1), num_workers=workers,
    )  # fmt: skip
    encoder = encoder.to(device).eval()
    found = []
    for batch in loader:
        images = torch.cat([v["image"] for v in finish(batch, pipelines)]).to(device)
        x = choices.choose(encoder, images, (feature,))[feature].cpu()
        found.append(x.unflatten(0, (views, -1)).transpose(0, 1))
        if progress is not None:
            progress(sum(map(len, found)), len(source))
    return torch.cat(found)
