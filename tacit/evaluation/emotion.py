"""Emotions and sentiment of talking people: an encoder of feature sequences fine-tuned on labels, and how it is scored.

Plain accuracy says nothing of rare emotions, so positives and negatives weigh the same: the weighted accuracy of
CMU-MOSEI (Zadeh et al. 2018) is the mean of both rates. What is chosen is chosen on a fifth of the labelled records,
whole videos, never on those that are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError, RunFailed
from tacit.evaluation.clinical import average_precision, choose_threshold
from tacit.evaluation.groups import grouped_split
from tacit.heads import ResidualClassifier
from tacit.views import Plain, SequenceInputs, rng

HEAVIEST = 10.0  # weight of a positive, at most
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the logistic regression of the raw input; sklearn's C
METRICS = ("weighted_accuracy", "weighted_f1", "average_precision")
OF_SENTIMENT = ("mae", "pearson", "acc2", "acc2_without_0", "acc5", "acc7")


def weighted_accuracy(said: np.ndarray, target: np.ndarray) -> float:
    """(TP N/P + TN) / 2N for P positives and N negatives: the mean of their rates. NaN where there is one kind.

    said, target: [M] bool.
    """
    said, target = np.asarray(said, bool), np.asarray(target, bool)
    p, n = target.sum(), (~target).sum()
    if not p or not n:
        return float("nan")
    return float(((said & target).sum() * n / p + (~said & ~target).sum()) / (2 * n))


def weighted_f1(said: np.ndarray, target: np.ndarray) -> float:
    """F1 of "there" and of "not there", weighted by how many are which."""
    said, target = np.asarray(said, bool), np.asarray(target, bool)
    each = []
    for s, t in ((said, target), (~said, ~target)):
        each.append((t.sum(), 2 * (s & t).sum() / max(s.sum() + t.sum(), 1)))
    return float(sum(n * f for n, f in each) / len(target))


def emotion_scores(p: np.ndarray, targets: np.ndarray, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """Each of `METRICS` [C] of probabilities [M, C] and targets [M, C] of 1, 0 and -1 (unknown, not counted); NaN for
    an emotion of which all records, or none, are."""
    found = {name: np.full(targets.shape[1], np.nan) for name in METRICS}
    for c, threshold in enumerate(thresholds):
        known = targets[:, c] >= 0
        y, q = targets[known, c] == 1, p[known, c]
        if not y.any() or y.all():
            continue
        said = q >= threshold
        values = (weighted_accuracy(said, y), weighted_f1(said, y), average_precision(q, y.astype(int)))
        for name, value in zip(METRICS, values, strict=True):
            found[name][c] = value
    return found


def sentiment_scores(p: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Errors of sentiment in [-3, 3], [M] and [M], by the conventions of MulT's code.

    acc2: negative or not; acc2_without_0: negative or positive, of records whose label is not 0. acc5 and acc7: rounded
    to whole numbers within 2 and 3.
    """
    p, target = np.asarray(p, np.float64), np.asarray(target, np.float64)
    some = target != 0
    constant = np.ptp(p) == 0 or np.ptp(target) == 0
    return {
        "mae": float(np.abs(p - target).mean()),
        "pearson": 0.0 if constant else float(np.corrcoef(p, target)[0, 1]),
        "acc2": float(((p >= 0) == (target >= 0)).mean()),
        "acc2_without_0": float(((p > 0) == (target > 0))[some].mean()) if some.any() else float("nan"),
        "acc5": float((np.round(p.clip(-2, 2)) == np.round(target.clip(-2, 2))).mean()),
        "acc7": float((np.round(p.clip(-3, 3)) == np.round(target.clip(-3, 3))).mean()),
    }


def positive_weights(targets: np.ndarray) -> np.ndarray:
    """min(N / P, 10) of every emotion [C]: how much more a positive counts."""
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    return np.minimum(negatives / np.maximum(positives, 1), HEAVIEST).clip(1e-3)


@dataclass(frozen=True)
class Recipe:
    epochs: int = 20
    batch_size: int = 32
    lrs: tuple[float, ...] = (5e-5,)  # of the encoder; of several the one that is best on the held-out part
    head_ratio: float = 10.0  # rate of the head, as a multiple
    weight_decay: float = 0.01
    dropout: float = 0.1  # of the head
    drop: float = 0.1  # chance that a modality of a record is left out, never all that it has
    clip: float = 1.0


class Labelled(nn.Module):
    """An encoder of sequences and what is above it: prepared rows [B, 1, n] -> [B, C], logits or numbers."""

    def __init__(self, encoder: Encoder, out: int, dropout: float, numbers: bool):
        super().__init__()
        self.numbers = numbers
        self.encoder, self.head = encoder, ResidualClassifier(encoder.width, out, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)).float()


@dataclass(frozen=True)
class Tuned:
    """A model as of its best epoch, and what was found on the way. score: of the held-out part, higher is better."""

    model: Labelled
    lr: float
    epoch: int
    score: float
    thresholds: np.ndarray


def rows_of(source: Source, inputs: SequenceInputs, index: np.ndarray, workers: int = 0) -> Tensor:
    """All readable records of these numbers as they are packed, held in memory: [N, 1, n]."""
    data = Plain(source.select(index), inputs)
    loader = DataLoader(data, batch_size=256, num_workers=workers, collate_fn=Plain.collate)
    return torch.cat([batch["image"] for batch in loader if batch["image"] is not None])


def labelled_rows(groups: np.ndarray | None, records: int, percent: float, seed: int) -> np.ndarray:
    """Rows of about so many per cent of the records, whole groups, drawn by `seed`; a smaller draw is part of a larger.

    Raises:
        DataError: fewer than ten.
    """
    groups = np.arange(records) if groups is None else np.asarray(groups)
    names, code = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([seed, 11]).permutation(len(names))
    sizes = np.bincount(code)[order]
    wanted = max(round(records * percent / 100), 1)
    take = order[: int(np.searchsorted(np.cumsum(sizes), wanted) + 1)]
    rows = np.flatnonzero(np.isin(code, take))
    if len(rows) < 10:
        raise DataError(f"{percent:g} % of {records:,} labelled records are {len(rows)}; ten are needed. Label more.")
    return rows


def apart(groups: np.ndarray | None, targets: np.ndarray, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `rows` those to fit and a fifth to choose on, whole groups in each."""
    own = np.arange(len(rows)) if groups is None else groups[rows]
    several = targets[rows] if targets.dtype.kind == "i" else None
    fit, held = grouped_split(own, several, 0.2, seed)
    return rows[fit], rows[held]


def tune(
    make: Callable[[], Encoder], x: Tensor, y: np.ndarray, fit: np.ndarray, held: np.ndarray, *, recipe: Recipe,
    seed: int = 0, threshold: str = "half", device: torch.device | str = "cpu",
    tell: Callable[[int, int], None] | None = None,
) -> Tuned:  # fmt: skip
    """Train an encoder and a head, as of the epoch that is best on `held`; of several rates the best.

    Args:
        make: a fresh copy of the encoder to start from, once a rate. x: packed rows [N, 1, n] of all records.
        y: [N, C] int8 of 1, 0 and -1, emotions; or [N, C] float, numbers (the loss is L1, the score minus the MAE).
        fit, held: rows of these. threshold: "half", or "validation": where WA on `held` is best.

    Raises:
        RunFailed: a loss that is no number.
    """
    best: Tuned | None = None
    done, total = count(1), len(recipe.lrs) * recipe.epochs
    for lr in recipe.lrs:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            found = _one_rate(
                make().to(device), x, y, fit, held, lr=lr, recipe=recipe, seed=seed, threshold=threshold, device=device,
                after=lambda: tell and tell(next(done), total),
            )  # fmt: skip
        if best is None or found.score > best.score:
            best = found
    return best


def _one_rate(encoder, x, y, fit, held, *, lr, recipe, seed, threshold, device, after) -> Tuned:
    numbers = y.dtype.kind == "f"
    model = Labelled(encoder, y.shape[1], recipe.dropout, numbers).to(device)
    groups = [
        {"params": [p for p in part.parameters() if (p.ndim > 1) is matrices], "scale": scale,
         "weight_decay": recipe.weight_decay if matrices else 0.0}
        for part, scale in ((model.encoder, 1.0), (model.head, recipe.head_ratio)) for matrices in (True, False)
    ]  # fmt: skip
    solver = torch.optim.AdamW(groups, lr=lr)
    for group in solver.param_groups:
        group["lr"] = lr * group["scale"]
    weight = None if numbers else torch.from_numpy(positive_weights(y[fit])).float().to(device)
    inputs, truth = encoder.inputs, torch.from_numpy(y).float()
    best, state = (-np.inf, 0), None
    for epoch in range(recipe.epochs):
        model.train()
        order = fit[rng(seed, epoch, 0, 0).permutation(len(fit))]
        for start in range(0, len(order), recipe.batch_size):
            rows = order[start : start + recipe.batch_size]
            batch = inputs.prepare(_with_gaps(x[rows], inputs, rows, recipe.drop, seed, epoch).to(device))
            logits, target = model(batch), truth[rows].to(device)
            if numbers:
                loss = F.l1_loss(logits, target)
            else:
                known = (target >= 0).float()
                loss = F.binary_cross_entropy_with_logits(
                    logits, target.clamp_min(0), weight=known / known.sum().clamp_min(1), pos_weight=weight,
                    reduction="sum",
                )  # fmt: skip
            if not torch.isfinite(loss):
                raise RunFailed(f"The loss is {float(loss)} in epoch {epoch + 1}. Lower lr ({lr:g}).")
            solver.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            solver.step()
        score = _held_score(predict(model, x[held], device), y[held])
        if score >= best[0] or state is None:  # of equal ones the later
            best, state = (score, epoch + 1), deepcopy(model.state_dict())
        after()
    model.load_state_dict(state)
    thresholds = np.full(y.shape[1], 0.5)
    if threshold == "validation" and not numbers:
        p = predict(model, x[held], device)
        for c in range(y.shape[1]):
            known = y[held, c] >= 0
            if len(set(y[held, c][known].tolist())) == 2:
                thresholds[c] = choose_threshold(p[known, c], y[held, c][known])
    return Tuned(model.eval(), lr, best[1], float(best[0]), thresholds)


def _held_score(p: np.ndarray, y: np.ndarray) -> float:
    if y.dtype.kind == "f":
        return -float(np.abs(p - y).mean())
    values = emotion_scores(p, y, np.full(y.shape[1], 0.5))["weighted_accuracy"]
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _with_gaps(x: Tensor, inputs: SequenceInputs, rows: np.ndarray, drop: float, seed: int, epoch: int) -> Tensor:
    """The same rows, of each record each modality left out with chance `drop`, unless nothing were left."""
    if not drop:
        return x
    x = x.clone()
    parts = inputs.parts(x)
    for place, row in enumerate(rows.tolist()):
        u = rng(seed, epoch, row, 1).random(len(parts))
        there = [name for name, part in parts.items() if not bool(part[place].isnan().all())]
        gone = [name for name, v in zip(parts, u, strict=True) if v < drop and name in there]
        for name in gone if len(gone) < len(there) else gone[1:]:
            parts[name][place] = float("nan")
    return x


@torch.no_grad()
def predict(model: Labelled, x: Tensor, device: torch.device | str = "cpu", absent: Sequence[str] = ()) -> np.ndarray:
    """Probabilities [M, C] of emotions, or numbers as they are, of packed rows [M, 1, n] in which the modalities
    `absent` are missing."""
    model.eval()
    inputs = model.encoder.inputs
    found = []
    for part in x.split(256):
        rows = inputs.without(part, tuple(absent)) if absent else part
        found.append(model(inputs.prepare(rows.to(device))).cpu())
    logits = torch.cat(found).double()
    return (logits if model.numbers else logits.sigmoid()).numpy()


def raw_emotions(x: np.ndarray, y: np.ndarray, fit: np.ndarray, held: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Probabilities [M, C] of logistic regressions on features [N, D], positives weighted as in `positive_weights`; the
    strength is best on `held`. An emotion without positives or negatives in `fit` is told by its share."""
    from sklearn.linear_model import LogisticRegression  # which takes long to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    p = np.empty((len(test), y.shape[1]))
    for c in range(y.shape[1]):
        a, b = fit[y[fit, c] >= 0], held[y[held, c] >= 0]
        if len(set(y[a, c].tolist())) < 2:
            p[:, c] = float((y[a, c] == 1).mean()) if len(a) else 0.0
            continue
        weight = {0: 1.0, 1: float(positive_weights(y[a])[c])}
        tried = []
        for strength in STRENGTHS:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weight, max_iter=500))
            model.fit(x[a], y[a, c])
            score = weighted_accuracy(model.predict(x[b]) == 1, y[b, c] == 1) if len(b) else float("nan")
            tried.append((0.0 if np.isnan(score) else score, model))
        p[:, c] = max(tried, key=lambda t: t[0])[1].predict_proba(test)[:, 1]
    return p
