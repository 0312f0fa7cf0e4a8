"""The table of protocols: what each is called, what it may be told, and which features it looks at.

A protocol is asked for by its name, or with options: `knn:k=200`, `few_shot:shots=1/5:classifier=prototypes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tacit.data import kinds
from tacit.data.targets import WORDS
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import across, few_labels, options, other_labels, scenes, standard
from tacit.evaluation.linear_sgd import PRESETS, usable
from tacit.evaluation.options import Asked
from tacit.evaluation.recipes import NAMES
from tacit.evaluation.talkers import THRESHOLDS, run_emotion
from tacit.evaluation.task import Score
from tacit.evaluation.tuned_kinds import WHAT, can_be_tuned
from tacit.evaluation.verification import run_verification
from tacit.precision import CHOICES
from tacit.views import field_of
from tacit.views.kinds import AnyInputs

ANY = frozenset(["class", "numbers", "multi", "none"])
CLASSES = frozenset(["class"])


class Inputs(NamedTuple):
    """Which inputs a protocol is for: in words, and whether some are of these."""

    what: str
    fit: Callable[[AnyInputs], bool]


ALL = Inputs("all", lambda inputs: True)
IMAGES = Inputs("images", lambda inputs: field_of(inputs) == "image")
SOUNDS = Inputs("sounds", lambda inputs: field_of(inputs) == "audio")
SEQUENCES = Inputs("feature sequences", lambda inputs: field_of(inputs) == "sequences")
TUNED = Inputs(WHAT, can_be_tuned)


@dataclass(frozen=True)
class Protocol:
    """`run(task, **options)`; options are its keywords.

    Raw inputs are scored too unless it needs an encoder. `kinds` of labels it can use; why "all" leaves it out, if it
    is `slow`. `known` are the words that an option may be. `inputs`: encoders of others have no use of it, as where it
    makes views of pictures.
    """

    run: Callable[..., list[Score]]
    kinds: frozenset[str] = CLASSES
    needs_encoder: bool = False
    slow: str = ""
    known: dict[str, Collection[str]] = field(default_factory=dict)
    inputs: Inputs = ALL


PROTOCOLS = {
    "knn": Protocol(standard.run_knn, known={"vote": standard.VOTES, "metric": standard.ACCURACIES}),
    "linear": Protocol(standard.run_linear, known={"metric": standard.ACCURACIES}),
    "linear_sgd": Protocol(
        standard.run_linear_sgd, needs_encoder=True, slow="it trains through the encoder for many epochs",
        known={"preset": PRESETS}, inputs=IMAGES,
    ),
    "attentive": Protocol(
        standard.run_attentive, needs_encoder=True, slow="it trains through the encoder for many epochs",
        inputs=IMAGES,
    ),
    "fine_tune": Protocol(
        standard.run_fine_tune, needs_encoder=True, slow="it trains the whole encoder",
        known={"recipe": NAMES, "precision": CHOICES}, inputs=TUNED,
    ),
    "few_shot": Protocol(few_labels.run_few_shot, known=few_labels.KNOWN),
    "percent": Protocol(few_labels.run_percent, slow="it fits many classifiers", known=few_labels.KNOWN),
    "subset": Protocol(few_labels.run_subset, slow="it needs a file of names", known=few_labels.KNOWN),
    "budget": Protocol(few_labels.run_budget, slow="it fits many classifiers", known=few_labels.KNOWN),
    "clinical": Protocol(standard.run_clinical, known={"threshold": standard.THRESHOLDS}),
    "retrieval": Protocol(standard.run_retrieval),
    "verification": Protocol(run_verification, ANY, slow="it asks of all pairs of test records"),
    "ridge": Protocol(other_labels.run_ridge, frozenset(["numbers"])),
    "multi_label": Protocol(other_labels.run_multi_label, frozenset(["multi"])),
    "emotion": Protocol(
        run_emotion, frozenset(["multi", "numbers"]), slow="it trains the whole encoder",
        known={"threshold": THRESHOLDS}, inputs=SEQUENCES,
    ),
    "label_free": Protocol(other_labels.run_label_free, ANY),
    "correspondence": Protocol(other_labels.run_correspondence, ANY, needs_encoder=True, inputs=IMAGES),
}  # fmt: skip


SCENES = {name: scene.run for name, scene in scenes.SCENES.items()}  # each reads data of a layout of its own
ACROSS = dict.fromkeys(across.ACROSS, across.run_across)  # each asks for two modalities of a joint space


def parse(spec: str) -> Asked:
    """`name` or `name:option=value:…` as what is asked for; several values are `10/20/100`.

    Raises:
        Unknown: no such protocol, option or word. BadSettings: a value that is no number where one is needed.
    """
    asked = options.parse(spec, {name: p.run for name, p in PROTOCOLS.items()} | SCENES | ACROSS)
    for option, known in PROTOCOLS[asked.name].known.items() if asked.name in PROTOCOLS else ():
        if option in asked.options:
            options.one_of(option, asked.options[option], known)
    return asked


def features_of(asked: Asked, encoder: Encoder) -> tuple[str, ...]:
    """The choices of feature a protocol looks at."""
    if asked.name == "linear_sgd":
        return usable(encoder, standard.preset_of(asked.options.get("preset", "moby")).features)
    return (asked.options.get("feature", "pooled"),)


def everything(kind: str, classes: int, inputs: AnyInputs) -> tuple[list[str], dict[str, str]]:
    """What "all" means for labels of this kind and such inputs, and why the other protocols are left out."""
    chosen, skipped = [], {}
    for name, protocol in PROTOCOLS.items():
        if kind not in protocol.kinds:
            skipped[name] = f"it needs {' or '.join(WORDS[k] for k in sorted(protocol.kinds))}"
        elif not protocol.inputs.fit(inputs):
            skipped[name] = f"it is for {protocol.inputs.what}"
        elif protocol.slow:
            skipped[name] = f"{protocol.slow}; ask for it by name"
        elif name == "clinical" and classes != 2:
            skipped[name] = f"it is for findings, yes or no, and there are {classes} classes; ask for it by name"
        else:
            chosen.append(name)
    return chosen, skipped


def check_inputs(name: str, inputs: AnyInputs) -> None:
    """Raises `UsageError` when a protocol is asked for with an encoder of inputs that it is not for."""
    wanted = (SOUNDS if scenes.SCENES[name].sounds else IMAGES) if name in SCENES else PROTOCOLS[name].inputs
    if not wanted.fit(inputs):
        looks, others = field_of(inputs), [other for other, p in PROTOCOLS.items() if p.inputs.fit(inputs)]
        trained = " To train it on labels: tacit finetune ENCODER --data table.csv --group speaker --out classifier/"
        raise UsageError(
            f"{name} is for {wanted.what}, and the encoder looks at {kinds.WORDS[looks][1]}. There is: "
            f"{', '.join(others)}." + (trained if name == "fine_tune" and looks == "audio" else "")
        )


def check_kind(name: str, kind: str, notes: Sequence[str] = ()) -> None:
    """Raises `UsageError` when a protocol cannot use labels of this kind; `notes` are what is known of the data."""
    if kind not in PROTOCOLS[name].kinds:
        others = [other for other, p in PROTOCOLS.items() if kind in p.kinds]
        where = (
            " Labels are two or more class folders with every file in one (data/cat/1.jpg), a column of a table with "
            "two or more values, a zip's map file, or .cls files in a tar."
        )
        raise UsageError(
            f"{name} needs {' or '.join(WORDS[k] for k in sorted(PROTOCOLS[name].kinds))}, and the data has "
            f"{WORDS[kind]}. Those that can use it: {', '.join(others)}."
            + (" ".join([where, *notes]) if kind == "none" else "")
        )
