"""ATST-Frame: Self-supervised Audio Teacher-Student Transformer, for frames (Li et al. 2024, arXiv 2306.04186).

BYOL frame by frame: of a segment, and of the same with another recording behind it and its frequencies stretched, spans
of frames are hidden from the student, who tells of each what the teacher, to whom nothing is hidden, says of it in the
other view. Neither view moves in time, so frames stay aligned. There is no class token; a vector every 40 ms, of the
teacher, is handed over (`Encoder.tokens`), and their mean as the feature.

The published share of .65 is that of spans which overlap: half of the frames are hidden. Of mixing, see ATST-Clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.bootstrapping import Bootstrapping, byol_heads, byol_step, sound_encoder, sound_problems
from tacit.engine.distilling import momentum_at
from tacit.errors import UsageError
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Backgrounds, Excerpt, Heard, random_mask, resized_crop, span_mask, span_problems


@dataclass(frozen=True)
class Settings(Bootstrapping):
    # Schedules are counted in steps: 398,000, of which 19,900 are the warm-up.
    size: int = again(Bootstrapping, "size", 1001)
    epochs: int = again(Bootstrapping, "epochs", 398)
    epoch_steps: int | None = again(Bootstrapping, "epoch_steps", 1000)
    warmup_epochs: float = again(Bootstrapping, "warmup_epochs", 19.9)
    batch_size: int = again(Bootstrapping, "batch_size", 864)
    lr: float = again(Bootstrapping, "lr", 8e-5)
    momentum: float = again(Bootstrapping, "momentum", 0.9996)

    mask: str = setting("spans", "frames are hidden in spans that may overlap, or each by itself",
                        choices=("spans", "random"))  # fmt: skip
    mask_ratio: float = setting(0.65, "length of all spans together, as a share of the frames", low=0.01, high=0.99)
    mask_span: int = setting(5, "frames of a span, of 40 ms each", low=1)

    @property
    def trunk(self) -> dict[str, object]:
        return super().trunk | {"class_token": False, **encoders.MEAN_PATCH}


class ATSTFrame(Method):
    title = "ATST-Frame"
    paper = "Li et al. 2024, Self-supervised Audio Teacher-Student Transformer, arXiv 2306.04186"
    modality = "audio"
    family = "masked and distillation"
    needs = frozenset({"mask_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The small model, on 200,000 recordings: 58,500 steps, 1,950 of them the warm-up.
        "paper_small": Settings(
            encoder="deit_small", epochs=30, epoch_steps=1950, warmup_epochs=1, batch_size=1024, lr=4e-4,
            momentum=0.997,
        ),
        # For some thousand short recordings on one CPU or GPU, as ATST-Clip's.
        "small": Settings(
            encoder="vit_mini", size=101, positions=200, epochs=20, epoch_steps=None, warmup_epochs=1, batch_size=64,
            lr=4e-3, momentum=0.99, hidden=1024, out=128, bank=512, drop_path=0.05,
        ),
    }  # fmt: skip
    tiny = {"size": 61, "hidden": 32, "out": 16, "bank": 12}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        return sound_problems(s) + (span_problems(s.tokens, s.mask_ratio, s.mask_span) if s.mask == "spans" else [])

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = sound_encoder(s)
        self.mask_token = encoders.MaskTokens(self.encoder)
        self.projector, self.predictor = byol_heads(s, self.encoder.width)
        # Both stay in train mode: they normalise by their own batches, and drop paths too.
        self.teacher, self.teacher_projector = momentum_copy(self.encoder), momentum_copy(self.projector)
        self.backgrounds = Backgrounds(1, s.bank, s.shape)

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[Heard]:
        """One segment, from which the second view is made in the step, and the mask that both share."""
        s = self.s
        spans = partial(span_mask, ratio=s.mask_ratio, span=s.mask_span)
        sampler = spans if s.mask == "spans" else partial(random_mask, ratio=s.mask_ratio)
        still = {"canvas": 1.0, "time": (1.0, 1.0)}
        excerpt = Excerpt(self.encoder.inputs, "segment")
        return [Heard(excerpt, s.background, **still, bands=s.bands, sampler=sampler, cell=s.cells[0])]

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        """Raises UsageError where nothing is hidden: there would be no rows to compare."""
        view, segment = views[0], views[0]["image"]
        mask = torch.cat([view["mask"]] * 2)  # [2 B, N, 1]
        if not mask.any():
            raise UsageError("No frame is hidden, and hidden ones are all that is compared. Set a larger mask_ratio.")
        mixed = self.backgrounds.mixed(0, segment, view["loudness"], view["pick"])
        images = torch.cat([segment, resized_crop(mixed, view["place"], 1.0)])  # [2 B, 1, T, F]
        features, tokens = self.mask_token(self.encoder, images, mask)
        hidden = mask.flatten(1)
        q = self.predictor(self.projector(tokens[hidden]))  # view by view, in the order of the teacher's
        with torch.no_grad():
            z = self.teacher_projector(self.teacher.tokens(images)[hidden])
        step = byol_step(features.chunk(2)[0], q, z, momentum_at(self.s, progress))
        return Step(step.terms, step.signals | {"heard": segment[None, :, 0].half()})

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        for part in signals:
            self.backgrounds.hear(part["heard"])  # unmixed, for the steps to come
        m = momentum_at(self.s, progress)
        ema_update(self.teacher, self.encoder, m)
        ema_update(self.teacher_projector, self.projector, m)
