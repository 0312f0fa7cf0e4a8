"""The training of detectors: one loop, whose numbers are the schedule's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tacit import views
from tacit.encoders import Encoder
from tacit.errors import BadRecord, DataError, RunFailed
from tacit.evaluation.detection.augment import augment
from tacit.evaluation.detection.models import detector
from tacit.evaluation.detection.schedule import Schedule, learning_rate, parameter_groups
from tacit.evaluation.detection.sets import DetectionSet, read_image, target

ORDER = 2**32 - 1  # the record number whose draws order an epoch


def build(
    name: str, encoder: Encoder, data: DetectionSet, schedule: Schedule, *, frozen: bool = False, **changes: Any
) -> nn.Module:
    """The detector that `schedule` asks for, for the classes of `data`, with masks if it has them."""
    settings = {"masks": data.masks, "drop_path": schedule.drop_path.get(name, 0.0), **schedule.widths, **changes}
    return detector(name, encoder, len(data.classes), frozen=frozen, size=schedule.test_size, **settings)


def train(
    model: nn.Module,
    data: DetectionSet,
    schedule: Schedule,
    *,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[list[dict[str, float]], list[tuple[str, str]]]:
    """Train in place, in float32.

    Augmentation and order depend on (seed, epoch, image) alone; which regions are sampled, on torch's generator, which
    `seed` sets. Images that cannot be read are left out and named.

    Returns:
        The losses of every step by name, and (name, reason) of each image that could not be read.

    Raises:
        DataError: no image at all can be read. RunFailed: a loss is no number.
    """
    torch.manual_seed(seed)
    model = model.to(device).train()
    channels, masks = len(model.transform.image_mean), data.masks and _has_masks(model)
    order = Order(len(data), min(schedule.batch_size, len(data)), schedule.epochs, seed)
    examples = Examples(data, schedule, seed, channels, masks)
    loader = DataLoader(examples, batch_sampler=order, collate_fn=list, num_workers=workers)
    solver = torch.optim.AdamW(parameter_groups(model, schedule.weight_decay), lr=0.0, betas=(0.9, 0.999))
    history, bad = [], {}
    for step, batch in enumerate(loader):
        bad |= dict(e for e in batch if isinstance(e[1], str))
        pairs = [e for e in batch if not isinstance(e[1], str)]
        if not pairs:
            continue
        images = [image.to(device) for image, _ in pairs]
        losses = model(images, [{k: v.to(device) for k, v in t.items()} for _, t in pairs])
        total = sum(losses.values())
        if not math.isfinite(total.item()):
            worst = ", ".join(f"{k} {v.item():.3g}" for k, v in losses.items())
            raise RunFailed(f"The loss at step {step} is no number ({worst}). Lower the learning rate ({schedule.lr}).")
        for group in solver.param_groups:
            group["lr"] = learning_rate(schedule, step, order.per_epoch)
        solver.zero_grad()
        total.backward()
        solver.step()
        history.append({k: v.item() for k, v in losses.items()})
        if progress is not None:
            progress(step + 1, len(order), total.item())
    if not history:
        raise DataError(
            f"None of the {len(data):,} images can be read; the first: {': '.join(next(iter(bad.items())))}."
        )
    return history, list(bad.items())


def _has_masks(model: nn.Module) -> bool:
    return any(getattr(m, "mask_predictor", None) is not None for m in model.roi_heads.modules())


class Order:
    """Batches of (epoch, image), each epoch in an order of its own; what does not fill a batch waits for the next."""

    def __init__(self, count: int, batch: int, epochs: int, seed: int):
        self.count, self.batch, self.epochs, self.seed = count, batch, epochs, seed
        self.per_epoch = count // batch

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.epochs):
            rows = views.rng(self.seed, epoch, ORDER, 0).permutation(self.count).tolist()
            for i in range(self.per_epoch):
                yield [(epoch, row) for row in rows[i * self.batch : (i + 1) * self.batch]]


class Examples(Dataset):
    """(image, target), or (name, reason) of an image that cannot be read."""

    def __init__(self, data: DetectionSet, schedule: Schedule, seed: int, channels: int, masks: bool):
        self.data, self.schedule, self.seed, self.channels, self.masks = data, schedule, seed, channels, masks

    def __getitem__(self, at: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]] | tuple[str, str]:
        (epoch, row), s = at, self.schedule
        scene = self.data.scenes[row]
        try:
            image, things = read_image(scene, self.channels), target(scene, self.masks)
        except BadRecord as error:
            return scene.path.name, str(error)
        rng = views.rng(self.seed, epoch, scene.id % 2**64, 0)
        return augment(image, things, rng, shorts=s.shorts, long=s.long, crop_shorts=s.crop_shorts)
