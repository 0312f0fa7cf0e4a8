"""The table of protocols: what each is called, what it may be told, and which features it looks at.

A protocol is asked for by its name, or with options: `knn:k=200`, `few_shot:shots=1/5:classifier=prototypes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tacit.data.targets import WORDS
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import across, few_labels, options, other_labels, scenes, standard
from tacit.evaluation.fine_tune import RECIPES
from tacit.evaluation.linear_sgd import PRESETS, usable
from tacit.evaluation.options import Asked
from tacit.evaluation.talkers import THRESHOLDS, run_emotion
from tacit.evaluation.task import Score
from tacit.evaluation.verification import run_verification
from tacit.precision import CHOICES
from tacit.views import Inputs, SoundInputs, WaveInputs, field_of

ANY = frozenset(["class", "numbers", "multi", "none"])
CLASSES = frozenset(["class"])


@dataclass(frozen=True)
class Protocol:
    """`run(task, **options)`; options are its keywords.

    Raw inputs are scored too unless it needs an encoder. `kinds` of labels it can use; why "all" leaves it out, if it
    is `slow`. `known` are the words that an option may be. `pictures`: it makes views of pictures, so that an encoder
    of sounds has no use of it.
    """

    run: Callable[..., list[Score]]
    kinds: frozenset[str] = CLASSES
    needs_encoder: bool = False
    slow: str = ""
    known: dict[str, Collection[str]] = field(default_factory=dict)
    pictures: bool = False


PROTOCOLS = {
    "knn": Protocol(standard.run_knn, known={"vote": standard.VOTES, "metric": standard.ACCURACIES}),
    "linear": Protocol(standard.run_linear, known={"metric": standard.ACCURACIES}),
    "linear_sgd": Protocol(
        standard.run_linear_sgd, needs_encoder=True, slow="it trains through the encoder for many epochs",
        known={"preset": PRESETS}, pictures=True,
    ),
    "attentive": Protocol(
        standard.run_attentive, needs_encoder=True, slow="it trains through the encoder for many epochs",
        pictures=True,
    ),
    "fine_tune": Protocol(
        standard.run_fine_tune, needs_encoder=True, slow="it trains the whole encoder",
        known={"recipe": RECIPES, "precision": CHOICES}, pictures=True,
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
        known={"threshold": THRESHOLDS},
    ),
    "label_free": Protocol(other_labels.run_label_free, ANY),
    "correspondence": Protocol(other_labels.run_correspondence, ANY, needs_encoder=True, pictures=True),
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


def everything(kind: str, classes: int, *, sounds: bool = False) -> tuple[list[str], dict[str, str]]:
    """What "all" means for labels of this kind, and why the other protocols are left out."""
    chosen, skipped = [], {}
    for name, protocol in PROTOCOLS.items():
        if kind not in protocol.kinds:
            skipped[name] = f"it needs {' or '.join(WORDS[k] for k in sorted(protocol.kinds))}"
        elif sounds and protocol.pictures:
            skipped[name] = "it is for images"
        elif protocol.slow:
            skipped[name] = f"{protocol.slow}; ask for it by name"
        elif name == "clinical" and classes != 2:
            skipped[name] = f"it is for findings, yes or no, and there are {classes} classes; ask for it by name"
        else:
            chosen.append(name)
    return chosen, skipped


def check_pictures(name: str, inputs: Inputs | SoundInputs | WaveInputs) -> None:
    """Raises `UsageError` when a protocol of images alone is asked for with an encoder of sounds."""
    if field_of(inputs) == "sequences" and (name in SCENES or PROTOCOLS[name].pictures):
        others = [other for other, p in PROTOCOLS.items() if not p.pictures]
        raise UsageError(
            f"{name} is for images, and the encoder reads feature sequences. There is: {', '.join(others)}."
        )
    if field_of(inputs) == "audio" and (name in SCENES or PROTOCOLS[name].pictures):
        others = [other for other, p in PROTOCOLS.items() if not p.pictures]
        trained = " To train it on labels: tacit finetune ENCODER --data table.csv --group speaker --out classifier/"
        raise UsageError(
            f"{name} is for images, and the encoder looks at sounds. There is: {', '.join(others)}."
            + (trained if name == "fine_tune" else "")
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
