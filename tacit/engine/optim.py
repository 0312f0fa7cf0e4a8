"""Optimisers and what they leave undecayed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tacit.engine.recipe import Recipe
from tacit.engine.schedules import warmup_cosine

POSITIONS = ("relative_position_bias_table", "pos_embed", "absolute_pos_embed", "cls_token", "mask_token")


def decays(name: str, parameter: Tensor, positions: bool) -> bool:
    """Whether weight decay acts on a parameter: never on 1-D tensors and biases, on position tables only if asked."""
    if parameter.ndim <= 1 or name.endswith(".bias"):
        return False
    return positions or not name.endswith(POSITIONS)


def adamw(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what is trained, in two groups, decayed and not; the learning rate is set at every step."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if decays(n, p, recipe.decay_positions)]
    plain = [p for n, p in trained if not decays(n, p, recipe.decay_positions)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.eps, foreach=True)


def learning_rate(recipe: Recipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate with which optimiser step `step` (counted from 0) is taken."""
    scale = recipe.batch_size / recipe.lr_batch
    return warmup_cosine(
        max(step - recipe.lr_lag, 0),
        steps,
        warmup=min(round(recipe.warmup_epochs * steps_per_epoch), steps),
        base=recipe.lr * scale,
        start=recipe.lr_warmup * scale,
        end=recipe.lr_end * scale,
        from_zero=recipe.lr_cosine == "from_zero",
    )
