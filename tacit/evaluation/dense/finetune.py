"""UPerNet fine-tuned end to end: the recipe of Swin and MoBY on ADE20K, and one for minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from tacit import encoders
from tacit.encoders import Encoder, set_drop_path
from tacit.errors import BadSettings, RunFailed
from tacit.evaluation.dense.crops import Crops
from tacit.evaluation.dense.heads import pixel_loss
from tacit.evaluation.dense.masks import Segmented
from tacit.evaluation.dense.upernet import UPerNet
from tacit.evaluation.resume import Checkpoint, key, seed_step
from tacit.precision import autocast, resolved, unfuse_attention
from tacit.settings import problems, setting
from tacit.views import rng

POSITIONS = ("relative_position_bias_table", "pos_embed", "cls_token")


@dataclass(frozen=True)
class FineTune:
    """Training and testing of a UPerNet. The defaults are the preset `ade20k_160k` (MoBY dossier, section 7)."""

    channels: int = setting(512, "Channels of the UPerNet head.", low=1)
    aux_channels: int = setting(256, "Channels of the auxiliary FCN head.", low=1)
    aux_weight: float = setting(0.4, "Weight of the auxiliary loss.", low=0)
    scales: tuple[int, ...] = setting((1, 2, 3, 6), "Bins of the pyramid pooling.", low=1)
    dropout: float = setting(0.1, "Channel dropout before the classifiers.", low=0, high=0.9)
    drop_path: float = setting(0.3, "Stochastic depth of the last block.", low=0, high=0.9)
    frozen: bool = setting(False, "The encoder stays as it is; only the heads are trained.")
    mask_padding: bool = setting(False, "Keep padding out of a Swin's attention; the official code does not.")
    crop: int = setting(512, "Side of the training crops and of tiles in pixels.", low=8)
    short: int = setting(512, "Short side of an image at ratio 1.", low=8)
    long: int = setting(2048, "Longest side of an image at ratio 1.", low=8)
    ratio: tuple[float, float] = setting((0.5, 2.0), "Range of the training scale.", low=0.05, high=20)
    largest_share: float = setting(0.75, "No class should cover more of a crop; ten are tried below 1.", low=0, high=1)
    distort: bool = setting(True, "Photometric distortion.")
    steps: int = setting(160_000, "Optimiser steps.", low=1)
    batch_size: int = setting(16, "Crops a step; BatchNorm needs two.", low=2)
    lr: float = setting(6e-5, "Peak learning rate of AdamW.", low=0)
    weight_decay: float = setting(0.01, "Of AdamW; none on normalisations and position tables.", low=0)
    warmup: int = setting(1500, "Steps of linear warm-up.", low=0)
    power: float = setting(1.0, "Of the polynomial decay to 0.", low=0)
    test: str = setting("whole", "Whole images, or tiles of the crop's size.", choices=("whole", "slide"))
    test_ratios: tuple[float, ...] = setting((1.0,), "Scales averaged in testing.", low=0.05, high=20)
    test_flip: bool = setting(False, "Average over mirror images in testing.")


PRESETS = {
    "ade20k_160k": FineTune(),
    # Sides and head an eighth, steps for minutes on a CPU: a higher rate and a larger share of warm-up, since so few
    # steps must do, and less stochastic depth, since the encoders for such sides are shallow.
    "small": FineTune(
        channels=64, aux_channels=32, drop_path=0.1, crop=64, short=64, long=256, steps=300, batch_size=8, lr=1e-3,
        warmup=30,
    ),
}  # fmt: skip
MULTI_SCALE = {"test_ratios": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "test_flip": True}  # the recipe's "ms + flip"


def learning_rate(step: int, s: FineTune) -> float:
    """lr (1 - step / steps)^power, times a warm-up that rises from 1e-6 at step 0 to 1 at step `warmup`."""
    rate = s.lr * (1 - step / s.steps) ** s.power
    return rate if step >= s.warmup else rate * (1e-6 + (1 - 1e-6) * step / s.warmup)


def optimiser(model: nn.Module, s: FineTune) -> torch.optim.AdamW:
    """AdamW in two groups: normalisations, position tables and class tokens are not decayed; linear biases are."""
    norms = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)
    spared = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
    spared |= {id(p) for n, p in model.named_parameters() if n.endswith(POSITIONS)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in spared], "weight_decay": s.weight_decay},
        {"params": [p for p in trained if id(p) in spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0)


def batches(count: int, s: FineTune, seed: int) -> Iterator[list[tuple[int, int]]]:
    """(epoch, index) of every step's crops: whole permutations of the records, one after the other."""
    epochs = range(s.steps * s.batch_size // count + 1)
    stream = ((e, int(i)) for e in epochs for i in rng(seed, e, 0, 1).permutation(count))
    for _ in range(s.steps):
        yield [next(stream) for _ in range(s.batch_size)]


def check(s: FineTune) -> None:
    found = problems(s)
    if s.ratio[0] > s.ratio[1]:
        found.append(f"ratio = {s.ratio[0]:g},{s.ratio[1]:g}: the first must not exceed the second.")
    if s.short > s.long:
        found.append(f"short = {s.short}: must not exceed long = {s.long}.")
    if found:
        raise BadSettings(found)


def finetune(
    encoder: Encoder,
    train: Segmented,
    s: FineTune,
    *,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    precision: str = "auto",
    checkpoint: Path | None = None,
    save_steps: int = 0,
) -> tuple[UPerNet, list[float], list[tuple[str, str]]]:
    """A UPerNet on a copy of `encoder`, trained on `train`. All that is random depends on (seed, step, record) alone.

    Args:
        precision: "32", "bf16", or "auto": bf16 where the hardware multiplies it. Losses are in fp32 always.
        checkpoint: a file to go on from, if it is there, and to keep what the next step needs in, every ten minutes or
            every `save_steps` steps; removed at the end. What goes on ends bit for bit as what was not broken off, on
            a CPU.

    Returns:
        The model in eval mode, the loss [steps], and (name, reason) of the records that could not be read.

    Raises:
        BadSettings: settings that cannot work. RunFailed: the loss is no number. DataError: unusable records.
        UsageError: a checkpoint of another training. Unknown: no such precision.
    """
    check(s)
    precision = resolved(precision, device)
    torch.manual_seed(seed)
    model = model_for(encoder, train.classes, s).to(device).train()
    unfuse_attention(model, device, precision)
    solver = optimiser(model, s)
    keep = Checkpoint(checkpoint, _key(model, train, s, seed, precision) if checkpoint else "", save_steps)
    parts = {"model": model, "solver": solver}
    start, kept = keep.resume(parts)
    losses, bad = kept.get("losses", []), kept.get("bad", {})
    data = Crops(train, encoder.inputs, s, seed)
    order = islice(batches(len(train), s, seed), start, None)
    loader = DataLoader(data, batch_sampler=order, num_workers=workers, collate_fn=_collate)
    for step, (x, y, failed) in enumerate(loader, start):
        bad |= dict(failed)
        for group in solver.param_groups:
            group["lr"] = learning_rate(step, s)
        x, y = x.to(device), y.to(device)
        seed_step(seed, step)
        with autocast(device, precision):
            logits, aux = model(x)
        loss = pixel_loss(logits.float(), y) + s.aux_weight * pixel_loss(aux.float(), y)
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise RunFailed(f"The loss is {losses[-1]} at step {step} of {s.steps}. Lower lr ({s.lr:g}).")
        keep.offer(step + 1, parts, {"losses": losses, "bad": bad})
        if progress is not None:
            progress(step + 1, s.steps)
    keep.done()
    return model.eval(), losses, sorted(bad.items())


def _key(model: UPerNet, train: Segmented, s: FineTune, seed: int, precision: str) -> str:
    meaning = train.classes, train.ignore, train.zero_is_none, train.foreground, train.channels
    return key(model, (*train.images, *train.masks), model.encoder.inputs.to_dict(), meaning, s, seed, precision)


def model_for(encoder: Encoder, classes: int, s: FineTune) -> UPerNet:
    copied = encoders.any_size(encoder, mask_padding=s.mask_padding)
    set_drop_path(copied, 0.0 if s.frozen else s.drop_path)
    heads = {"channels": s.channels, "aux_channels": s.aux_channels, "scales": s.scales, "dropout": s.dropout}
    return UPerNet(copied, classes, frozen=s.frozen, **heads)


def _collate(samples: list[dict]) -> tuple[torch.Tensor, torch.Tensor, list[tuple[str, str]]]:
    x, y = (torch.stack([sample[key] for sample in samples]) for key in ("image", "mask"))
    return x, y, [item for sample in samples for item in sample["bad"]]
