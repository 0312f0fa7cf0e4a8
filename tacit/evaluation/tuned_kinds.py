"""What fine-tuning does otherwise for pictures, films and waveforms: views, mixing, and how the result is tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from tacit.errors import Unknown, UsageError
from tacit.evaluation.logits import logits_of, windowed_logits
from tacit.evaluation.recipes import FILMS, RECIPES, WAVES, Recipe
from tacit.evaluation.sound_augment import shares
from tacit.evaluation.windows import WINDOWS
from tacit.views import Crop, FilmClip, FilmInputs, Inputs, View, WaveClip, WaveInputs
from tacit.views.film import COLOURS
from tacit.views.kinds import AnyInputs

PLACES = 3  # along the longer side of a film, as VATT is tested
WHAT = "images, films and waveforms of one length"
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images [B, …] and classes [B] -> and shares [B, classes]


@dataclass(frozen=True)
class Kind:
    """Of records of one kind: what they are called, the recipes for them, and three functions.

    view:   (inputs, recipe) -> what is learned from
    mix:    (recipe, classes) -> what mixes a batch and smooths its labels, or None where nothing is mixed
    logits: (classifier, source, workers=, device=) -> as `logits_of`, of what is tested
    said:   what the score's settings say of the first and the last
    """

    name: str
    recipes: dict[str, Recipe]
    view: Callable[[AnyInputs, Recipe], View]
    mix: Callable[[Recipe, int], Mix | None]
    logits: Callable[..., tuple[Tensor, Tensor, list[tuple[str, str]]]]
    said: dict[str, str]


def _crop(inputs: Inputs, r: Recipe) -> Crop:
    return Crop(inputs=inputs, name="fine-tune", flip=r.flip)


def _clip(inputs: FilmInputs, r: Recipe) -> FilmClip:
    """From a random time, an Inception crop, alike in all frames."""
    colours = tuple(most * r.colours for most in COLOURS) if r.colours else None
    return FilmClip(inputs, name="fine-tune", way="inception", flip=r.flip, colours=colours)


def _wave(inputs: WaveInputs, r: Recipe) -> WaveClip:
    return WaveClip(inputs, noise=0.0, name="fine-tune")


def _mix_pictures(r: Recipe, classes: int) -> Mix | None:
    return Mixup(r.mixup, r.cutmix, label_smoothing=r.smoothing, num_classes=classes) if r.mixup or r.cutmix else None


def _mix_waves(r: Recipe, classes: int) -> Mix | None:
    """Each waveform with another of the batch, by a share of its own. All draws are torch's, on the CPU."""
    if not r.mixup:
        return None

    def mix(waves: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own, partner = shares(len(labels), 1.0, r.mixup).to(waves), torch.randperm(len(labels))
        y = F.one_hot(labels, classes).to(own) * (1 - r.smoothing) + r.smoothing / classes
        waves = torch.lerp(waves[partner], waves, own[:, None, None])
        return waves, torch.lerp(y[partner], y, own[:, None])

    return mix


def _unmixed(r: Recipe, classes: int) -> None:
    return None


PICTURES = Kind("images", RECIPES, _crop, _mix_pictures, logits_of, {})
KINDS: dict[type, Kind] = {
    Inputs: PICTURES,
    FilmInputs: Kind(
        "films", FILMS, _clip, _unmixed, partial(windowed_logits, places=PLACES),
        {
            "views": "an Inception crop of a piece at random",
            "tested": f"mean of the logits of {WINDOWS} windows x {PLACES} crops",
        },
    ),
    WaveInputs: Kind(
        "waveforms", WAVES, _wave, _mix_waves, windowed_logits,
        {"views": "a piece at random", "tested": f"mean of the logits of {WINDOWS} windows"},
    ),
}  # fmt: skip


def can_be_tuned(inputs: AnyInputs) -> bool:
    """Whether `fine_tune` trains encoders of such inputs; waveforms where all are of one length."""
    return type(inputs) in KINDS and getattr(inputs, "fixed", True)


def kind_of(inputs: AnyInputs) -> Kind:
    """Raises `UsageError` for inputs of another kind."""
    if not can_be_tuned(inputs):
        raise UsageError(f"fine_tune is for {WHAT}, and the encoder looks at something else.")
    return KINDS[type(inputs)]


def recipe_of(name: str, inputs: AnyInputs) -> Recipe:
    """Raises `Unknown` for a recipe that is not for such inputs, with those that are."""
    kind = kind_of(inputs)
    if name not in kind.recipes:
        raise Unknown(f"recipe for {kind.name}", name, kind.recipes)
    return kind.recipes[name]
