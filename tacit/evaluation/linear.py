"""Linear probes: a fast logistic regression on features, and the MoBY paper's own SGD protocol through the encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Batches, Source
from tacit.encoders import Encoder
from tacit.views import Crop, Views, collate, finish

STRENGTHS = tuple(10.0**e for e in (-6, -5, -4, -3, -2, -1, 0))  # of the L2 penalty, per record


def fit_logistic(
    x: Tensor, y: Tensor, classes: int, strength: float, start: Tensor | None = None, iterations: int = 200
) -> Tensor:
    """Multinomial logistic regression by L-BFGS: mean cross-entropy + strength / 2 * |W|², the bias unpenalised.

    x: [N, D] with a last column of ones; y: [N]. Returns the weights [D, classes].
    """
    w = (torch.zeros(x.shape[1], classes) if start is None else start.clone()).requires_grad_()
    solver = torch.optim.LBFGS(
        [w], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=1e-5,
        tolerance_change=1e-9,
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ w, y) + strength / 2 * w[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return w.detach()


def logistic(train: Tensor, labels: Tensor, test: Tensor, *, classes: int, seed: int = 0) -> tuple[Tensor, float]:
    """Predictions [M] for `test` [M, D] and the strength chosen for them.

    Features are standardised by the training set; the strength is swept on a held-out fifth of it, from strong to weak
    with warm starts, and the model is fitted again on all of it. The test set is only predicted.
    """
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    x, x_test = (torch.cat([(f - mean) / std, torch.ones(len(f), 1)], dim=1) for f in (train, test))
    keep, held = stratified(labels.numpy(), 0.2, seed)
    scores, start = [], None
    for strength in reversed(STRENGTHS):
        start = fit_logistic(x[keep], labels[keep], classes, strength, start, iterations=60)
        right = (x[held] @ start).argmax(1) == labels[held]
        scores.append((float(right.float().mean()), strength))  # ties go to the stronger, which comes first
    best = max(scores, key=lambda s: s[0])[1]
    w = fit_logistic(x, labels, classes, best)
    return (x_test @ w).argmax(1), best


def stratified(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the records, the second with `share` of each class: at least one of it, never all of it."""
    rng = np.random.default_rng(seed)
    held = []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        count = min(max(round(len(rows) * share), 1), len(rows) - 1)
        held.append(rows[:count])
    second = np.sort(np.concatenate(held))
    first = np.setdiff1d(np.arange(len(labels)), second)
    return first, second


def sgd_schedule(step: int, steps: int, warmup: int, batch: int) -> float:
    """Learning rate of the MoBY probe: 1.0 per 512 records, linear warm-up, cosine at the absolute step to 5e-6."""
    scale = batch / 512
    if step < warmup:
        return scale * (5e-7 + step * (1.0 - 5e-7) / warmup)
    return scale * (5e-6 + 0.5 * (1.0 - 5e-6) * (1 + np.cos(np.pi * step / steps)))


def linear_sgd(
    encoder: Encoder,
    source: Source,
    test: Tensor,
    *,
    classes: int,
    seed: int = 0,
    epochs: int = 100,
    batch_size: int = 512,
    warmup_epochs: int = 5,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Predictions [M] for test features [M, D] by the probe of the MoBY paper (official moby_linear.py).

    One Linear on the frozen encoder: SGD with Nesterov momentum .9 and no weight decay, label smoothing .1, gradient
    clip 5, random resized crops and flips of the training images. The encoder is in eval mode; the official code leaves
    it in train mode, where drop path acts on the frozen blocks.
    """
    encoder = encoder.to(device).eval()
    torch.manual_seed(seed)
    head = nn.Linear(encoder.width, classes).to(device)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    batch_size = min(batch_size, len(source))
    per_epoch = len(source) // batch_size
    steps = epochs * per_epoch
    solver = torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    view = Crop(inputs=encoder.inputs, name="probe")
    loader = DataLoader(
        Views(source, [view], seed),
        batch_sampler=Batches(source, batch_size=batch_size, seed=seed, total_steps=steps),
        collate_fn=collate,
        num_workers=workers,
    )
    for step, batch in enumerate(loader):
        solver.param_groups[0]["lr"] = sgd_schedule(step, steps, warmup_epochs * per_epoch, batch_size)
        with torch.no_grad():
            x = encoder(finish(batch, [view])[0]["image"].to(device)).float()
        loss = F.cross_entropy(head(x), batch["label"].to(device), label_smoothing=0.1)
        solver.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        solver.step()
        if progress is not None:
            progress(step + 1, steps)
    with torch.no_grad():
        return head(test.to(device)).argmax(1).cpu()
