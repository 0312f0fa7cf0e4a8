"""Sounds told apart by labels: an encoder fine-tuned with cross-entropy, and contrast under labels before or beside it
(La Quatra et al. 2024, arXiv 2406.15862; see `tacit.evaluation.contrast`), or a teacher beside it (see
`tacit.evaluation.sound_teacher`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit import objectives
from tacit.data import Balanced, Batches, Source
from tacit.encoders import Encoder, Speech, depth_of
from tacit.errors import DataError, RunFailed
from tacit.evaluation.contrast import contrast, projector
from tacit.evaluation.features import Features, features
from tacit.evaluation.fine_tune import Classifier
from tacit.evaluation.knn import knn_predict
from tacit.evaluation.multi_label import per_class
from tacit.evaluation.resume import seed_step
from tacit.evaluation.separation import NEIGHBOURS, macro_f1
from tacit.evaluation.sound_augment import changed, training_view
from tacit.evaluation.sound_recipes import Settings
from tacit.evaluation.sound_teacher import check_teacher, logits_in_pieces
from tacit.precision import autocast, resolved, unfuse_attention
from tacit.views import Views, collate


@dataclass
class Trained:
    """The classifier, on the CPU in evaluation mode; what was seen on the way.

    history: a row an epoch, `{"stage", "epoch", "score"}`, the score being macro F1 on the validation part, mAP where
        recordings have several labels, or of the stage before the accuracy of its neighbours in the training part. The
        best epoch's weights were kept.
    anchors: share of the recordings in contrasted batches that had another of their class.
    bad: (name, reason) of training records that could not be read.
    """

    model: Classifier
    history: list[dict[str, Any]] = field(default_factory=list)
    anchors: float | None = None
    bad: dict[str, str] = field(default_factory=dict)


def train(
    encoder: Encoder,
    source: Source,
    held: Source,
    *,
    settings: Settings,
    teacher: Classifier | None = None,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Trained:
    """A copy of `encoder` with a linear layer, trained on the labels of `source`; the epoch is chosen on `held`.

    Labels are classes, or several a recording (`source.targets` of 1, 0 and -1, which is unknown and teaches nothing),
    for settings as `sound_recipes.for_several` makes them. Batches are the same whatever the loss: P classes with K
    recordings each, of different groups where possible, or all recordings epoch by epoch. With a `contrast_weight` of
    0, or a `teacher_weight` of 0, what is trained is, bit for bit, what cross-entropy alone trains.

    Args:
        teacher: a classifier of the same classes in the same order, which reads what the encoder reads.

    Raises:
        DataError: a class of which contrast has no pair. RunFailed: a loss that is no number. UsageError: a teacher
            that reads other spectrograms, or longer ones.
    """
    s, device, classes = settings, torch.device(device), classes_of(source)
    if s.contrast != "none":
        counts = torch.bincount(torch.from_numpy(source.labels), minlength=len(source.classes))
        if lone := [source.classes[i] for i in (counts < 2).nonzero()[:, 0].tolist()]:
            raise DataError(
                f"{', '.join(lone[:5])}: fewer than two recordings to learn from, and contrast needs pairs of a class. "
                "Leave the class out, or contrast."
            )
    precision = resolved(s.precision, device)
    encoder = deepcopy(encoder)
    if isinstance(encoder, Speech):
        encoder.inputs = replace(encoder.inputs, seconds=s.seconds)
        encoder.freeze_front()
    torch.manual_seed(seed)
    model = Classifier(encoder, len(classes), _norm(s.norm, encoder.width)).to(device)
    if s.norm == "batch":
        nn.init.normal_(model.head.weight, std=0.01)
    if teacher is not None:
        check_teacher(teacher, encoder)
        teacher = deepcopy(teacher).to(device).eval().requires_grad_(False)
        unfuse_attention(teacher, device, precision)
    projection = projector(encoder.width, s.projection).to(device) if s.contrast != "none" else nn.Identity()
    unfuse_attention(model, device, precision)
    out, anchors = Trained(model), []

    def contrasted(_: Tensor, f: Tensor, y: Tensor) -> Tensor:
        anchors.append(float(objectives.anchors(y).float().mean()))
        return contrast(s, projection(f), y)

    def named(x: Tensor, f: Tensor, y: Tensor) -> Tensor:
        logits = model.head(model.neck(f)).float()
        loss = judged(s.loss, logits, y)
        if teacher is not None and s.teacher_weight:
            wanted = logits_in_pieces(teacher, x).float()
            wanted = wanted.sigmoid() if s.loss == "binary" else wanted.softmax(1)
            loss = s.teacher_weight * judged(s.loss, logits, wanted) + (1 - s.teacher_weight) * loss
        return loss + s.contrast_weight * contrasted(x, f, y) if s.beside else loss

    how = {"s": s, "workers": workers, "device": device, "precision": precision}
    fit = partial(_fit, model, projection, source, out, progress=progress, **how)
    look = partial(features, model.encoder, workers=workers, devices=[device])
    if s.before:
        fit("contrast", contrasted, lambda: _neighbours(look(source), look(held)), s.contrast_epochs, seed + 1)
    score = _f1 if source.targets is None else _mean_precision
    fit("cross-entropy", named, lambda: score(model, held, look(held)), s.epochs, seed)
    model.requires_grad_(True).cpu().eval()
    out.anchors = sum(anchors) / len(anchors) if anchors else None
    return out


def classes_of(source: Source) -> list[str]:
    """Names of the classes, or of the labels of which a recording may have several."""
    return list(source.classes if source.targets is None else source.targets.names)


def judged(loss: str, logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits [B, classes] with labels [B], or with what is wanted of each class [B, classes]: of the
    softmax, or "binary", the mean over the classes of which something is known (not NaN)."""
    if loss == "softmax":
        return F.cross_entropy(logits, y)
    wanted = y if y.is_floating_point() else F.one_hot(y, logits.shape[1]).to(logits.dtype)
    known = ~wanted.isnan()
    if known.all():
        return F.binary_cross_entropy_with_logits(logits, wanted)
    each = F.binary_cross_entropy_with_logits(logits, wanted.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def pace(step: int, steps: int, per_epoch: int, s: Settings) -> float:
    """Of a rate: rising to 1 over a share of the steps, then falling to 0 in a line or a cosine, or by steps."""
    rising = max(round(s.warmup * steps), 1) if s.warmup else 0
    if step < rising:
        return (step + 1) / rising
    if s.fall == "steps":
        first, every, by = s.fall_steps
        done = (step // per_epoch - first) // max(every, 1) + 1
        return by ** max(done, 0)
    left = (steps - step) / max(steps - rising, 1)
    return left if s.fall == "line" else 0.5 - 0.5 * math.cos(math.pi * left)


def logits(model: Classifier, found: Features) -> Tensor:
    """[N, classes] in float32 of features that were looked at already."""
    with torch.no_grad():
        return model.head(model.neck(found.x.to(model.head.weight.device))).float().cpu()


def _fit(
    model: Classifier, projection: nn.Module, source: Source, out: Trained, name: str,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], check: Callable[[], float], epochs: int, seed: int, *,
    s: Settings, workers: int, device: torch.device, precision: str, progress: Callable[[str, int, int], None] | None,
) -> None:  # fmt: skip
    """Epochs of one loss of what is read, its features and its labels, and the weights of the epoch that `check` finds
    best."""
    per_epoch = max(len(source) // s.batch_size, 1)
    steps = epochs * per_epoch
    solver, view = _solver(model, projection, s), training_view(model.encoder, s)
    if s.batches == "shuffled":
        order = Batches(source, batch_size=min(s.batch_size, len(source)), seed=seed, total_steps=steps)
    else:
        classes = min(s.batch_classes, len(source.classes))
        each = max(s.batch_size // classes, 2)
        order = Balanced(source.labels, source.groups, classes=classes, each=each, seed=seed, steps=steps)
    loader = DataLoader(Views(source, [view], seed), collate_fn=collate, num_workers=workers, batch_sampler=order)
    best, kept, classes = -1.0, {}, len(classes_of(source))
    model.train()
    for step, found in enumerate(loader):
        for group in solver.param_groups:
            group["lr"] = group["peak"] * pace(step, steps, per_epoch, s)
        seed_step(seed, step)
        out.bad |= {where: why for _, where, why in found["bad"]}
        seen = found["views"][0]
        y = found["label"] if source.targets is None else _known(source, found["index"])
        x, y = changed(s, model.encoder, seen["image"], seen["params"], y, classes)
        x, y = x.to(device), y.to(device)
        with autocast(device, precision):
            loss = loss_of(x, model.encoder(x), y)
        if not torch.isfinite(loss):
            raise RunFailed(
                f"The loss is {float(loss.detach())} at step {step} of {steps} of {name}. Lower lr ({s.lr:g}) or "
                f"head_lr ({s.head_lr:g})."
            )
        solver.zero_grad()
        loss.backward()
        if s.clip:
            nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            if own := list(projection.parameters()):  # clipped apart, so that they do not shorten the others'
                nn.utils.clip_grad_norm_(own, s.clip)
        solver.step()
        if progress is not None:
            progress(name, step + 1, steps)
        if (step + 1) % per_epoch == 0:
            score = check()
            out.history.append({"stage": name, "epoch": (step + 1) // per_epoch, "score": score})
            if score > best:
                best, kept = score, {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
            model.train()
    model.load_state_dict(kept)


def _known(source: Source, index: Tensor) -> Tensor:
    """Several labels a recording, [B, classes] of 1, 0 and NaN where unknown."""
    values = torch.from_numpy(source.targets.values)[index].float()
    return values.masked_fill(values < 0, torch.nan)


def _norm(kind: str, width: int) -> nn.Module | None:
    if kind == "none":
        return None
    return nn.Sequential(nn.LayerNorm(width) if kind == "layer" else nn.BatchNorm1d(width, affine=False))


def _solver(model: Classifier, projection: nn.Module, s: Settings) -> torch.optim.Optimizer:
    """At the rate of the encoder, lower in its lower layers, and at another above it; vectors do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in [*model.named_parameters(), *projection.named_parameters()]:
        peak = s.head_lr
        if name.startswith("encoder."):
            depth, layers = depth_of(name.removeprefix("encoder.trunk."), model.encoder)
            peak = s.lr * s.layer_decay ** (layers - depth)
        if p.requires_grad:
            groups.setdefault((peak, 0.0 if p.ndim < 2 else s.weight_decay), []).append(p)
    given = [{"params": ps, "peak": peak, "weight_decay": decay} for (peak, decay), ps in groups.items()]
    if s.optimizer == "sgd":
        return torch.optim.SGD(given, lr=0.0, momentum=0.9)
    kind = torch.optim.AdamW if s.optimizer == "adamw" else torch.optim.Adam
    return kind(given, lr=0.0, betas=s.betas)


def _f1(model: Classifier, held: Source, found: Features) -> float:
    return macro_f1(found.y.numpy(), logits(model, found).argmax(1).numpy())


def _mean_precision(model: Classifier, held: Source, found: Features) -> float:
    return per_class(logits(model, found).numpy(), held.targets.values[found.index.numpy()]).mean


def _neighbours(bank: Features, query: Features) -> float:
    """Accuracy by the nearest training records, of other groups since the parts share none."""
    classes = int(max(bank.y.max(), query.y.max())) + 1
    predicted = knn_predict(bank.x, bank.y, query.x, k=NEIGHBOURS, classes=classes, temperature=None)
    return float((predicted == query.y).float().mean())
