"""Fine-tuning for classification: the whole encoder with a linear layer on top, by the recipes of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder, depth_of, describe, set_drop_path, set_drop_token
from tacit.errors import RunFailed
from tacit.evaluation.augment import Augmented, Repeated
from tacit.evaluation.recipes import RECIPES, Recipe
from tacit.evaluation.resume import Checkpoint, key, seed_step
from tacit.evaluation.tuned_kinds import kind_of
from tacit.precision import autocast, resolved, unfuse_attention
from tacit.views import Views, collate, erase, finish

__all__ = ["RECIPES", "Classifier", "Recipe", "fine_tune", "parameter_groups", "rate"]


class Classifier(nn.Module):
    """An encoder, what may stand between, and a linear layer that begins at zero.

    several: whether its classes are labels of which a record may have any number, each told by its own sigmoid.
    dropout: share of the features that is dropped before the last layer in training.
    """

    several: bool = False

    def __init__(
        self, encoder: Encoder, classes: int, neck: nn.Module | None = None, width: int | None = None,
        dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.neck, self.dropout = encoder, neck or nn.Identity(), nn.Dropout(dropout)
        self.head = nn.Linear(width or encoder.width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.neck(self.encoder(x))))


def parameter_groups(model: Classifier, r: Recipe) -> list[dict]:
    """The optimiser's groups: layer-wise rates (`scale`), no decay for vectors, position tables and class tokens."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        scale = 1.0
        if name.startswith("encoder.trunk."):
            depth, layers = depth_of(name.removeprefix("encoder.trunk."), model.encoder)
            scale = r.layer_decay ** (layers - depth)
        positions = ("pos_embed", "cls_token", "agg_token", "relative_position_bias_table", "logit_scale")
        plain = p.ndim < 2 or name.endswith(positions) or ".cpb_mlp." in name
        groups.setdefault((scale, 0.0 if plain else r.weight_decay), []).append(p)
    return [{"params": ps, "weight_decay": decay, "scale": scale} for (scale, decay), ps in groups.items()]


def rate(step: int, steps: int, per_epoch: int, r: Recipe) -> float:
    """Linear warm-up from 0, then a cosine to `lr_end`."""
    peak, warmup = r.lr * r.batch_size / 256, r.warmup * steps or r.warmup_epochs * per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return r.lr_end + 0.5 * (peak - r.lr_end) * (1 + math.cos(math.pi * share))


def fine_tune(
    encoder: Encoder,
    source: Source,
    test: Source,
    *,
    classes: int,
    recipe: Recipe,
    neck: nn.Module | None = None,
    neck_width: int | None = None,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    precision: str = "auto",
    checkpoint: Path | None = None,
    save_steps: int = 0,
) -> tuple[Tensor, Tensor]:
    """Predictions [M] for the readable records of `test`, and their numbers [M]. The encoder is copied.

    What differs between pictures, films and waveforms is in `tuned_kinds`.

    Args:
        neck: layers between the pooled feature and the classifier, trained too: the first ones of a projection head
            (SimCLR v2, section 2.2), of output width `neck_width`.
        precision: "32", "bf16", or "auto": bf16 where the hardware multiplies it. Losses and predictions are in fp32.
        checkpoint: a file to go on from, if it is there, or a folder for it, and to keep what the next step needs in,
            every ten minutes or every `save_steps` steps; removed at the end. What goes on ends bit for bit as what was
            not broken off, on a CPU.

    Raises:
        RunFailed: a loss that is no number. UsageError: a checkpoint of another training, or an encoder of other
            inputs. Unknown: no such precision.
    """
    kind = kind_of(encoder.inputs)
    batch = min(recipe.batch_size, len(source)) // 2 * 2  # Mixup takes pairs
    r = replace(recipe, batch_size=batch)  # rates scale with the batch there is
    precision = resolved(precision, device)
    torch.manual_seed(seed)
    tuned = set_drop_path(deepcopy(encoder), r.drop_path)
    if r.drop_token < 1:
        set_drop_token(tuned, r.drop_token)
    model = Classifier(tuned, classes, deepcopy(neck), neck_width, r.dropout).to(device)
    unfuse_attention(model, device, precision)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(r.ema)) if r.ema else None
    groups = parameter_groups(model, r)
    solver = torch.optim.AdamW(groups, lr=0.0) if r.optimizer == "adamw" else torch.optim.SGD(groups, 0.0, momentum=0.9)
    parts = {"model": model, "solver": solver} | ({"average": average} if average is not None else {})
    keep = Checkpoint(checkpoint, _key(model, source, r, seed, precision) if checkpoint else "", save_steps)
    first, _ = keep.resume(parts)
    mix, view = kind.mix(r, classes), kind.view(encoder.inputs, r)
    data = Augmented(Views(source, [view], seed, stand_ins=False), r.augment, encoder.inputs)
    per_epoch = len(source) // batch
    steps = r.steps or r.epochs * per_epoch
    order = Repeated(source, batch_size=batch, seed=seed, total_steps=steps, start_step=first, repeats=r.repeats)
    loader = DataLoader(data, batch_sampler=order, collate_fn=collate, num_workers=workers)
    model.train()
    for step, found in enumerate(loader, first):
        for group in solver.param_groups:
            group["lr"] = rate(step, steps, per_epoch, r) * group["scale"]
        seed_step(seed, step)
        x = finish(found, [view])[0]["image"]
        if r.erasing:
            x = erase(x, found["views"][0]["params"]["erase"], r.erasing)
        x, y = x.to(device), found["label"].to(device)
        if mix is not None:
            x, y = mix(x, y)
        with autocast(device, precision):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=0.0 if mix is not None else r.smoothing)
        if not torch.isfinite(loss):
            raise RunFailed(f"The loss is {float(loss)} at step {step} of {steps}. Lower lr ({r.lr:g}).")
        solver.zero_grad()
        loss.backward()
        if r.clip:
            nn.utils.clip_grad_norm_((model if r.clip_head else model.encoder).parameters(), r.clip)
        solver.step()
        if average is not None:
            average.update_parameters(model)
        keep.offer(step + 1, parts)
        if progress is not None:
            progress(step + 1, steps)
    trained = average.module if average is not None else model
    logits, index, _ = kind.logits(trained, test, workers=workers, device=device)
    keep.done()
    return logits.argmax(1), index


def _key(model: Classifier, source: Source, r: Recipe, seed: int, precision: str) -> str:
    return key(model, (), describe(model.encoder), repr(model.neck), source.stamp(), r, seed, precision)
