"""The papers' linear probes: one linear layer on the frozen encoder, by SGD over augmented images.

A grid of learning rates and of features is trained in one pass over the data, as heads side by side: the images go
through the encoder once, whatever the number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Batches, Source
from tacit.encoders import Encoder
from tacit.errors import RunFailed
from tacit.evaluation import choices
from tacit.evaluation.cache import fingerprint
from tacit.evaluation.linear import stratified
from tacit.views import Crop, Views, collate, finish

HELD_OUT = 0.1  # of the training set, to choose among several heads


@dataclass(frozen=True)
class Preset:
    """A paper's probe. Learning rates are for `lr_batch` records a step and scale with the batch.

    Only a single rate may start or end elsewhere than at zero.
    """

    lrs: tuple[float, ...]
    lr_batch: int = 256
    epochs: int = 100
    batch_size: int = 1024
    features: tuple[str, ...] = ("pooled",)  # the first is taken where an encoder lacks the others
    nesterov: bool = False
    warmup_epochs: int = 0
    lr_start: float = 0.0  # before the warm-up, scaled alike
    lr_end: float = 0.0
    by_epoch: bool = False  # the cosine moves once an epoch
    smoothing: float = 0.0
    clip: float | None = None
    init_std: float = 0.01
    truncated: bool = False


PRESETS = {
    # moby_linear.py; its encoder stays in train mode, where drop path acts on the frozen blocks: ours is in eval mode.
    "moby": Preset(
        lrs=(1.0,), lr_batch=512, batch_size=512, nesterov=True, warmup_epochs=5, lr_start=5e-7, lr_end=5e-6,
        smoothing=0.1, clip=5.0, init_std=0.02, truncated=True,
    ),
    # eval_linear.py: the last four class tokens for ViT-S, class token and patches for ViT-B; the rate is to be swept.
    "dino": Preset(
        lrs=(1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), features=("pooled", "last4", "cls_mean"), by_epoch=True,
    ),
    "moco_v3": Preset(lrs=(3.0,), epochs=90, by_epoch=True),
    # EsViT: means of the last four blocks.
    "esvit": Preset(lrs=(1e-3, 2e-3, 5e-3, 1e-2), features=("pooled", "last4"), by_epoch=True),
    # linear.py of DINOv2: thirteen rates, the last block or four, with and without the mean of the patches.
    "dinov2": Preset(
        lrs=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1), epochs=10,
        features=("pooled", "cls_mean", "last4", "last4_mean"),
    ),
}  # fmt: skip


def rate(preset: Preset, lr: float, step: int, steps: int, per_epoch: int, batch: int) -> float:
    """Learning rate of one head at a step: linear warm-up, then a cosine at the absolute step (or epoch) to the end."""
    scale = batch / preset.lr_batch
    warmup = preset.warmup_epochs * per_epoch
    if step < warmup:
        return scale * (preset.lr_start + step * (lr - preset.lr_start) / warmup)
    at = step // per_epoch * per_epoch if preset.by_epoch else step
    return scale * (preset.lr_end + 0.5 * (lr - preset.lr_end) * (1 + np.cos(np.pi * at / steps)))


class Heads(nn.Module):
    """H linear classifiers on one feature [B, D], as a single matrix product."""

    def __init__(self, width: int, classes: int, count: int, preset: Preset):
        super().__init__()
        first = torch.empty(classes, width)
        nn.init.trunc_normal_(first, std=preset.init_std) if preset.truncated else nn.init.normal_(
            first, std=preset.init_std
        )
        self.weight = nn.Parameter(first.repeat(count, 1))  # [H * C, D]; all heads of a feature start alike
        self.bias = nn.Parameter(torch.zeros(count * classes))
        self.count, self.classes = count, classes

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, H, C]."""
        return F.linear(x, self.weight, self.bias).unflatten(1, (self.count, self.classes))

    @torch.no_grad()
    def shape_gradients(self, scales: Tensor, clip: float | None) -> None:
        """Clip every head's gradient by its own norm, and scale it [H].

        SGD with momentum and no decay is linear in the gradient: scaled by lr / lr of the first head, under the first
        head's rate, it does what a rate of its own would do, as long as all rates follow one curve from and to zero.
        """
        grads = self.weight.grad.view(self.count, self.classes, -1), self.bias.grad.view(self.count, self.classes)
        if clip is not None:
            norm = sum(g.flatten(1).square().sum(1) for g in grads).sqrt()
            scales = scales * (clip / (norm + 1e-6)).clamp(max=1)
        for g in grads:
            g.mul_(scales.view(-1, *[1] * (g.ndim - 1)))


@dataclass(frozen=True)
class Probe:
    """What the probe chose, and what it says of the test set."""

    predicted: Tensor  # [M]
    feature: str
    lr: float
    grid: dict[str, float]  # held-out accuracy by "feature, lr"; empty when there was one head
    preset: Preset


def linear_sgd(
    encoder: Encoder,
    source: Source,
    test: dict[str, Tensor],
    *,
    classes: int,
    preset: Preset,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Train every head of the preset's grid on `source` and let the one that is best on a held-out tenth speak.

    Training images are random resized crops (default scale) and flips. The encoder is in eval mode, and not changed.

    Args:
        test: test features [M, D] by the names of the preset's features.

    Raises:
        RunFailed: a tensor of the encoder changed.
    """
    names = usable(encoder, preset.features)
    encoder = encoder.to(device).eval()
    before = fingerprint(encoder)
    grid = [(name, lr) for name in names for lr in preset.lrs]
    held = None
    if len(grid) > 1:
        kept, out = stratified(source.labels, HELD_OUT, seed)
        source, held = source.select(kept), source.select(out)
    torch.manual_seed(seed)
    widths = {name: test[name].shape[1] for name in names}
    heads = nn.ModuleDict({name: Heads(widths[name], classes, len(preset.lrs), preset) for name in names}).to(device)
    _train(encoder, heads, source, preset, seed, workers, device, progress)
    if fingerprint(encoder) != before:
        raise RunFailed("The linear probe changed the encoder it was to leave alone. Please report this.")

    scores: dict[tuple[str, float], float] = {}
    if held is not None:
        from tacit.evaluation.features import features

        found = features(encoder, held, names=names, workers=workers, devices=[device])
        for name in names:
            right = (_predict(heads[name], found.more[name]) == found.y[:, None]).float().mean(0)
            scores |= {(name, lr): float(right[i]) for i, lr in enumerate(preset.lrs)}
    name, lr = max(scores, key=scores.get) if scores else grid[0]
    predicted = _predict(heads[name], test[name])[:, preset.lrs.index(lr)]
    return Probe(predicted, name, lr, {f"{n}, {r:g}": round(s, 4) for (n, r), s in scores.items()}, preset)


def usable(encoder: Encoder, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that the encoder has, or its pooled feature; a name that repeats it counts once."""
    there = [name for name in names if name in choices.available(encoder)]
    return tuple(dict.fromkeys(there)) or ("pooled",)


def fit_into(preset: Preset, source: Source) -> Preset:
    """The preset with a batch that the data can fill."""
    return replace(preset, batch_size=min(preset.batch_size, max(len(source) * 9 // 10, 1)))


def _train(encoder, heads: nn.ModuleDict, source: Source, preset: Preset, seed, workers, device, progress) -> None:
    per_epoch = len(source) // preset.batch_size
    steps = preset.epochs * per_epoch
    solver = torch.optim.SGD(heads.parameters(), lr=0.0, momentum=0.9, nesterov=preset.nesterov)
    scales = torch.tensor([lr / preset.lrs[0] for lr in preset.lrs], device=device)
    view = Crop(inputs=encoder.inputs, name="probe")
    loader = DataLoader(
        Views(source, [view], seed),
        batch_sampler=Batches(source, batch_size=preset.batch_size, seed=seed, total_steps=steps),
        collate_fn=collate,
        num_workers=workers,
    )
    for step, batch in enumerate(loader):
        solver.param_groups[0]["lr"] = rate(preset, preset.lrs[0], step, steps, per_epoch, preset.batch_size)
        with torch.no_grad():
            x = choices.choose(encoder, finish(batch, [view])[0]["image"].to(device), tuple(heads))
        y = batch["label"].to(device)
        loss = x[next(iter(x))].new_zeros(())
        for name, head in heads.items():
            logits = head(x[name])  # [B, H, C]
            each = F.cross_entropy(
                logits.flatten(0, 1), y.repeat_interleave(head.count), label_smoothing=preset.smoothing,
                reduction="sum",
            )  # fmt: skip
            loss = loss + each / len(y)
        solver.zero_grad()
        loss.backward()
        for head in heads.values():
            head.shape_gradients(scales, preset.clip)
        solver.step()
        if progress is not None:
            progress(step + 1, steps)


@torch.no_grad()
def _predict(head: Heads, x: Tensor) -> Tensor:
    """[M, D] -> [M, H]."""
    return torch.cat([head(part).argmax(2) for part in x.to(head.weight.device).split(4096)]).cpu()
