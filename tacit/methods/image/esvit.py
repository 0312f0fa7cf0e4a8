"""EsViT: Efficient Self-supervised Vision Transformers for Representation Learning (Li et al. 2021, arXiv 2106.09785).

DINO's self-distillation on transformers of several stages, whose windows blur which region of one view is which of
another. A second loss brings that back: each region imitates the teacher's most similar one of another view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.distilling import Distilling, hold_last_layers, momentum_at, taught_head, watched
from tacit.engine.schedules import by_epoch
from tacit.objectives import across_regions, across_views, sharpen
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Crop, augmented_multi_crop, mixed, multi_crop


@dataclass(frozen=True)
class Settings(Distilling):
    region: bool = setting(True, "the region loss beside that of the views; without it, DINO on these encoders")
    region_weight: float = setting(0.5, "of the region loss; the views have the rest", low=0, high=1)
    region_from: float = setting(0.0, "epochs of the view loss alone before; of some released models 180 to 200", low=0)
    local_crops: tuple[int, ...] = setting((8,), "small crops beside the two large ones, of each size", low=0)
    local_size: tuple[int, ...] = setting((96,), "sides of the small crops, in pixels", low=4)
    augment: str = setting("dino", "views as DINO's, or DeiT's, of the shares .08 to 1", choices=("dino", "deit"))
    mixup: float = setting(0.0, "alpha of blending the student's images with others of the batch; tried: .8", low=0)
    cutmix: float = setting(0.0, "alpha of pasting rectangles of others into them; tried: 1", low=0)
    mix_targets: bool = setting(True, "mix targets alike; the official code does without the region loss only")
    neighbours: str = setting("one", "chunks beside its own a ViL's meets in training", choices=encoders.NEIGHBOURS)
    neighbours_teacher: str = setting("one", "the same of the teacher's chunks", choices=encoders.NEIGHBOURS)
    neighbours_until: float = setting(1.0, "share of training, then all; the official .75 is never applied", low=0)
    norm_last_layer: bool = again(Distilling, "norm_last_layer", False)
    norm_eps: float = setting(1e-6, "epsilon of a Swin's LayerNorms; other trunks keep theirs", low=0)
    teacher_temperature: float = again(Distilling, "teacher_temperature", 0.07)
    teacher_temperature_epochs: int = again(Distilling, "teacher_temperature_epochs", 30)


class EsViT(Method):
    title = "EsViT"
    paper = (
        "Li et al. 2021, Efficient Self-supervised Vision Transformers for Representation Learning, arXiv 2106.09785"
    )
    modality = "image"
    family = "distillation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # For some thousand small images on one CPU or GPU, the mechanism whole, on windows, which it is for: 16 and 4
        # regions. Far fewer steps than the paper's: small batches for more of them, half of DINO's, a teacher that
        # follows within a hundred, a short warm-up, a higher rate, no rising temperature, prototypes of length 1, and
        # as few as in DINO's, with its narrow heads and its small crops.
        "small": Settings(
            encoder="swin_mini", size=32, epochs=20, warmup_epochs=1, batch_size=32, lr=4e-3, local_crops=(4,),
            local_size=(16,), prototypes=256, hidden=256, bottleneck=64, momentum=0.99, drop_path=0.05,
            teacher_temperature=0.04, teacher_temperature_epochs=0, norm_last_layer=True, blur_sigma=(0.1, 1.0),
            local_area=(0.2, 0.6),
        ),
    }  # fmt: skip
    tiny = {"local_size": (8,), "prototypes": 32, "hidden": 32, "bottleneck": 16, "freeze_last_layer": 0.1}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        if len(s.local_crops) != len(s.local_size):
            return [f"local_size = {s.local_size}: must be one size for each of local_crops = {s.local_crops}."]
        return [problem for size in s.local_size for problem in encoders.crop_problems(s.encoder, size, s.patch)]

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
            norm_eps=s.norm_eps, interpolation="bicubic",
        )  # fmt: skip
        self.encoder = encoders.any_size(encoder, mask_padding=False, shift_as_built=True, by_pairs=True)
        # The teacher stays in train mode: a BatchNorm inside normalises by its own batch.
        self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)
        self.view_head = taught_head(s, self.encoder.width)
        self.region_head = taught_head(s, self.encoder.width) if s.region else None

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[Crop]:
        s = self.s
        if s.augment == "deit":
            return augmented_multi_crop(self.encoder.inputs, s.local_crops, s.local_size)
        return multi_crop(self.encoder.inputs, s.local_crops, s.local_size, s.global_area, s.local_area, s.blur_sigma)

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def before_step(self, progress: Progress) -> None:
        late = progress.step >= self.s.neighbours_until * progress.steps
        encoders.set_neighbours(self.encoder, "all" if late else self.s.neighbours)
        encoders.set_neighbours(self.teacher, "all" if late else self.s.neighbours_teacher)

    def momentum(self, progress: Progress) -> float:
        return momentum_at(self.s, progress)

    def targets(self, logits: Tensor, center: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:  # from [2 B, …, K]
        s = self.s
        start, end, epochs = s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs
        return sharpen(logits, by_epoch(progress.epoch, start, end, epochs), center if s.centering else None).chunk(2)

    def with_regions(self, progress: Progress) -> bool:
        return self.s.region and progress.epoch >= self.s.region_from

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images, s, head = [view["image"] for view in views], self.s, self.view_head  # 2 large, then the small
        seen, shares = mixed(images, s.mixup, s.cutmix)
        shares = shares if s.mix_targets else None
        features, regions = zip(*encoders.by_size(self.encoder.features_and_tokens, seen), strict=True)
        z = head.student.embed(torch.cat(features))  # [V B, bottleneck]
        student = head.student.last_layer(z).chunk(len(images))
        with torch.no_grad():
            pooled, tokens = self.teacher.features_and_tokens(torch.cat(images[:2]))  # [2 B, D], [2 B, T, D]
            zt = head.teacher.embed(pooled)
            logits = head.teacher.last_layer(zt)  # [2 B, K]
        targets = self.targets(logits, head.center, progress)
        terms = {"views": across_views(targets, student, s.student_temperature, shares)}
        signals = watched(features[0], z, zt, targets[0], self.momentum(progress))
        signals["view_logits"] = logits.mean(0, keepdim=True)
        if self.with_regions(progress):
            head = self.region_head
            student = head.student(torch.cat(regions, dim=1)).split([r.shape[1] for r in regions], dim=1)
            logits = head.teacher(tokens)  # [2 B, T, K], without gradients as its weights are
            targets = self.targets(logits, head.center, progress)
            of_regions = across_regions(targets, tokens.chunk(2), student, regions, s.student_temperature, shares)
            terms = {"views": (1 - s.region_weight) * terms["views"], "regions": s.region_weight * of_regions}
            signals["region_logits"] = logits.mean((0, 1)).unsqueeze(0)
        elif s.region:  # several devices wait for a gradient of every weight; `before_update` takes this one away
            terms["regions"] = 0.0 * sum(p.sum() for p in self.region_head.parameters() if p.requires_grad)
        return Step(terms, signals)

    def before_update(self, progress: Progress) -> None:
        heads = [self.view_head] + [self.region_head] * self.s.region
        hold_last_layers(self.s, progress, *(head.student for head in heads))
        if not self.with_regions(progress):
            for parameter in (p for head in heads[1:] for p in head.parameters()):
                parameter.grad = None

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        m = self.momentum(progress)
        ema_update(self.teacher, self.encoder, m)
        self.view_head.follow([s["view_logits"] for s in signals], m)
        if self.with_regions(progress):
            self.region_head.follow([s["region_logits"] for s in signals], m)
