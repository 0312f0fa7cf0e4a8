"""The table of protocols: what each is called, what it may be told, and which features it looks at.

A protocol is asked for by its name, or with options: `knn:k=200`, `few_shot:shots=1/5:classifier=prototypes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tacit.encoders import Encoder
from tacit.errors import BadSettings, Unknown
from tacit.evaluation import low_shot
from tacit.evaluation.knn import knn_sweep
from tacit.evaluation.linear import logistic
from tacit.evaluation.linear_sgd import PRESETS, fit_into, linear_sgd, usable
from tacit.evaluation.task import Score, Task

FEW = {"logistic": low_shot.logistic_few, "prototypes": low_shot.prototypes, "msn": low_shot.msn}


def _knn(
    task: Task, *, k: tuple[int, ...] = (20,), vote: str = "weighted", temperature: float = 0.07,
    feature: str = "pooled",
) -> list[Score]:  # fmt: skip
    """The k nearest training records vote, weighted by exp(cosine / temperature) or one vote each."""
    _one_of("vote", vote, ("weighted", "majority"))
    train, test = task.x(feature)
    tau = temperature if vote == "weighted" else None
    found = knn_sweep(train, task.train.y, test, ks=k, classes=task.classes, temperature=tau)
    said = {"feature": feature, "vote": vote} | ({"temperature": temperature} if tau else {})
    return [task.accuracy(f"knn:k={n}" if len(k) > 1 else "knn", p, {"k": n, **said}) for n, p in found.items()]


def _linear(task: Task, *, feature: str = "pooled") -> list[Score]:
    """Logistic regression (L-BFGS) on standardised features, its L2 strength swept on a held-out fifth."""
    train, test = task.x(feature)
    predicted, strength = logistic(train, task.train.y, test, classes=task.classes, seed=task.seed)
    return [task.accuracy("linear", predicted, {"solver": "l-bfgs", "l2": strength, "feature": feature})]


def _linear_sgd(task: Task, *, preset: str = "moby", epochs: int = 0, batch_size: int = 0) -> list[Score]:
    """A paper's linear probe: SGD on augmented images through the frozen encoder; 0 for the paper's own length."""
    chosen = _preset(preset)
    if epochs:
        chosen = replace(chosen, epochs=epochs)
    if batch_size:
        chosen = replace(chosen, batch_size=batch_size)
    chosen = fit_into(chosen, task.source)
    found = linear_sgd(
        task.encoder, task.source, task.test.more, classes=task.classes, preset=chosen, seed=task.seed,
        workers=task.workers, device=task.device, progress=task.tell("linear_sgd"),
    )  # fmt: skip
    said = {
        "preset": preset, "epochs": chosen.epochs, "batch_size": chosen.batch_size, "lr": found.lr,
        "feature": found.feature, "encoder_mode": "eval",
    }  # fmt: skip
    if found.grid:
        said |= {"grid": found.grid, "chosen_on": "a held-out tenth of the training set"}
    return [task.accuracy("linear_sgd", found.predicted, said)]


def _few_shot(
    task: Task, *, shots: tuple[int, ...] = (5,), draws: int = 10, classifier: str = "logistic",
    feature: str = "pooled",
) -> list[Score]:  # fmt: skip
    """`shots` training records of every class, drawn anew `draws` times; logistic, prototypes or msn."""
    y = task.train.y.numpy()
    return [
        _few(
            task, f"few_shot:shots={n}" if len(shots) > 1 else "few_shot", classifier, feature,
            low_shot.draw_shots(y, n, draws, classes=task.classes, seed=task.seed), {"shots": n, "draws": draws},
        )
        for n in shots
    ]  # fmt: skip


def _percent(
    task: Task, *, share: tuple[float, ...] = (1.0, 10.0), draws: int = 3, classifier: str = "logistic",
    feature: str = "pooled",
) -> list[Score]:  # fmt: skip
    """This per cent of every class's training records, at least one, drawn anew `draws` times."""
    y = task.train.y.numpy()
    return [
        _few(
            task, f"percent:share={n:g}" if len(share) > 1 else "percent", classifier, feature,
            low_shot.draw_share(y, n / 100, draws, classes=task.classes, seed=task.seed), {"share": n, "draws": draws},
        )
        for n in share
    ]  # fmt: skip


def _budget(
    task: Task, *, labels: tuple[int, ...] = (), draws: int = 5, classifier: str = "logistic", feature: str = "pooled"
) -> list[Score]:
    """A curve over numbers of labels, nested and in the classes' proportions; by default doubling from one a class."""
    y = task.train.y.numpy()
    budgets = labels or tuple(int(n) for n in task.classes * 2 ** np.arange(20) if n <= len(y))
    return [
        _few(
            task, f"budget:labels={n}", classifier, feature,
            low_shot.draw_budget(y, n, draws, classes=task.classes, seed=task.seed), {"labels": n, "draws": draws},
        )
        for n in budgets
    ]  # fmt: skip


def _few(task: Task, name: str, classifier: str, feature: str, rows: list[np.ndarray], said: dict[str, Any]) -> Score:
    _one_of("classifier", classifier, FEW)
    train, test = task.x(feature)
    predicted = []
    for r in rows:
        r = torch.from_numpy(r)
        found = FEW[classifier](train[r], task.train.y[r], test, classes=task.classes)
        predicted.append(found[0] if isinstance(found, tuple) else found)
    return task.accuracy_over_draws(name, predicted, {**said, "classifier": classifier, "feature": feature})


@dataclass(frozen=True)
class Protocol:
    """`run(task, **options)`; options are its keywords. Raw inputs are scored too unless it needs an encoder."""

    run: Callable[..., list[Score]]
    needs_encoder: bool = False


PROTOCOLS = {
    "knn": Protocol(_knn),
    "linear": Protocol(_linear),
    "linear_sgd": Protocol(_linear_sgd, needs_encoder=True),
    "few_shot": Protocol(_few_shot),
    "percent": Protocol(_percent),
    "budget": Protocol(_budget),
}


@dataclass(frozen=True)
class Asked:
    """One protocol with its options, as a user asked for it."""

    spec: str
    name: str
    options: dict[str, Any]

    def features(self, encoder: Encoder) -> tuple[str, ...]:
        """The choices of feature it looks at."""
        if self.name == "linear_sgd":
            return usable(encoder, _preset(self.options.get("preset", "moby")).features)
        return (self.options.get("feature", "pooled"),)

    def run(self, task: Task) -> list[Score]:
        return PROTOCOLS[self.name].run(task, **self.options)


def parse(spec: str) -> Asked:
    """`name` or `name:option=value:…`; several values are `10/20/100`.

    Raises:
        Unknown: no such protocol or option. BadSettings: a value that is no number where one is needed.
    """
    name, *pairs = spec.strip().split(":")
    if name not in PROTOCOLS:
        raise Unknown("protocol", name, PROTOCOLS)
    known = options_of(name)
    options: dict[str, Any] = {}
    for pair in pairs:
        option, _, text = pair.partition("=")
        if option not in known:
            raise Unknown(f"option of {name}", option, known)
        options[option] = _value(f"{name}:{option}", text, known[option])
    return Asked(spec.strip(), name, options)


def options_of(name: str) -> dict[str, Any]:
    """Options of a protocol and their defaults."""
    parameters = inspect.signature(PROTOCOLS[name].run).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _value(where: str, text: str, default: Any) -> Any:
    many = isinstance(default, tuple)
    like = (default[0] if default else 1) if many else default
    try:
        values = tuple(type(like)(part) for part in (text.split("/") if many else [text]))
    except ValueError as error:
        raise BadSettings([f"{where} = {text}: must be {'numbers like 1/5/10' if many else 'a number'}."]) from error
    if not isinstance(like, str) and min(values) <= 0:
        raise BadSettings([f"{where} = {text}: must be above 0."])
    return values if many else values[0]


def _preset(name: str):
    _one_of("preset", name, PRESETS)
    return PRESETS[name]


def _one_of(what: str, value: str, known: Sequence[str] | dict[str, Any]) -> None:
    if value not in known:
        raise Unknown(what, value, known)
