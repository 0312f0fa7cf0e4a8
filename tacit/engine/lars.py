"""Layer-wise adaptive rates (You, Gitman and Ginsburg 2017, arXiv 1708.03888), in the three forms in use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tacit.errors import UsageError

EPS = 1e-8  # apex LARC's


class Lars(torch.optim.Optimizer):
    """SGD with momentum m whose step each tensor w scales to its own length. With gradient g, rate lr, decay d:

    | form              | of                                        | step                                           |
    |-------------------|-------------------------------------------|------------------------------------------------|
    | default           | MoCo v3, VICReg and BYOL (official code)  | g' = g + d w;  r = trust ||w|| / ||g'||;       |
    |                   |                                           | v = m v + r g';  w = w - lr v                  |
    | lr_inside=True    | SimCLR (`lars_optimizer.py`, its classic  | g' and r alike;                                |
    |                   | momentum)                                 | v = m v + lr r g';  w = w - v                  |
    | larc=True,        | SwAV (apex LARC, clip=False, around SGD)  | r = trust ||w|| / (||g|| + d ||w|| + 1e-8);    |
    | adapt_vectors=True|                                           | v = m v + r (g + d w);  w = w - lr v           |

    r is 1 where w or its gradient (g', or with `larc` g) is zero throughout; with `larc` a tensor whose gradient is
    zero is not decayed either. At a constant rate the first two are the same; when it changes, the first applies the
    new one to past gradients too.

    Vectors (biases, norms' scales and shifts: at most one dimension) are neither adapted nor decayed, unless
    `adapt_vectors`. A group with `adapt=False` is plain SGD with momentum and that group's decay.

    Args:
        params: tensors, or groups that may hold any of these settings for themselves.
        lr: learning rate; a schedule sets each group's before each step.
        momentum: m, in [0, 1).
        weight_decay: d.
        trust: the share of a tensor's length that a step of rate 1 moves it.
        lr_inside: keep the rate in the momentum.
        adapt_vectors: treat vectors as all others.
        larc: the ratio of apex LARC.
        adapt: scale at all.

    Raises:
        UsageError: a negative rate, decay or trust, a momentum outside [0, 1), or `larc` with `lr_inside`.
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        *,
        lr_inside: bool = False,
        adapt_vectors: bool = False,
        larc: bool = False,
        adapt: bool = True,
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("trust", trust)):
            if value < 0:
                raise UsageError(f"{name} = {value}: must not be negative.")
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum = {momentum}: must be at least 0 and below 1.")
        if larc and lr_inside:
            raise UsageError("larc and lr_inside exclude each other: SwAV's form keeps the rate outside the momentum.")
        settings = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "lr_inside": lr_inside,
            "adapt_vectors": adapt_vectors, "larc": larc, "adapt": adapt,
        }  # fmt: skip
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step over all tensors that have a gradient; the gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in weights if p.ndim > 1 or group["adapt_vectors"]]
            vectors = [p for p in weights if p.ndim <= 1 and not group["adapt_vectors"]]
            if matrices:
                self._move(matrices, _updates(matrices, group), group)
            if vectors:
                self._move(vectors, [p.grad for p in vectors], group)
        return loss

    def _move(self, weights: list[Tensor], updates: list[Tensor], group: dict) -> None:
        for w in weights:
            if not self.state[w]:
                self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        buffers = [self.state[w]["momentum_buffer"] for w in weights]
        inside, outside = (group["lr"], 1.0) if group["lr_inside"] else (1.0, group["lr"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates, alpha=inside)
        torch._foreach_add_(weights, buffers, alpha=-outside)


def _updates(weights: list[Tensor], group: dict) -> list[Tensor]:
    """r g' of each tensor. The ratios stay on their device: nothing waits for a number."""
    gradients = [w.grad for w in weights]
    decay, trust = group["weight_decay"], group["trust"]
    decayed = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
    if not group["adapt"]:
        return decayed
    lengths = torch.stack(torch._foreach_norm(weights))
    norms = torch.stack(torch._foreach_norm(gradients if group["larc"] else decayed))
    below = norms + decay * lengths + EPS if group["larc"] else norms
    # Where the gradient is zero apex does nothing: a ratio of one would let the decay through.
    otherwise = (norms > 0).to(norms) if group["larc"] else torch.ones_like(norms)
    ratios = torch.where((lengths > 0) & (norms > 0), trust * lengths / below, otherwise)
    return torch._foreach_mul(decayed, list(ratios.unbind()))
