"""How sounds are fine-tuned on labels: the settings, and the recipes that are known by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tacit import objectives
from tacit.precision import CHOICES
from tacit.settings import setting

LOSSES = ("none", "supcon", "nt_xent", "triplet", "multi_similarity")
STAGES = ("before", "auxiliary")


@dataclass(frozen=True)
class Settings:
    contrast: str = setting("none", "loss under labels, beside or before cross-entropy", choices=LOSSES)
    stage: str = setting("auxiliary", "contrast before cross-entropy, alone, or auxiliary, added to it", choices=STAGES)
    contrast_weight: float = setting(1.0, "of the contrast, where it is added", low=0)
    contrast_epochs: int = setting(5, "most epochs of contrast, where it comes before", low=1)
    temperature: float | None = setting(None, "of supcon and nt_xent; .1 and .07 if not given", low=1e-3)
    margin: float = setting(0.2, "of triplet", low=0, high=2)
    mining: str = setting("semi_hard", "which triplets count", choices=objectives.MINING)
    epsilon: float | None = setting(0.1, "of multi_similarity's mining; empty for all pairs", low=0)
    projection: int = setting(128, "numbers that are compared, made of the feature by two layers; 0: itself", low=0)

    teacher_weight: float = setting(0.5, "of what a teacher says, if any; labels have the rest", low=0, high=1)

    loss: str = setting("softmax", "one class against the others, or each by itself", choices=("softmax", "binary"))
    norm: str = setting("none", "before the classifier; batch: without weights", choices=("none", "layer", "batch"))
    mixup: float = setting(0.0, "chance that sound and label are mixed with another of the batch", low=0, high=1)
    mixup_alpha: float = setting(0.5, "of the Beta distribution that shares are drawn from", low=1e-3)
    mixup_of: str = setting("levels", "add the waves, or the energies of what the encoder reads",
                            choices=("waves", "levels"))  # fmt: skip
    freq_mask: int = setting(0, "most neighbouring bands that are overwritten", low=0)
    time_mask: int = setting(0, "most neighbouring rows of 10 ms that are overwritten", low=0)
    canvas: float = setting(1.0, "time in which an excerpt lies, the rest silent, as a multiple of its own", low=1)
    time: tuple[float, float] = setting((1.0, 1.0), "multiples of its time that are cut and resized to it", low=0.05)
    bands: tuple[float, float] = setting((1.0, 1.0), "shares of the bands that are stretched to all", low=0.05)
    noise: bool = setting(False, "add noise of up to .1 to spectrograms, and roll them by up to ten rows")

    epochs: int = setting(10, "most epochs of cross-entropy", low=1)
    batch_size: int = setting(32, "recordings of a step", low=4)
    batches: str = setting("balanced", "so many of each class, or epoch by epoch", choices=("balanced", "shuffled"))
    batch_classes: int = setting(8, "classes of a balanced step, with as many recordings each", low=2)
    optimizer: str = setting("adamw", "sgd with a momentum of .9", choices=("adamw", "adam", "sgd"))
    betas: tuple[float, float] = setting((0.9, 0.98), "of adam and adamw", low=0, high=0.9999)
    lr: float = setting(1e-5, "of the encoder", low=0)
    head_lr: float = setting(1e-4, "of what is new above it", low=0)
    layer_decay: float = setting(1.0, "of the rate, from a layer of the encoder to the one below", low=0.01, high=1)
    weight_decay: float = setting(0.01, "of matrices", low=0)
    warmup: float = setting(0.1, "share of the steps in which rates rise in a line", low=0, high=1)
    fall: str = setting("line", "how rates fall then: to 0, or by the steps of fall_steps",
                        choices=("line", "cosine", "steps"))  # fmt: skip
    fall_steps: tuple[float, float, float] = setting((5, 1, 0.85), "from which epoch, every how many, by what", low=0)
    clip: float | None = setting(1.0, "longest gradient of encoder and classifier; empty for any", low=1e-6)
    seconds: float = setting(10.0, "of a recording that a speech model of transformers hears at most", low=0.05)
    precision: str = setting("auto", "32, bf16, or auto: bf16 where the hardware has it", choices=CHOICES)

    @property
    def before(self) -> bool:
        return self.contrast != "none" and self.stage == "before"

    @property
    def beside(self) -> bool:
        return self.contrast != "none" and self.stage == "auxiliary"

    @property
    def resized(self) -> bool:
        return (self.canvas, self.time, self.bands) != (1.0, (1.0, 1.0), (1.0, 1.0))


AST = {
    "norm": "layer", "optimizer": "adam", "betas": (0.95, 0.999), "weight_decay": 5e-7, "batches": "shuffled",
    "warmup": 0.0, "fall": "steps", "clip": None, "mixup_of": "waves", "mixup_alpha": 10.0,
}  # fmt: skip
RECIPES = {
    # For large speech models (La Quatra et al. 2024; rates are usual ones).
    "speech": Settings(),
    # For our own small encoders: rates fifty times as high, and for longer; chosen by reasoning, not by trial.
    "small": Settings(epochs=20, contrast_epochs=10, lr=5e-4, head_lr=2e-3),
    # ATST's (Li et al. 2024, section IV; official code), at its rate for Speech Commands: 2 for 256 recordings.
    "atst": Settings(
        loss="binary", norm="batch", epochs=50, batch_size=512, batches="shuffled", optimizer="sgd", lr=4.0,
        head_lr=4.0, layer_decay=0.75, weight_decay=0.0, fall="cosine", clip=3.0, mixup=1.0, canvas=1.5,
        time=(0.6, 1.5), bands=(0.6, 1.5),
    ),
    # AST's, which ASiT takes over, for some thousand clips (ESC-50) and for spoken commands.
    "ast": Settings(**AST, epochs=25, batch_size=48, lr=1e-4, head_lr=1e-4, freq_mask=24, time_mask=96),
    "ast_commands": Settings(
        **AST, loss="binary", epochs=30, batch_size=128, lr=2.5e-4, head_lr=2.5e-4, freq_mask=48, time_mask=48,
        mixup=0.6, noise=True,
    ),
}  # fmt: skip


def for_several(s: Settings) -> Settings:
    """The same for several labels a recording: each by itself, and recordings epoch by epoch, since none is of one
    class."""
    return replace(s, loss="binary", batches="shuffled")


def wrong_together(s: Settings, *, spectrograms: bool, teacher: bool, several: bool = False) -> list[str]:
    """What cannot be asked for together, or of `several` labels a recording; empty when all can."""
    found = []
    if several and s.contrast != "none":
        found.append(f"contrast = {s.contrast}: needs recordings of one class each, and these have several labels.")
    found += [
        f"{name} = {getattr(s, name)}: recordings have several labels here. Leave it out."
        for name in ("loss", "batches")
        if several and getattr(s, name) != getattr(for_several(s), name)
    ]
    if s.contrast != "none" and s.mixup:
        found.append(f"contrast = {s.contrast}: needs recordings of one class each. Set mixup=0.")
    if s.before and teacher:
        found.append("stage = before: a teacher speaks of classes, which contrast alone does not learn. Leave one out.")
    changes = [name for name in ("freq_mask", "time_mask", "noise", "resized") if getattr(s, name)]
    if s.mixup and s.mixup_of == "levels":
        changes.append("mixup_of=levels")
    if changes and not spectrograms:
        names = ", ".join("canvas, time or bands" if name == "resized" else name for name in changes)
        found.append(f"{names}: change spectrograms, and this encoder takes the waveform. Leave it out.")
    return found
