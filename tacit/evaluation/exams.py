"""Exams by their slices (SB-SSL): a transformer over embeddings of slices, beside their mean and maximum.

First on embeddings that stay as they are, then, where the recipe says so, the encoder with it. The epoch is chosen by
the AUROC of a fifth of the exams to learn from, never by those that are tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder, set_drop_path
from tacit.errors import DataError, RunFailed
from tacit.evaluation import fine_tune
from tacit.evaluation.choices import available, choose
from tacit.evaluation.clinical import auroc, choose_threshold
from tacit.evaluation.exam_sets import ExamSet
from tacit.evaluation.features import all_devices, features
from tacit.evaluation.groups import bootstrap_groups, check_groups, grouped_split
from tacit.evaluation.resume import seed_step
from tacit.heads import Aggregator, padded
from tacit.views import Crop, Tilted, Views, collate, finish, rng

HEADS = {"transformer": {}, "mean": {"depth": 0, "pool": "mean"}, "max": {"depth": 0, "pool": "max"}}
METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "accuracy_youden", "sensitivity_youden",
           "specificity_youden")  # fmt: skip
FUSIONS = ("probabilities", "cls")
FUSED = "fused"


@dataclass(frozen=True)
class Recipe:
    """Exams of `batch` at a step, of each at most `slices`, drawn and kept in order; all of them when asked. `lr` is of
    the first stage, `linear_lr` of the mean and the maximum in it; the second, `tune_epochs` long, has lower rates in
    lower layers."""

    depth: int = 2
    width: int = 384
    heads: int = 6
    dropout: float = 0.1
    batch: int = 8
    slices: int = 32
    epochs: int = 50
    lr: float = 5e-4
    linear_lr: float = 1e-2
    weight_decay: float = 0.05
    tune_epochs: int = 50
    tune_batch: int = 4
    tune_lr: float = 1e-4
    layer_decay: float = 0.75
    drop_path: float = 0.1


RECIPES = {
    "paper": Recipe(),
    "frozen": Recipe(tune_epochs=0),
    # For some hundred exams of small slices and one CPU.
    "small": Recipe(width=128, heads=4, epochs=30, lr=1e-3, tune_epochs=0),
    "small_tuned": Recipe(width=128, heads=4, epochs=30, lr=1e-3, tune_epochs=10, drop_path=0.05),
}


@dataclass(frozen=True)
class Trained:
    """probability: [E] of every exam asked for; tokens: [E, width] of what the last layer reads."""

    probability: np.ndarray
    tokens: np.ndarray


class ExamClassifier(nn.Module):
    """An encoder of slices and what makes an answer of them: [N, C, H, W], exam after exam -> logits [B]."""

    def __init__(self, encoder: Encoder, aggregator: Aggregator, feature: str):
        super().__init__()
        self.encoder, self.aggregator, self.feature = encoder, aggregator, feature

    def forward(self, images: Tensor, counts: list[int], place: Tensor) -> Tensor:
        x = choose(self.encoder, images, (self.feature,))[self.feature]
        return self.aggregator(*padded(list(x.split(counts))), place)[0]


def positive_weight(labels: Tensor) -> float:
    """(1 - p) / p of the share p of positives, so that both classes weigh the same (MRNet)."""
    share = float((labels == 1).double().mean())
    return (1 - share) / share


def weighted_bce(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Mean over [B] of the binary cross-entropy, that of positives times `weight`, in float32."""
    return F.binary_cross_entropy_with_logits(
        logits.float(), labels.float(), pos_weight=torch.tensor(weight, device=logits.device)
    )


def chosen(count: int, most: int, seed: int, epoch: int, exam: int) -> np.ndarray:
    """At most `most` of `count` slices, in their order; they belong to (seed, epoch, exam)."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng(seed, epoch, exam, 0).choice(count, most, replace=False))


def fit_exams(
    slices: Sequence[Tensor], labels: Tensor, fit: np.ndarray, held: np.ndarray, *, recipe: Recipe, seed: int = 0,
    head: str = "transformer", tell: Callable[[int, int], None] | None = None,
) -> Aggregator:  # fmt: skip
    """What makes an answer of an exam's embeddings, trained on those of `fit`, as of its best epoch on `held`.

    Args:
        slices: E x [S_e, D]. labels: [E] of 0 and 1. fit, held: numbers of exams.

    Raises:
        RunFailed: a loss that is no number.
    """
    weight, best = positive_weight(labels[fit]), (-1.0, 0.0)
    lr = recipe.linear_lr if HEADS[head] else recipe.lr
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        how = {"depth": recipe.depth, "width": recipe.width, "heads": recipe.heads, "dropout": recipe.dropout}
        model = Aggregator(slices[0].shape[1], **{**how, **HEADS[head]})
        model.standardise(torch.cat([slices[i] for i in fit]))
        solver = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=recipe.weight_decay)
        kept = deepcopy(model.state_dict())
        for epoch in range(recipe.epochs):
            model.train()
            for group in solver.param_groups:
                group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * epoch / recipe.epochs))
            for rows in _batches(fit, recipe.batch, seed, epoch):
                taken = [chosen(len(slices[i]), recipe.slices, seed, epoch, i) for i in rows]
                x, valid = padded([slices[i][t] for i, t in zip(rows, taken, strict=True)])
                logits, _ = model(x, valid, _places([len(slices[i]) for i in rows], taken))
                _step(solver, weighted_bce(logits, labels[rows], weight), epoch, lr)
            p = predict_exams(model, [slices[i] for i in held])
            if (reached := _reached(p.probability, labels[held], weight)) > best:
                best, kept = reached, deepcopy(model.state_dict())
            if tell:
                tell(epoch + 1, recipe.epochs)
    model.load_state_dict(kept)
    return model.eval()


@torch.no_grad()
def predict_exams(model: Aggregator, slices: Sequence[Tensor], batch: int = 32) -> Trained:
    """Of all slices of every exam."""
    model.eval()
    found = [model(*padded(list(slices[i : i + batch]))) for i in range(0, len(slices), batch)]
    logits, tokens = (torch.cat(part) for part in zip(*found, strict=True))
    return Trained(logits.double().sigmoid().numpy(), tokens.numpy())


def tune_exams(
    encoder: Encoder, aggregator: Aggregator, source: Source, records: Sequence[np.ndarray], labels: Tensor,
    fit: np.ndarray, held: np.ndarray, asked: np.ndarray, *, feature: str, recipe: Recipe, seed: int = 0,
    workers: int = 0, tell: Callable[[int, int], None] | None = None,
) -> Trained:  # fmt: skip
    """The second stage, encoder and all, on copies; of the `asked` exams, as of the best epoch on `held`.

    The first stage counts as an epoch, so that it stays where the second makes nothing better.

    Args:
        records: E x [S_e] numbers of the readable slices in `source`.
    """
    device = all_devices()[0]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        model = ExamClassifier(set_drop_path(deepcopy(encoder), recipe.drop_path), deepcopy(aggregator), feature)
        model.to(device)
        r = fine_tune.Recipe(
            epochs=recipe.tune_epochs, batch_size=recipe.tune_batch, lr=recipe.tune_lr * 256 / recipe.tune_batch,
            warmup_epochs=1, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay,
        )  # fmt: skip
        solver = torch.optim.AdamW(fine_tune.parameter_groups(model, r), lr=0.0)
        per_epoch = -(-len(fit) // recipe.tune_batch)
        steps, weight, best, kept = recipe.tune_epochs * per_epoch, positive_weight(labels[fit]), (-1.0, 0.0), None
        crop = Crop(encoder.inputs, "slice", scale=(0.5, 1.0), jitter=(0.2, 0.2, 0.0, 0.0), jitter_p=1.0)
        views = [Tilted(crop, 10.0)]
        for epoch in range(recipe.tune_epochs + 1):
            p = _asked(model, source, [records[i] for i in held], workers)
            if (reached := _reached(p.probability, labels[held], weight)) > best:
                best, kept = reached, {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
            if epoch == recipe.tune_epochs:
                break
            batches = _batches(fit, recipe.tune_batch, seed, epoch)
            taken = [[chosen(len(records[i]), recipe.slices, seed, epoch, i) for i in rows] for rows in batches]
            wanted = [
                [(epoch, int(records[i][k])) for i, t in zip(rows, ts, strict=True) for k in t]
                for rows, ts in zip(batches, taken, strict=True)
            ]
            loader = DataLoader(
                Views(source, views, seed), batch_sampler=wanted, collate_fn=collate, num_workers=workers
            )
            model.train()
            for number, (found, rows, ts) in enumerate(zip(loader, batches, taken, strict=True)):
                step = epoch * per_epoch + number
                for group in solver.param_groups:
                    group["lr"] = fine_tune.rate(step, steps, per_epoch, r) * group["scale"]
                seed_step(seed, step)
                images = finish(found, views)[0]["image"].to(device)
                place = _places([len(records[i]) for i in rows], ts).to(device)
                loss = weighted_bce(model(images, [len(t) for t in ts], place), labels[rows].to(device), weight)
                _step(solver, loss, epoch, recipe.tune_lr)
            if tell:
                tell(epoch + 1, recipe.tune_epochs)
        model.load_state_dict(kept)
        return _asked(model, source, [records[i] for i in asked], workers)


def _asked(model: ExamClassifier, source: Source, records: Sequence[np.ndarray], workers: int) -> Trained:
    part = source.select(np.concatenate(records))
    device = next(model.parameters()).device
    x = features(model.encoder, part, names=(model.feature,), workers=workers, devices=[device]).x
    return predict_exams(deepcopy(model.aggregator).cpu(), list(x.split([len(r) for r in records])))


def _batches(exams: np.ndarray, batch: int, seed: int, epoch: int) -> list[list[int]]:
    order = rng(seed, epoch, 0, 1).permutation(exams).tolist()
    return [order[i : i + batch] for i in range(0, len(order), batch)]


def _places(counts: list[int], taken: list[np.ndarray]) -> Tensor:
    """Where the taken slices are in their exam, from 0 to 1, with zeros behind: [B, S]."""
    rows = [torch.from_numpy(t / max(n - 1, 1)).float() for n, t in zip(counts, taken, strict=True)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _step(solver: torch.optim.Optimizer, loss: Tensor, epoch: int, lr: float) -> None:
    if not torch.isfinite(loss):
        raise RunFailed(f"The loss is {float(loss)} in epoch {epoch}. Lower the rate ({lr:g}).")
    solver.zero_grad()
    loss.backward()
    solver.step()


def _reached(probability: np.ndarray, labels: Tensor, weight: float) -> tuple[float, float]:
    """AUROC first, then the loss: of few exams many epochs have the same AUROC."""
    p = torch.from_numpy(probability).clamp(1e-7, 1 - 1e-7)
    return auroc(probability, labels.numpy()), -float(weighted_bce(torch.logit(p), labels, weight))


def fuse(planes: Sequence[Trained], labels: np.ndarray, fit: np.ndarray, held: np.ndarray, how: str) -> np.ndarray:
    """Probabilities [E] of several planes together, by logistic regression.

    how: "probabilities", one a plane, of the held-out exams that no plane was trained on (MRNet, where it was trained
    on the training exams); or "cls", the classes' tokens joined, of the exams that planes were trained on.
    """
    if how == "cls":
        x, rows = np.concatenate([p.tokens for p in planes], axis=1), fit
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    else:
        x, rows, model = np.stack([p.probability for p in planes], axis=1), held, LogisticRegression(max_iter=1000)
    return model.fit(x[rows], labels[rows]).predict_proba(x)[:, 1]


def score_exams(
    exams: ExamSet, encoders: dict[str, dict[str, Encoder]], *, recipe: Recipe, fusion: str = "probabilities",
    seed: int = 0, workers: int = 0, cache: bool = True, resamples: int = 2000,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Scores of every encoder, head and plane, and of the planes together; and what each said of every test exam.

    Args:
        encoders: by what they are ("run", "random-init") and by plane.

    Returns:
        `{"results": [{"of", "plane", "head", "metric", "value", "low", "high", "n"}], "differences", "bad_files"}`,
        intervals by the bootstrap over test exams, or patients; differences are of "run" to the others, in AUROC, on
        the same exams. Rows: `{"exam", "plane", "of", "head", "label", "probability"}`.

    Raises:
        DataError: too few exams of a class to choose an epoch on.
    """
    labels, train, test = torch.from_numpy(exams.labels), exams.train, exams.test
    check_groups(exams.groups[train], exams.groups[test])
    inner, outer = grouped_split(exams.groups[train], exams.labels[train], 0.2, seed)
    fit, held = train[inner], train[outer]
    if min(len(set(exams.labels[side].tolist())) for side in (fit, held)) < 2:
        raise DataError(
            f"Of {len(train)} exams to learn from, a fifth to choose the epoch on lacks a class. Label more."
        )
    said: dict[tuple[str, str, str], np.ndarray] = {}
    shuffled: dict[tuple[str, str, str], np.ndarray] = {}
    bad: list[tuple[str, str]] = []
    for of, by_plane in encoders.items():
        found: dict[str, list[Trained]] = {head: [] for head in HEADS}
        for plane, source in exams.sources.items():
            encoder, what = by_plane[plane], f"{of}{f', {plane}' if plane else ''}"
            feature = "cls_mean" if "cls_mean" in available(encoder) else "pooled"
            tell = progress and (lambda done, total, what=what: progress(f"slices, {what}", done, total))
            records, slices = _embedded(encoder, source, exams, plane, feature, workers, cache, tell, bad)
            for head in HEADS:
                tell = progress and (lambda d, n, what=what, head=head: progress(f"{head}, {what}", d, n))
                model = fit_exams(slices, labels, fit, held, recipe=recipe, seed=seed, head=head, tell=tell)
                told = predict_exams(model, slices)
                if head == "transformer":
                    if recipe.tune_epochs:
                        told = tune_exams(
                            encoder, model, source, records, labels, fit, held, np.arange(len(slices)),
                            feature=feature, recipe=recipe, seed=seed, workers=workers, tell=tell,
                        )  # fmt: skip
                    else:
                        mixed = [x[rng(seed, 0, i, 2).permutation(len(x))] for i, x in enumerate(slices)]
                        shuffled[of, plane, head] = predict_exams(model, mixed).probability
                found[head].append(told)
                said[of, plane, head] = told.probability
        if len(exams.sources) > 1:
            for head, several in found.items():
                said[of, FUSED, head] = fuse(several, exams.labels, fit, held, fusion)
    results = [
        row for key, p in said.items() for row in _scored(key, p, exams, held, shuffled.get(key), seed, resamples)
    ]
    for plane, rows in exams.rows.items():
        count = np.array([len(r) for r in rows], dtype=np.float64)
        found = _interval(exams, _wins(exams, count), seed, resamples)
        results += _rows(("slice count", plane, "number of slices"), ["auroc"], found)
    differences = []
    for (of, plane, head), p in said.items():
        if of != "run" and ("run", plane, head) in said:
            gain = _wins(exams, said["run", plane, head]) - _wins(exams, p)
            differences += _rows((of, plane, head), ["auroc"], _interval(exams, gain, seed, resamples))
    for row in (*results, *differences):
        row["n"] = len(test)
    rows = [
        {"exam": exams.ids[i], "plane": plane, "of": of, "head": head, "label": int(exams.labels[i]),
         "probability": float(p[i])}
        for (of, plane, head), p in said.items() for i in test.tolist()
    ]  # fmt: skip
    return {"results": results, "differences": differences, "bad_files": [*exams.skipped, *bad]}, rows


def _embedded(encoder, source, exams, plane, feature, workers, cache, tell, bad) -> tuple[list, list[Tensor]]:
    """Numbers and embeddings of the readable slices of every exam."""
    found = features(encoder, source, names=(feature,), workers=workers, cache=cache, progress=tell)
    bad += [item for item in found.bad if item not in bad]
    at = np.full(len(source), -1)
    at[found.index.numpy()] = np.arange(len(found.index))
    records = [rows[at[rows] >= 0] for rows in exams.rows[plane]]
    if lost := [exams.ids[i] for i, rows in enumerate(records) if not len(rows)]:
        raise DataError(f"No slice of the exam {lost[0]} can be read any more ({len(lost)} such exams). Take it away.")
    return records, [found.x[torch.from_numpy(at[rows])] for rows in records]


def _scored(
    key, p: np.ndarray, exams: ExamSet, held: np.ndarray, shuffled: np.ndarray | None, seed: int, resamples: int
) -> list[dict]:
    cuts = (0.5, choose_threshold(p[held], exams.labels[held]))
    hits = [(p >= cut) == (exams.labels == 1) for cut in cuts]
    rows = _rows(key, METRICS, _interval(exams, _wins(exams, p), seed, resamples, hits))
    if shuffled is not None:
        rows += _rows(key, ["auroc_shuffled"], _interval(exams, _wins(exams, shuffled), seed, resamples))
    return rows


def _wins(exams: ExamSet, score: np.ndarray) -> np.ndarray:
    """Of test exams, whether a positive scores above a negative, half for a tie: [positives, negatives]."""
    score, one = score[exams.test], exams.labels[exams.test] == 1
    up, down = score[one][:, None], score[~one]
    return (up > down) + 0.5 * (up == down)


def _interval(exams: ExamSet, wins: np.ndarray, seed: int, resamples: int, hits: Sequence[np.ndarray] = ()) -> tuple:
    """(values, lows, highs): the AUROC, then accuracy, sensitivity and specificity of each of `hits` [E].

    A resample is how often each test exam is drawn; none is ranked anew."""
    one = exams.labels[exams.test] == 1
    hits = [hit[exams.test].astype(np.float64) for hit in hits]

    def every(drawn: np.ndarray) -> list[float]:
        count = np.bincount(drawn, minlength=len(one)).astype(np.float64)
        up, down = count[one], count[~one]
        with np.errstate(invalid="ignore"):
            found = [up @ wins @ down / (up.sum() * down.sum())]
            for hit in hits:
                found += [count @ hit / count.sum(), up @ hit[one] / up.sum(), down @ hit[~one] / down.sum()]
        return found

    return bootstrap_groups(np.arange(len(one)), exams.groups[exams.test], every, resamples=resamples, seed=seed)


def _rows(key: tuple[str, str, str], metrics: Sequence[str], found: tuple) -> list[dict[str, Any]]:
    about = dict(zip(("of", "plane", "head"), key, strict=True))
    return [
        {**about, "metric": m, "value": float(v), "low": float(lo), "high": float(hi)}
        for m, v, lo, hi in zip(metrics, *found, strict=True)
    ]
