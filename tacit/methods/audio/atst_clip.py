"""ATST-Clip: Self-supervised Audio Teacher-Student Transformer (Li and Li 2022, arXiv 2204.12076; 2024, 2306.04186).

BYOL on two different segments of a recording, each with another recording behind it and resized in time and frequency.
The class token of a ViT, whose patches are 40 ms of all bands, stands for the segment. The teacher is handed over.
Recordings should be longer than segments: of a shorter one both views are of the same sound.

Mixing adds energies of values that are scaled to [-1, 1], not of the levels themselves, as the official code does. That
keeps a bank of the last recordings for each view in every worker; here every process keeps one for each view, so that
what lies behind a recording is found by a number of its own among what that process has heard.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.bootstrapping import Bootstrapping, byol_heads, byol_step, sound_encoder, sound_problems
from tacit.engine.distilling import momentum_at
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Backgrounds, Excerpt, Heard, resized_crop


@dataclass(frozen=True)
class Settings(Bootstrapping):
    # Schedules are counted in steps: 318,000, of which 15,860 are the warm-up.
    size: int = again(Bootstrapping, "size", 601)
    epochs: int = again(Bootstrapping, "epochs", 318)
    epoch_steps: int | None = again(Bootstrapping, "epoch_steps", 1000)
    warmup_epochs: float = again(Bootstrapping, "warmup_epochs", 15.86)
    batch_size: int = again(Bootstrapping, "batch_size", 1536)
    lr: float = again(Bootstrapping, "lr", 2e-4)

    canvas: float = setting(1.5, "time in which an excerpt lies, the rest silent, as a multiple of its own", low=1)
    time: tuple[float, float] = setting((0.6, 1.5), "multiples of its time that are cut and resized to it", low=0.05)
    same_segment: bool = setting(False, "both views are of one segment, as in BYOL-A")


class ATSTClip(Method):
    title = "ATST-Clip"
    paper = "Li et al. 2024, Self-supervised Audio Teacher-Student Transformer, arXiv 2306.04186"
    modality = "audio"
    family = "distillation"
    needs = frozenset({"cls"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The small model, on 200,000 recordings: 39,100 steps, 1,300 of them the warm-up.
        "paper_small": Settings(
            encoder="deit_small", epochs=391, epoch_steps=100, warmup_epochs=13, lr=5e-4, momentum=0.99
        ),
        # For some thousand short recordings on one CPU or GPU, the mechanism whole on segments of a second: a hundredth
        # of the steps, so small batches, a short warm-up, a higher rate, a teacher that follows within a hundred; heads
        # of a quarter and half the width; a bank of some batches.
        "small": Settings(
            encoder="vit_mini", size=101, positions=200, epochs=20, epoch_steps=None, warmup_epochs=1, batch_size=64,
            lr=4e-3, momentum=0.99, hidden=1024, out=128, bank=512, drop_path=0.05,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16, "bank": 12}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        return sound_problems(s)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = sound_encoder(s)
        self.projector, self.predictor = byol_heads(s, self.encoder.width)
        # Both stay in train mode: they normalise by their own batches, and drop paths too.
        self.teacher, self.teacher_projector = momentum_copy(self.encoder), momentum_copy(self.projector)
        self.backgrounds = Backgrounds(2, s.bank, s.shape)

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[Heard]:
        """Two segments, each drawn by itself, and what is to be done to them once others have been heard."""
        s = self.s
        how = {"background": s.background, "canvas": s.canvas, "time": s.time, "bands": s.bands}
        return [Heard(Excerpt(self.encoder.inputs, f"segment {i}"), **how) for i in (1, 2)]

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def changed(self, view: int, segment: Tensor, numbers: dict[str, Tensor]) -> Tensor:
        """A segment [B, 1, frames, mels] with its background, resized."""
        mixed = self.backgrounds.mixed(view, segment, numbers["loudness"], numbers["pick"])
        return resized_crop(mixed, numbers["place"], self.s.canvas)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        segments = [views[0 if self.s.same_segment else i]["image"] for i in (0, 1)]
        images = torch.cat([self.changed(i, x, views[i]) for i, x in enumerate(segments)])  # [2 B, 1, T, F]
        features = self.encoder(images)
        q = self.predictor(self.projector(features))
        with torch.no_grad():
            z = self.teacher_projector(self.teacher(images))
        step = byol_step(features.chunk(2)[0], q, z, momentum_at(self.s, progress))
        return Step(step.terms, step.signals | {"heard": torch.stack(segments)[:, :, 0].half()})

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        for part in signals:
            self.backgrounds.hear(part["heard"])  # unmixed, for the steps to come
        m = momentum_at(self.s, progress)
        ema_update(self.teacher, self.encoder, m)
        ema_update(self.teacher_projector, self.projector, m)
