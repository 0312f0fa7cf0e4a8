"""DINO: Emerging Properties in Self-Supervised Vision Transformers (Caron et al. 2021, arXiv 2104.14294).

Self-distillation without labels: a student given any crop matches what an averaged teacher says of the large crops.
Both speak in probabilities over prototypes; all that keeps them from collapse is that the teacher's are centred and
sharpened.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.distilling import Distilling, hold_last_layers, momentum_at, watched
from tacit.engine.schedules import by_epoch
from tacit.heads import PrototypeHead
from tacit.objectives import across_views, sharpen
from tacit.settings import again, setting
from tacit.teachers import Center, ema_update, momentum_copy
from tacit.views import Crop, multi_crop


@dataclass(frozen=True)
class Settings(Distilling):
    encoder: str = again(Distilling, "encoder", "deit_small")
    epochs: int = again(Distilling, "epochs", 100)

    local_crops: int = setting(8, "small crops beside the two large ones", low=0)
    local_size: int = setting(96, "side of the small crops, in pixels", low=4)


def teacher_temperature(s: Settings, progress: Progress) -> float:
    return by_epoch(
        progress.epoch, s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs
    )  # fmt: skip


class DINO(Method):
    title = "DINO"
    paper = "Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294"
    modality = "image"
    family = "distillation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The longer runs of the paper's tables: a sharper start than end, and prototypes of any length.
        "boosted": Settings(
            epochs=300, teacher_temperature=0.07, teacher_temperature_epochs=30, norm_last_layer=False,
        ),
        # For ResNets: SGD, and areas as SwAV has them.
        "convnet": Settings(
            encoder="resnet50", optimizer="sgd", lr=0.03, weight_decay=1e-4, weight_decay_end=None,
            global_area=(0.14, 1.0), local_area=(0.05, 0.14),
        ),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Far fewer steps than the paper's:
        # small batches for more of them, a teacher that follows within a hundred, a short warm-up, a higher rate.
        # Prototypes in proportion to the records, or targets stay near uniform ones for the whole run, and narrow heads
        # for a narrow encoder. Small crops of half the side, and larger parts of pictures that show so little.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=3e-3, local_crops=4,
            local_size=16, prototypes=256, hidden=256, bottleneck=64, momentum=0.99, drop_path=0.05,
            blur_sigma=(0.1, 1.0), local_area=(0.2, 0.6),
        ),
    }  # fmt: skip
    tiny = {"local_size": 8, "prototypes": 32, "hidden": 32, "bottleneck": 16, "freeze_last_layer": 0.1}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        return encoders.crop_problems(s.encoder, s.local_size, s.patch) if s.local_crops else []

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.any_size(
            encoders.build(
                s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
                interpolation="bicubic",
            ),
            mask_padding=False,
        )  # fmt: skip
        self.head = PrototypeHead(
            self.encoder.width, s.prototypes, hidden=s.hidden, bottleneck=s.bottleneck,
            norm_last_layer=s.norm_last_layer,
        )  # fmt: skip
        # The teacher stays in train mode: a BatchNorm inside normalises by its own batch.
        self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)
        self.teacher_head = momentum_copy(self.head)
        self.center = Center(s.prototypes, s.center_momentum)

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[Crop]:
        return multi_crop(
            self.encoder.inputs, self.s.local_crops, self.s.local_size, self.s.global_area, self.s.local_area,
            self.s.blur_sigma,
        )  # fmt: skip

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return momentum_at(self.s, progress)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 2 large, then the small: V x [B, C, H_v, W_v]
        features = encoders.by_size(self.encoder, images)
        z = self.head.embed(torch.cat(features))  # [V B, bottleneck]
        student = self.head.last_layer(z).chunk(len(images))
        with torch.no_grad():
            zt = self.teacher_head.embed(self.teacher(torch.cat(images[:2])))
            logits = self.teacher_head.last_layer(zt)  # [2 B, K]
        center = self.center.center if self.s.centering else None
        targets = sharpen(logits, teacher_temperature(self.s, progress), center).chunk(2)
        signals = watched(features[0], z, zt, targets[0], self.momentum(progress))
        signals["teacher_logits"] = logits.mean(0, keepdim=True)
        return Step({"views": across_views(targets, student, self.s.student_temperature)}, signals)

    def before_update(self, progress: Progress) -> None:
        hold_last_layers(self.s, progress, self.head)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        self.center.update(torch.cat([s["teacher_logits"] for s in signals]))
        m = self.momentum(progress)
        ema_update(self.teacher, self.encoder, m)
        ema_update(self.teacher_head, self.head, m)
