"""The protocols that score features, one function each: a task and options in, scores out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from tacit.encoders import Encoder, describe
from tacit.errors import DataError
from tacit.evaluation import label_free, low_shot
from tacit.evaluation.augmented import augmented_features
from tacit.evaluation.cache import fingerprint
from tacit.evaluation.checkpoint import Checkpoint
from tacit.evaluation.clinical import binary_scores, choose_threshold, multi_class_scores
from tacit.evaluation.correspondence import correspondences
from tacit.evaluation.fine_tune import RECIPES, Recipe, fine_tune
from tacit.evaluation.knn import knn_sweep
from tacit.evaluation.linear import logistic, stratified
from tacit.evaluation.linear_sgd import PRESETS, fit_into, linear_sgd
from tacit.evaluation.multi_label import multi_label_probe, per_class
from tacit.evaluation.neck import drawn_afresh, first_blocks
from tacit.evaluation.options import one_of
from tacit.evaluation.regression import errors, ridge
from tacit.evaluation.retrieval import by_label
from tacit.evaluation.task import Score, Task, random_twin
from tacit.precision import bf16_is_fast

LABEL_FREE = 2000  # test features that label-free measures look at
LIDAR = (200, 10)  # records and augmented views of each
FEW = {"logistic": low_shot.logistic_few, "prototypes": low_shot.prototypes, "msn": low_shot.msn}


def run_knn(
    task: Task, *, k: tuple[int, ...] = (20,), vote: str = "weighted", temperature: float = 0.07,
    feature: str = "pooled",
) -> list[Score]:  # fmt: skip
    """The k nearest training records vote, weighted by exp(cosine / temperature) or one vote each."""
    one_of("vote", vote, ("weighted", "majority"))
    train, test = task.x(feature)
    tau = temperature if vote == "weighted" else None
    found = knn_sweep(train, task.train.y, test, ks=k, classes=task.classes, temperature=tau)
    said = {"feature": feature, "vote": vote} | ({"temperature": temperature} if tau else {})
    return [task.accuracy(f"knn:k={n}" if len(k) > 1 else "knn", p, {"k": n, **said}) for n, p in found.items()]


def run_linear(task: Task, *, feature: str = "pooled") -> list[Score]:
    """Logistic regression (L-BFGS) on standardised features, its L2 strength swept on a held-out fifth."""
    train, test = task.x(feature)
    found, strength = logistic(
        train, task.train.y, test, classes=task.classes, seed=task.seed, parts=task.parts(task.train.y.numpy())
    )
    return [task.accuracy("linear", found.argmax(1), {"solver": "l-bfgs", "l2": strength, "feature": feature})]


def run_linear_sgd(
    task: Task, *, preset: str = "moby", epochs: int = 0, batch_size: int = 0, seeds: int = 1
) -> list[Score]:
    """A paper's linear probe: SGD on augmented images through the frozen encoder; 0 for the paper's own length."""
    chosen = preset_of(preset)
    if epochs:
        chosen = replace(chosen, epochs=epochs)
    if batch_size:
        chosen = replace(chosen, batch_size=batch_size)
    chosen = fit_into(chosen, task.train.source)
    found = [
        linear_sgd(
            task.encoder, task.train.source, task.test.found.more, classes=task.classes, preset=chosen, seed=seed,
            workers=task.workers, device=task.device, progress=task.tell("linear_sgd"),
        )
        for seed in range(task.seed, task.seed + seeds)
    ]  # fmt: skip
    first = found[0]
    said = {
        "preset": preset, "epochs": chosen.epochs, "batch_size": chosen.batch_size, "lr": first.lr,
        "feature": first.feature, "encoder_mode": "eval",
    }  # fmt: skip
    if first.grid:
        said |= {"grid": first.grid, "chosen_on": "a held-out tenth of the training set"}
        if seeds > 1:
            said |= {
                "lr": [f.lr for f in found],
                "feature": [f.feature for f in found],
                "grid": [f.grid for f in found],
            }
    return [task.over_seeds("linear_sgd", [f.predicted == task.test.y for f in found], said)]


def run_fine_tune(
    task: Task, *, recipe: str = "small", epochs: int = 0, batch_size: int = 0, neck: int = 0, seeds: int = 1,
    precision: str = "auto",
) -> list[Score]:  # fmt: skip
    """The whole encoder trained on the labels, by a paper's recipe: small, deit or transfer (MoCo v3).

    `neck` layers of the run's projection head stay below the classifier (SimCLR v2). With several `seeds` the score is
    their mean; the encoder at random initialisation, and its neck, are drawn anew for each. `precision`: 32, bf16, or
    auto, which is bf16 where the hardware has it.
    """
    one_of("recipe", recipe, RECIPES)
    one_of("precision", precision, ("auto", "32", "bf16"))
    bf16 = bf16_is_fast(task.device) if precision == "auto" else precision == "bf16"
    changes = {k: v for k, v in (("epochs", epochs), ("batch_size", batch_size)) if v}
    chosen = replace(RECIPES[recipe], **changes)
    layers, width = first_blocks(task.projector, neck) if neck else (None, None)
    right = []
    for seed in range(task.seed, task.seed + seeds):
        encoder, head = task.encoder, layers
        if task.of == "random-init":
            encoder, head = random_twin(encoder, seed), head and drawn_afresh(head, seed)
        predicted, index = fine_tune(
            encoder, task.train.source, task.test.source, classes=task.classes, recipe=chosen, neck=head,
            neck_width=width, seed=seed, workers=task.workers, device=task.device, bf16=bf16,
            checkpoint=_checkpoint(task, encoder, chosen, head, seed, bf16) if task.cache else None,
            progress=task.tell("fine_tune"),
        )  # fmt: skip
        right.append(predicted == torch.from_numpy(task.test.source.labels[index.numpy()]))
    said = {"recipe": recipe, "epochs": chosen.epochs, "batch_size": chosen.batch_size}
    said["precision"] = "bf16" if bf16 else "32"
    return [task.over_seeds("fine_tune", right, said | ({"neck": neck} if neck else {}))]


def _checkpoint(task: Task, encoder: Encoder, recipe: Recipe, neck: Any, seed: int, bf16: bool) -> Checkpoint:
    """Of this training and no other."""
    return Checkpoint.of(
        "fine_tune", describe(encoder), fingerprint(encoder), neck and fingerprint(neck), asdict(recipe), task.classes,
        task.train.source.stamp(), seed, bf16, str(task.device),
    )  # fmt: skip


def run_few_shot(
    task: Task, *, shots: tuple[int, ...] = (5,), draws: int = 10, classifier: str = "logistic",
    feature: str = "pooled", store: str = "",
) -> list[Score]:  # fmt: skip
    """`shots` training records of every class, drawn anew `draws` times; logistic, prototypes or msn.

    `store`: a folder of lists of names, 5-shot-0.txt and on. Those that are there are used, the others are written.
    """
    return _drawn(task, "few_shot", "shots", shots, low_shot.draw_shots, draws, classifier, feature, store)


def run_percent(
    task: Task, *, share: tuple[float, ...] = (1.0, 10.0), draws: int = 3, classifier: str = "logistic",
    feature: str = "pooled", store: str = "",
) -> list[Score]:  # fmt: skip
    """This per cent of every class's training records, at least one, drawn anew `draws` times.

    `store`: a folder of lists of names, 10-percent-0.txt and on. Those that are there are used, the others are written.
    """

    def draw(labels: np.ndarray, percent: float, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return low_shot.draw_share(labels, percent / 100, *args, **kwargs)

    return _drawn(task, "percent", "share", share, draw, draws, classifier, feature, store)


def run_subset(task: Task, *, file: str = "", classifier: str = "logistic", feature: str = "pooled") -> list[Score]:
    """The training records that a text file names, one a line by name or by file name, as the papers' 1 % and 10 %."""
    one_of("classifier", classifier, FEW)
    rows = low_shot.rows_named(file, _names(task))
    missing = np.setdiff1d(np.arange(task.classes), task.train.y[rows])
    if len(missing):
        raise DataError(f"{file} names no record of {len(missing)} of {task.classes} classes.")
    train, test = task.x(feature)
    found = FEW[classifier](train[rows], task.train.y[rows], test, classes=task.classes)
    predicted = found[0] if isinstance(found, tuple) else found
    said = {"file": os.path.basename(file), "labels": len(rows), "classifier": classifier, "feature": feature}
    return [task.accuracy("subset", predicted, said)]


def run_budget(
    task: Task, *, labels: tuple[int, ...] = (), draws: int = 5, classifier: str = "logistic", feature: str = "pooled"
) -> list[Score]:
    """A curve over numbers of labels, nested and in the classes' proportions; by default doubling from one a class."""
    budgets = labels or tuple(int(n) for n in task.classes * 2 ** np.arange(20) if n <= len(task.train.y))
    return _drawn(task, "budget", "labels", budgets, low_shot.draw_budget, draws, classifier, feature)


FILES = {"shots": "shot", "share": "percent"}  # what a list of names is of


def _drawn(
    task: Task, protocol: str, option: str, amounts: tuple[float, ...], draw: Callable[..., list[np.ndarray]],
    draws: int, classifier: str, feature: str, store: str = "",
) -> list[Score]:  # fmt: skip
    """One score an amount of labels: the mean over draws of them."""
    one_of("classifier", classifier, FEW)
    train, test = task.x(feature)
    y = task.train.y.numpy()
    scores = []
    for amount in amounts:
        found = draw(y, amount, draws, classes=task.classes, seed=task.seed)
        said = {option: amount, "draws": draws}
        spelt = f"{amount:g}" if isinstance(amount, float) else str(amount)
        if store:
            found = low_shot.kept_draws(os.path.join(store, f"{spelt}-{FILES[option]}"), found, _names(task), y)
            said["store"] = os.path.basename(os.path.normpath(store))
        predicted = []
        for rows in map(torch.from_numpy, found):
            made = FEW[classifier](train[rows], task.train.y[rows], test, classes=task.classes)
            predicted.append(made[0] if isinstance(made, tuple) else made)
        alone = len(amounts) == 1 and protocol != "budget"
        name = protocol if alone else f"{protocol}:{option}={spelt}"
        said |= {"classifier": classifier, "feature": feature}
        scores.append(task.accuracy_over_draws(name, predicted, said))
    return scores


def _names(task: Task) -> list[str]:
    """Of the training records that could be read."""
    return [task.train.origin.name(int(i)) for i in task.train.found.index]


def run_clinical(task: Task, *, threshold: str = "youden", level: float = 0.95, feature: str = "pooled") -> list[Score]:
    """What clinics ask of a logistic regression: AUROC, sensitivity, specificity, calibration, kappa and more.

    With two classes the second is the finding, and its threshold is chosen on the training set's held-out part.
    """
    one_of("threshold", threshold, ("youden", "f1", "sensitivity", "specificity"))
    train, test = task.x(feature)
    y, truth = task.train.y.numpy(), task.test.y.numpy()
    parts = task.parts(y) or stratified(y, 0.2, task.seed)
    how = {"classes": task.classes, "seed": task.seed}
    found, strength = logistic(train, task.train.y, test, parts=parts, **how)
    said = {"l2": strength, "feature": feature}
    common = {"groups": task.test.groups, "resamples": 500, "seed": task.seed}
    if task.classes == 2:
        rows, held = (torch.from_numpy(part) for part in parts)
        on_held, _ = logistic(train[rows], task.train.y[rows], train[held], **how)
        cut = choose_threshold(on_held[:, 1].numpy(), y[parts[1]], by=threshold, level=level)
        scores = binary_scores(found[:, 1].numpy(), truth, threshold=cut, **common)
        said |= {"threshold": round(float(cut), 4), "chosen_by": threshold}
    else:
        scores = multi_class_scores(found.numpy(), truth, **common)
    return [Score("clinical", name, *map(float, v), len(truth), task.of, said) for name, v in scores.items()]


def run_retrieval(task: Task, *, k: tuple[int, ...] = (1, 5), feature: str = "pooled") -> list[Score]:
    """Test records look for training records of their class by cosine: mAP over the whole ranking, and R@k."""
    train, test = task.x(feature)
    found = by_label(test, task.test.y, train, task.train.y, hits=k, precision=(), vote=())
    wanted = {"AP": "map"} | {f"R@{n}": f"recall_at_{n}" for n in k}
    return [task.mean("retrieval", name, found.values[key], {"feature": feature}) for key, name in wanted.items()]


def run_ridge(task: Task, *, feature: str = "pooled") -> list[Score]:
    """Ridge regression of every column of numbers, its strength chosen on the training set: R2, MAE, NMAD."""
    train, test = (x.numpy() for x in task.x(feature))
    parts = task.parts(None)
    found = ridge(train, task.train.targets, test, select="held-out" if parts else "gcv", parts=parts, seed=task.seed)
    scores = []
    for i, name in enumerate(task.train.source.targets.names):
        said = {"column": name, "l2": float(found.strength[i]), "feature": feature}
        label = "ridge" if found.predicted.shape[1] == 1 else f"ridge:{name}"
        both = found.predicted[:, i], task.test.targets[:, i]
        for metric in ("r2", "mae", "nmad", "spearman"):
            scores.append(task.statistic(label, metric, both, lambda p, t, m=metric: errors(p, t)[m], said))
    return scores


def run_multi_label(task: Task, *, metric: str = "average_precision", feature: str = "pooled") -> list[Score]:
    """One-vs-rest logistic regression for several labels a record: the mean over the labels of a per-class metric."""
    train, test = task.x(feature)
    y, truth = task.train.targets, task.test.targets
    parts = task.parts(y)
    found, strength = multi_label_probe(train, torch.from_numpy(y).float(), test, parts=parts, seed=task.seed)
    names = task.train.source.targets.names
    whole = per_class(found.numpy(), truth, metric, names)
    said = {
        "l2": strength, "feature": feature, "left_out": list(whole.left_out),
        "per_class": {n: round(float(v), 4) for n, v in zip(names, whole.values, strict=True) if np.isfinite(v)},
    }  # fmt: skip
    name = "map" if metric == "average_precision" else metric

    def mean(scores: np.ndarray, targets: np.ndarray) -> float:
        return per_class(scores, targets, metric).mean

    return [task.statistic("multi_label", name, (found.numpy(), truth), mean, said, resamples=200)]


def run_label_free(task: Task, *, feature: str = "pooled", lidar: bool = True) -> list[Score]:
    """RankMe, alpha-ReQ, uniformity and spread of up to 2,000 test features, and LiDAR of views of up to 200 records.

    Intervals come from random halves of the records. What too few records do not allow is left out, and said.
    """
    rng = np.random.default_rng(task.seed)
    x = task.x(feature)[1]
    x = x[_some(rng, len(x), LABEL_FREE)]
    measures = {
        "rankme": (label_free.rankme, x), "alpha_req": (label_free.alpha_req, x),
        "feature_std": (label_free.feature_std, x), "uniformity": (label_free.uniformity, x),
    }  # fmt: skip
    said: dict[str, Any] = {"feature": feature, "interval_over": "random halves"}
    left_out = {}
    if task.encoder is not None and lidar and len(x) >= 3:
        rows = task.test.found.index[_some(rng, len(task.test.found.index), LIDAR[0])]
        views = augmented_features(
            task.encoder, task.test.origin.select(rows.numpy()), views=LIDAR[1], feature=feature, seed=task.seed,
            workers=task.workers, device=task.device, progress=task.tell("lidar"),
        )  # fmt: skip
        measures["lidar"] = (label_free.lidar, views)
        said["lidar_views"] = LIDAR[1]
    elif task.encoder is not None:
        left_out["lidar"] = "it takes three records or more" if lidar else "lidar=no"
    found = []
    for name, (measure, on) in measures.items():
        try:
            found.append((name, len(on), *_with_halves(measure, on, task.seed)))
        except DataError as error:
            left_out[name] = str(error)
    if left_out:
        said["left_out"] = left_out
    return [
        Score("label_free", name, value, value - half, value + half, n, task.of, said) for name, n, value, half in found
    ]


def _some(rng: np.random.Generator, count: int, most: int) -> torch.Tensor:
    """Rows in their order: all, or `most` drawn by chance, since neighbours in a folder are of one class."""
    return torch.from_numpy(np.sort(rng.permutation(count)[:most]))


def _with_halves(measure: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, seed: int) -> tuple[float, float]:
    """A measure and half the width of its interval, from how it varies over random halves of the records."""
    rng = np.random.default_rng(seed)
    halves = [torch.from_numpy(rng.permutation(len(x))[: max(len(x) // 2, 2)]) for _ in range(20)]
    values = [float(measure(part)) for part in (x, *(x[rows] for rows in halves))]
    if not np.isfinite(values).all():
        raise DataError(f"undefined for {len(x)} records")
    return values[0], 1.96 * float(np.std(values[1:]))


def run_correspondence(task: Task, *, top: int = 10) -> list[Score]:
    """EsViT's: of a picture's regions and those of its mirrored grey copy, how many of the surest pairs are true."""
    found = correspondences(
        task.encoder, task.test.source, top=top, seed=task.seed, workers=task.workers, device=task.device,
        progress=task.tell("correspondence"),
    )  # fmt: skip
    return [task.mean("correspondence", "accuracy", found.accuracy, {"top": top, "chance": found.chance})]


def preset_of(name: str):
    one_of("preset", name, PRESETS)
    return PRESETS[name]
