"""Protocols for records of one class each: a task and options in, scores out."""

from __future__ import annotations

from dataclasses import replace

import torch

from tacit.errors import UsageError
from tacit.evaluation import resume
from tacit.evaluation.attentive import PAPER, attentive, heads_of
from tacit.evaluation.clinical import binary_scores, choose_threshold, multi_class_scores
from tacit.evaluation.fine_tune import fine_tune
from tacit.evaluation.knn import knn_sweep
from tacit.evaluation.linear import logistic, stratified
from tacit.evaluation.linear_sgd import PRESETS, fit_into, linear_sgd
from tacit.evaluation.neck import drawn_afresh, first_blocks
from tacit.evaluation.options import one_of
from tacit.evaluation.recipes import RECIPES, Recipe
from tacit.evaluation.retrieval import by_label
from tacit.evaluation.task import Score, Task, random_twin
from tacit.evaluation.tuned_kinds import PICTURES, kind_of, recipe_of
from tacit.precision import resolved

VOTES = ("weighted", "majority")
THRESHOLDS = ("youden", "f1", "sensitivity", "specificity")
ACCURACIES = ("top1", "mean_per_class", "both")


def run_knn(
    task: Task, *, k: tuple[int, ...] = (20,), vote: str = "weighted", temperature: float = 0.07,
    feature: str = "pooled", metric: str = "top1", centre: bool = False,
) -> list[Score]:  # fmt: skip
    """The k nearest training records vote, weighted by exp(cosine / temperature) or one vote each.

    `centre`: the training mean is subtracted first (UNI, with one vote each).
    """
    one_of("vote", vote, VOTES)
    one_of("metric", metric, ACCURACIES)
    train, test = task.x(feature)
    if centre:
        train, test = train - train.mean(0), test - train.mean(0)
    tau = temperature if vote == "weighted" else None
    found = knn_sweep(train, task.train.y, test, ks=k, classes=task.classes, temperature=tau)
    said = {"feature": feature, "vote": vote} | ({"temperature": temperature} if tau else {})
    said |= {"centre": True} if centre else {}
    return [
        score
        for n, p in found.items()
        for score in task.accuracies(f"knn:k={n}" if len(k) > 1 else "knn", p, {"k": n, **said}, metric)
    ]


def run_linear(task: Task, *, feature: str = "pooled", metric: str = "top1") -> list[Score]:
    """Logistic regression (L-BFGS) on standardised features, its L2 strength swept on held-out fifths."""
    one_of("metric", metric, ACCURACIES)
    train, test = task.x(feature)
    how = {"classes": task.classes, "seed": task.seed, "groups": task.train.groups}
    found, strength = logistic(train, task.train.y, test, **how)
    said = {"solver": "l-bfgs", "l2": strength, "feature": feature}
    return task.accuracies("linear", found.argmax(1), said, metric)


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


def run_attentive(
    task: Task, *, epochs: int = 0, batch_size: int = 0, lr: float = 0.0, heads: int = 0, seeds: int = 1
) -> list[Score]:
    """One learned query that attends to all tokens of the frozen encoder, and a linear layer (CAE); 0 for the paper's
    own, of `heads` the encoder's."""
    changes = {"epochs": epochs, "batch_size": batch_size, "lrs": (lr,) if lr else ()}
    chosen = fit_into(replace(PAPER, **{name: value for name, value in changes.items() if value}), task.train.source)
    right = []
    for seed in range(task.seed, task.seed + seeds):
        found = attentive(
            task.encoder, task.train.source, task.test.source, classes=task.classes, preset=chosen, heads=heads,
            seed=seed, workers=task.workers, device=task.device, progress=task.tell("attentive"),
        )  # fmt: skip
        right.append(found.predicted == torch.from_numpy(task.test.source.labels[found.index.numpy()]))
    said = {
        "epochs": chosen.epochs, "batch_size": chosen.batch_size, "lr": chosen.lrs[0],
        "heads": heads_of(task.encoder, heads), "feature": "all tokens, by a learned query", "encoder_mode": "eval",
    }  # fmt: skip
    return [task.over_seeds("attentive", right, said)]


def run_fine_tune(
    task: Task, *, recipe: str = "small", epochs: int = 0, steps: int = 0, batch_size: int = 0, neck: int = 0,
    seeds: int = 1, precision: str = "auto", flip: bool = True,
) -> list[Score]:  # fmt: skip
    """The whole encoder trained on the labels, by a paper's recipe: small, deit or transfer (MoCo v3); of films and
    waveforms small or vatt.

    `neck` layers of the run's projection head stay below the classifier (SimCLR v2). With several `seeds` the score is
    their mean; the encoder at random initialisation, and its neck, are drawn anew for each. `precision`: 32, bf16, or
    auto, which is bf16 where the hardware has it. `flip=no`: nothing is mirrored.
    """
    precision, kind = resolved(precision, task.device), kind_of(task.encoder.inputs)
    chosen = _changed(recipe_of(recipe, task.encoder.inputs), epochs, steps, batch_size, flip)
    layers, width = first_blocks(task.projector, neck) if neck else (None, None)
    source, right = task.train.source, []
    if kind is not PICTURES:  # of clips those alone that have what the encoder looks at
        source = task.train.origin.select(task.train.found.index.numpy())
    for seed in range(task.seed, task.seed + seeds):
        encoder, head = task.encoder, layers
        if task.of == "random-init":
            encoder, head = random_twin(encoder, seed), head and drawn_afresh(head, seed)
        predicted, index = fine_tune(
            encoder, source, task.test.source, classes=task.classes, recipe=chosen, neck=head,
            neck_width=width, seed=seed, workers=task.workers, device=task.device, progress=task.tell("fine_tune"),
            precision=precision, checkpoint=resume.folder(task.cache),
        )  # fmt: skip
        right.append(predicted == torch.from_numpy(task.test.source.labels[index.numpy()]))
    length = {"steps": chosen.steps} if chosen.steps else {"epochs": chosen.epochs}
    said = {
        "recipe": recipe, **length, "batch_size": chosen.batch_size, "precision": precision,
        "feature": "pooled, all weights trained", **kind.said,
    }  # fmt: skip
    if kind is not PICTURES and recipe in RECIPES:
        said["left_out"] = "RandAugment"
    said |= ({"neck": neck} if neck else {}) | ({} if flip else {"flip": False})
    return [task.over_seeds("fine_tune", right, said)]


def _changed(recipe: Recipe, epochs: int, steps: int, batch_size: int, flip: bool) -> Recipe:
    """The recipe with what was asked for; 0 for its own."""
    if epochs and steps:
        raise UsageError("fine_tune: epochs and steps are two ways to say how long it trains. Give one.")
    length = {"epochs": epochs, "steps": 0} if epochs else {"steps": steps} if steps else {}
    size = {"batch_size": batch_size} if batch_size else {}
    return replace(recipe, **length, **size, flip=recipe.flip if flip else 0.0)


def run_clinical(task: Task, *, threshold: str = "youden", level: float = 0.95, feature: str = "pooled") -> list[Score]:
    """What clinics ask of a logistic regression: AUROC, sensitivity, specificity, calibration, kappa and more.

    With two classes the second is the finding, and its threshold is chosen on the training set's held-out part.
    """
    one_of("threshold", threshold, THRESHOLDS)
    train, test = task.x(feature)
    y, truth = task.train.y.numpy(), task.test.y.numpy()
    how, groups = {"classes": task.classes, "seed": task.seed}, task.train.groups
    found, strength = logistic(train, task.train.y, test, groups=groups, **how)
    said = {"l2": strength, "feature": feature}
    common = {"groups": task.test.groups, "resamples": 500, "seed": task.seed}
    if task.classes == 2:
        rows, held = task.parts(y) or stratified(y, 0.2, task.seed)
        own = None if groups is None else groups[rows]
        on_held, _ = logistic(train[rows], task.train.y[rows], train[held], groups=own, **how)
        cut = choose_threshold(on_held[:, 1].numpy(), y[held], by=threshold, level=level)
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


def preset_of(name: str):
    one_of("preset", name, PRESETS)
    return PRESETS[name]
