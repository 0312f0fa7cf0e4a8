"""The training of detectors: one loop, whose numbers are the schedule's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from tacit.encoders import Encoder
from tacit.errors import DataError, RunFailed
from tacit.evaluation.detection.examples import Examples, Order
from tacit.evaluation.detection.models import detector
from tacit.evaluation.detection.schedule import Schedule, learning_rate, parameter_groups
from tacit.evaluation.detection.sets import DetectionSet
from tacit.evaluation.resume import Checkpoint, key, seed_step
from tacit.precision import autocast, resolved, unfuse_attention


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
    precision: str = "auto",
    checkpoint: Path | None = None,
    save_steps: int = 0,
) -> tuple[list[dict[str, float]], list[tuple[str, str]]]:
    """Train in place. Images that cannot be read are left out and named.

    Augmentation and order depend on (seed, epoch, image) alone; which regions are sampled, and what is dropped, on
    (seed, step).

    Args:
        precision: "32", "bf16", or "auto": bf16 where the hardware multiplies it. Boxes, what is computed of them, and
            losses are in fp32 always.
        checkpoint: a file to go on from, if it is there, and to keep what the next step needs in, every ten minutes or
            every `save_steps` steps; removed at the end. `model` must be as it was at the first beginning. What goes on
            ends bit for bit as what was not broken off, on a CPU.

    Returns:
        The losses of every step by name, and (name, reason) of each image that could not be read.

    Raises:
        DataError: no image at all can be read. RunFailed: a loss is no number. UsageError: a checkpoint of another
        training. Unknown: no such precision.
    """
    precision = resolved(precision, device)
    torch.manual_seed(seed)
    model = model.to(device).train()
    unfuse_attention(model, device, precision)
    channels, masks = len(model.transform.image_mean), data.masks and _has_masks(model)
    order = Order(len(data), min(schedule.batch_size, len(data)), schedule.epochs, seed)
    examples = Examples(data, schedule, seed, channels, masks)
    solver = torch.optim.AdamW(parameter_groups(model, schedule.weight_decay), lr=0.0, betas=(0.9, 0.999))
    keep = Checkpoint(checkpoint, _key(model, data, schedule, seed, precision) if checkpoint else "", save_steps)
    parts = {"model": model, "solver": solver}
    start, kept = keep.resume(parts)
    history, bad = kept.get("history", []), kept.get("bad", {})
    rest = islice(order, start, None)
    loader = DataLoader(examples, batch_sampler=rest, collate_fn=list, num_workers=workers)
    for step, batch in enumerate(loader, start):
        bad |= dict(e for e in batch if isinstance(e[1], str))
        pairs = [e for e in batch if not isinstance(e[1], str)]
        if not pairs:
            continue
        images = [image.to(device) for image, _ in pairs]
        targets = [{k: v.to(device) for k, v in t.items()} for _, t in pairs]
        seed_step(seed, step)
        with autocast(device, precision), _in_floats(model):
            losses = model(images, targets)
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
        keep.offer(step + 1, parts, {"history": history, "bad": bad})
        if progress is not None:
            progress(step + 1, len(order), total.item())
    if not history:
        raise DataError(
            f"None of the {len(data):,} images can be read; the first: {': '.join(next(iter(bad.items())))}."
        )
    keep.done()
    return history, list(bad.items())


def _key(model: nn.Module, data: DetectionSet, schedule: Schedule, seed: int, precision: str) -> str:
    scenes = [(s.id, s.height, s.width, s.things) for s in data.scenes]
    about = data.classes, data.category_ids, data.masks, scenes, schedule, seed, precision
    return key(model, (s.path for s in data.scenes), *about)


@contextmanager
def _in_floats(model: nn.Module) -> Iterator[None]:
    """What networks hand on is fp32: torchvision decodes boxes in the type of the offsets, and bf16 has 8 bits."""
    heads = [m for m in model.modules() if isinstance(m, RPNHead | FastRCNNPredictor | MaskRCNNPredictor)]
    hooks = [m.register_forward_hook(lambda _, __, out: _floats(out)) for m in (model.backbone, *heads)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _floats(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float()
    if isinstance(found, dict):
        return type(found)((name, _floats(x)) for name, x in found.items())
    return type(found)(_floats(x) for x in found)


def _has_masks(model: nn.Module) -> bool:
    return any(getattr(m, "mask_predictor", None) is not None for m in model.roi_heads.modules())
