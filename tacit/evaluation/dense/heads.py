"""A linear head on frozen patch tokens: a 1x1 convolution whose logits are upsampled to the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import DataError, RunFailed
from tacit.evaluation.dense.masks import IGNORE
from tacit.evaluation.dense.metrics import confusion, miou
from tacit.settings import setting


@dataclass(frozen=True)
class Linear:
    """How the frozen linear head is trained."""

    size: int | None = setting(None, "Side in pixels that whole images are resized to; empty is the encoder's.", low=1)
    levels: str = setting("last", "The last level, or all at the finest grid.", choices=("last", "all"))
    solver: str = setting("lbfgs", "L-BFGS on all pixels, or SGD on batches of images.", choices=("lbfgs", "sgd"))
    batch_norm: bool = setting(True, "BatchNorm without affine first; of the whole set in L-BFGS.")
    strengths: tuple[float, ...] = setting((1e-1, 1e-2, 1e-3, 1e-4), "L2 penalties tried by L-BFGS.", low=0)
    iterations: int = setting(100, "Iterations of L-BFGS.", low=1)
    lrs: tuple[float, ...] = setting((0.01, 0.1, 1.0), "Learning rates tried by SGD.", low=0)
    steps: int = setting(1000, "Steps of SGD, with momentum .9 and a polynomial decay of power 1.", low=1)
    batch_size: int = setting(16, "Images a step of SGD, and at once in L-BFGS.", low=1)
    held_out: float = setting(0.2, "Share of the training images that choose among them.", low=0.01, high=0.9)


class Head(nn.Module):
    """Logits [B, K, h, w] of features [B, D, h, w]."""

    def __init__(self, width: int, classes: int, batch_norm: bool):
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False) if batch_norm else nn.Identity()
        self.conv = nn.Conv2d(width, classes, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def upsample(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of [B, K, h, w] upsampled to masks [B, H, W], averaged over the labelled pixels; 0 without one.

    mmsegmentation divides by all pixels instead, so that a crop counts less the more of it is ignored.
    """
    total = F.cross_entropy(upsample(logits, y.shape[1:]), y.long(), ignore_index=IGNORE, reduction="sum")
    return total / (y != IGNORE).sum().clamp_min(1)


def fit(x: Tensor, y: Tensor, classes: int, s: Linear, strength: float, seed: int, device: torch.device | str) -> Head:
    """Train one head, in eval mode afterwards; `strength` is L-BFGS's L2 penalty or SGD's learning rate.

    x: [N, D, h, w]; y: [N, S, S]. Raises `DataError` without a labelled pixel, `RunFailed` when the loss is NaN.
    """
    if not (y != IGNORE).any():
        raise DataError("None of the training masks has a labelled pixel.")
    torch.manual_seed(seed)
    head = Head(x.shape[1], classes, s.batch_norm).to(device)
    (_fit_lbfgs if s.solver == "lbfgs" else _fit_sgd)(head, x, y, s, strength, seed, device)
    if not torch.isfinite(head.conv.weight).all():
        raise RunFailed(f"The linear head diverged with {s.solver} at {strength:g}. Leave that value out.")
    return head.eval()


def _fit_lbfgs(head: Head, x: Tensor, y: Tensor, s: Linear, strength: float, seed: int, device) -> None:
    """Mean cross-entropy over all pixels + strength / 2 * |W|², the bias unpenalised; convex."""
    if s.batch_norm:
        head.norm.running_mean.copy_(x.mean((0, 2, 3)))
        head.norm.running_var.copy_(x.var((0, 2, 3), correction=0))
    head.eval()
    solver = torch.optim.LBFGS(
        head.conv.parameters(), max_iter=s.iterations, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-6, tolerance_change=1e-9,
    )  # fmt: skip
    count = (y != IGNORE).sum().to(device)

    def closure() -> Tensor:
        solver.zero_grad()
        penalty = strength / 2 * head.conv.weight.square().sum()
        penalty.backward()
        value = penalty.detach()
        for a, b in zip(x.split(s.batch_size), y.split(s.batch_size), strict=True):
            b = b.to(device)
            loss = pixel_loss(head(a.to(device)), b) * ((b != IGNORE).sum() / count)
            loss.backward()
            value = value + loss.detach()
        return value

    solver.step(closure)


def _fit_sgd(head: Head, x: Tensor, y: Tensor, s: Linear, rate: float, seed: int, device) -> None:
    solver = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-s.steps * s.batch_size // len(x)))])
    head.train()
    for i in range(s.steps):
        solver.param_groups[0]["lr"] = rate * (1 - i / s.steps)
        rows = order[i * s.batch_size : (i + 1) * s.batch_size]
        loss = pixel_loss(head(x[rows].to(device)), y[rows].to(device))
        solver.zero_grad()
        loss.backward()
        solver.step()


def swept(
    x: Tensor, y: Tensor, classes: int, s: Linear, *, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Head, float]:
    """A head on all of x [N, D, h, w], y [N, S, S], and the penalty or rate whose mIoU was best on held-out images.

    Where there is one to try it is taken. Raises `DataError` for fewer than two images to choose by.
    """
    tried = s.strengths if s.solver == "lbfgs" else s.lrs
    if len(tried) == 1:
        return fit(x, y, classes, s, tried[0], seed, device), tried[0]
    if len(x) < 2:
        raise DataError(f"A linear head needs two training images, one of them to choose its rate; there is {len(x)}.")
    rows = np.random.default_rng(seed).permutation(len(x))
    count = min(max(round(len(x) * s.held_out), 1), len(x) - 1)
    held, kept = rows[:count], rows[count:]
    best, best_score = tried[0], -1.0
    for value in tried:
        try:
            head = fit(x[kept], y[kept], classes, s, value, seed, device)
        except RunFailed:
            continue
        predicted = torch.cat([predict(head, x[i : i + 1], y.shape[1:], device) for i in held])
        score = float(np.nan_to_num(miou(confusion(predicted.numpy(), y[held].numpy(), classes)), nan=-1.0))
        best, best_score = (value, score) if score > best_score else (best, best_score)
    return fit(x, y, classes, s, best, seed, device), best


@torch.no_grad()
def predict(head: Head, x: Tensor, size: tuple[int, int] | torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """Classes [B, H, W] of features [B, D, h, w] at `size`, on the CPU."""
    return upsample(head(x.to(device)), size).argmax(1).cpu()
