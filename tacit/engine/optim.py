"""Optimisers, their schedules, and what they leave undecayed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tacit.encoders import depth_of
from tacit.engine.lars import Lars
from tacit.engine.recipe import Recipe
from tacit.engine.schedules import cosine, linear, warmup_cosine, warmup_steps

POSITIONS = (
    "relative_position_bias_table",
    "pos_embed",
    "absolute_pos_embed",
    "cls_token",
    "reg_token",
    "mask_token",
    "agg_token",
)


def decays(name: str, parameter: Tensor, positions: bool) -> bool:
    """Whether weight decay acts on a parameter: never on 1-D tensors and biases, on position tables only if asked.

    Nor ever on Swin V2's temperatures and the small network its positions come from (Liu et al. 2022, the code).
    """
    if parameter.ndim <= 1 or name.endswith((".bias", "logit_scale")) or ".cpb_mlp." in name:
        return False
    return positions or not name.endswith(POSITIONS)


def optimiser(module: nn.Module, recipe: Recipe, *, fused: bool = True) -> torch.optim.Optimizer:
    """What `recipe.optimizer` says, over what is trained, in two groups: decayed, and not (nor adapted by LARS).

    The learning rate is set at every step, to the group's `share` of it, and so is the weight decay of the group with
    `decayed`. Where layers have rates of their own there are two groups for each, the full rate's first. `fused` takes
    PyTorch's kernels that go through the weights once; they undo the scale of fp16 by themselves, after gradients have
    been clipped, so fp16 must do without.
    """
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    chosen = {n: recipe.decay_vectors or decays(n, p, recipe.decay_positions) for n, p in trained}
    shares = {n: rate_share(n, module, recipe) for n, _ in trained}
    groups = [
        {
            "params": [p for n, p in trained if chosen[n] is decayed and shares[n] == share],
            "weight_decay": recipe.weight_decay if decayed else 0.0, "decayed": decayed, "share": share,
        }
        for share in sorted(set(shares.values()), reverse=True)
        for decayed in (True, False)
    ]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    how = {"fused": True} if fused else {"foreach": True}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.eps, **how)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.sgd_momentum, **how)
    return Lars(
        [{**group, "adapt": group["decayed"]} for group in groups], lr=0.0, momentum=recipe.sgd_momentum,
        trust=recipe.trust, lr_inside=recipe.optimizer == "lars_lr_inside", larc=recipe.optimizer == "larc",
        adapt_vectors=recipe.decay_vectors,
    )  # fmt: skip


def rate_share(name: str, module: nn.Module, recipe: Recipe) -> float:
    """Of the learning rate, for a parameter of a method: `layer_decay` to the power of the layers of the encoder that
    lie above it (Bao et al. 2021, BEiT), times `patch_rate` in the patch embedding. 1 for all but the encoder.

    A method's own `mask_token` counts as what it takes the place of, the encoder's lowest layer.
    """
    if recipe.layer_decay == 1 and recipe.patch_rate == 1:
        return 1.0
    inside = "mask_token" if name == "mask_token" else name.removeprefix("encoder.trunk.")
    if inside == name != "mask_token":
        return 1.0
    depth, last = depth_of(inside, module.encoder)
    return recipe.layer_decay ** (last - depth) * (recipe.patch_rate if inside.startswith("patch_embed.") else 1.0)


def learning_rate(recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate with which optimiser step `step` (counted from 0) is taken."""
    ratio = recipe.batch_size / recipe.lr_batch
    scale = ratio**0.5 if recipe.lr_scaling.startswith("sqrt") else ratio
    ends = 1.0 if recipe.lr_scaling.endswith("_peak") else scale
    step = max(step - recipe.lr_lag, 0)
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps)
    if recipe.lr_cosine == "steps":
        return warmup_steps(
            step, warmup=warmup, base=recipe.lr * scale, start=recipe.lr_warmup * ends,
            drops=[share * steps for share in recipe.lr_drops],
        )  # fmt: skip
    if recipe.lr_cosine == "line" and step >= warmup:
        return linear(step - warmup, recipe.lr * scale, recipe.lr_end * ends, max(steps - warmup, 1))
    if recipe.lr_cosine == "by_epoch" and step >= recipe.warmup_epochs * steps_per_epoch:
        step = step // steps_per_epoch * steps_per_epoch
    return warmup_cosine(
        step,
        steps,
        warmup=warmup,
        base=recipe.lr * scale,
        start=recipe.lr_warmup * ends,
        end=recipe.lr_end * ends,
        from_zero=recipe.lr_cosine not in ("after_warmup", "quarter"),
        quarter=recipe.lr_cosine == "quarter",
        inclusive=recipe.warmup_inclusive,
    )


def weight_decay(recipe: Recipe, step: int, steps: int) -> float:
    """The weight decay of optimiser step `step`."""
    if recipe.weight_decay_end is None:
        return recipe.weight_decay
    return cosine(step, steps, recipe.weight_decay, recipe.weight_decay_end)


def clip(recipe: Recipe, names: list[str], gradients: list[Tensor], norms: list[Tensor], lengths: list[float]) -> None:
    """Scale the gradients of the parameters `names` as `recipe` says, in place, or leave them alone.

    Args:
        norms, lengths: of each gradient, as tensors and as numbers.
    """
    if not recipe.clip:
        return
    if recipe.clip_by == "tensor":
        clip_each(gradients, norms, recipe.clip)
    elif recipe.clip_by == "part":
        clip_parts(names, gradients, lengths, recipe.clip)
    else:
        share = recipe.clip / (math.hypot(*lengths) + 1e-6)
        if share < 1:
            torch._foreach_mul_(gradients, share)


def clip_each(gradients: list[Tensor], norms: list[Tensor], limit: float) -> None:
    """Scale every tensor whose norm is above `limit` down to it, in place (DINO)."""
    shares = torch._foreach_reciprocal(torch._foreach_add(norms, 1e-6))
    torch._foreach_mul_(shares, limit)
    torch._foreach_clamp_max_(shares, 1.0)
    torch._foreach_mul_(gradients, shares)


def clip_parts(names: list[str], gradients: list[Tensor], lengths: list[float], limit: float) -> None:
    """Scale the gradients of every part of a method whose norm is above `limit` down to it, in place (DINOv2).

    Parts are what names begin with up to the first dot; parameters of the method itself go with its encoder.
    """
    parts: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        parts.setdefault(name.partition(".")[0] if "." in name else "encoder", []).append(i)
    for rows in parts.values():
        share = limit / (math.hypot(*(lengths[i] for i in rows)) + 1e-6)
        if share < 1:
            torch._foreach_mul_([gradients[i] for i in rows], share)
