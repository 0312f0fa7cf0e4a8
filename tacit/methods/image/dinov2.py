"""DINOv2: Learning Robust Visual Features without Supervision (Oquab et al. 2023, arXiv 2304.07193), and UNI.

A student given any crop matches what an averaged teacher says of the large crops (DINO), and, where patches of these
are hidden from it, what the teacher, who sees them, says of them (iBOT). An equal partition among prototypes takes the
place of centring, and class tokens are kept apart (KoLeo). UNI (Chen et al. 2024, arXiv 2308.15474) is this on tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Step
from tacit.engine.distilling import Distilling, hold_last_layers, momentum_at, taught_head, temperature_at, watched
from tacit.objectives import across_views, koleo, masked_cross_entropy, sharpen, sinkhorn
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import View, block_problems, masked_multi_crop


@dataclass(frozen=True)
class Settings(Distilling):
    encoder: str = again(Distilling, "encoder", "vit_giant_patch14_dinov2")
    epochs: int = again(Distilling, "epochs", 500)
    epoch_steps: int | None = again(Distilling, "epoch_steps", 1250)
    batch_size: int = again(Distilling, "batch_size", 3072)
    lr: float = again(Distilling, "lr", 2e-4)
    lr_batch: int = again(Distilling, "lr_batch", 1024)
    lr_scaling: str = again(Distilling, "lr_scaling", "sqrt_peak")
    warmup_epochs: float = again(Distilling, "warmup_epochs", 80.0)
    patch_rate: float = again(Distilling, "patch_rate", 0.2)
    weight_decay_end: float | None = again(Distilling, "weight_decay_end", 0.2)
    clip_by: str = again(Distilling, "clip_by", "part")

    local_crops: int = setting(8, "small crops beside the two large ones", low=0)
    local_size: int = setting(98, "side of the small crops, in pixels", low=4)
    global_area: tuple[float, float] = again(Distilling, "global_area", (0.32, 1.0))
    local_area: tuple[float, float] = again(Distilling, "local_area", (0.05, 0.32))
    blur_as_released: bool = setting(False, "blur large crops as the code does by mistake: never, and 9 times in 10")
    mask_share: float = setting(0.5, "chance that patches of a large crop are hidden from the student", low=0, high=1)
    mask_ratio: tuple[float, float] = setting((0.1, 0.5), "share of its patches that are hidden then", low=0, high=1)
    mask_block: int = setting(4, "patches of the smallest block that is hidden, while as many are left", low=1)
    patch_weight: float = setting(1.0, "of the loss of hidden patches", low=0)
    koleo_weight: float = setting(0.1, "of the term that keeps class tokens apart, for each large crop", low=0)
    shared_head: bool = setting(False, "one head, and its prototypes, for images and patches")
    prototypes: int = again(Distilling, "prototypes", 131072)
    bottleneck: int = again(Distilling, "bottleneck", 384)
    patch_prototypes: int = setting(131072, "outputs of the patches' own head", low=2)
    patch_bottleneck: int = setting(256, "bottleneck of the patches' own head", low=1)
    sinkhorn: int = setting(3, "rounds in which the teacher comes to use all prototypes alike; 0: see centering", low=0)
    layer_scale: float = setting(1e-5, "what the residual branches are multiplied by at the start", low=1e-9)
    registers: int | None = setting(None, "tokens beside that of the class; nothing for the trunk's own", low=0)
    drop_path: float = setting(0.4, "stochastic depth of all blocks of the student", low=0, high=0.99)
    teacher_temperature: float = again(Distilling, "teacher_temperature", 0.07)
    teacher_temperature_epochs: int = again(Distilling, "teacher_temperature_epochs", 30)
    momentum: float = again(Distilling, "momentum", 0.994)

    @property
    def trunk(self) -> dict[str, object]:
        # Registers have no positions; in timm the class token then has none either.
        tokens = {} if self.registers is None else {"reg_tokens": self.registers, "no_embed_class": self.registers > 0}
        return {"init_values": self.layer_scale, **tokens}


# What the released code does when nothing else is asked for: ViT-L/16 on ImageNet-1k.
SHORT = Settings(
    encoder="vit_large_patch16_224", epochs=100, batch_size=2048, lr=4e-3, warmup_epochs=10, layer_decay=0.9,
    weight_decay_end=0.4, local_size=96, shared_head=True, prototypes=65536, bottleneck=256, sinkhorn=0,
    drop_path=0.3, momentum=0.992,
)  # fmt: skip
UNI = replace(
    SHORT, batch_size=3072, lr=2e-3, lr_batch=3072, drop_path=0.1, global_area=(0.48, 1.0), local_area=(0.16, 0.48)
)


class DINOv2(Method):
    title = "DINOv2"
    paper = "Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision, arXiv 2304.07193"
    modality = "image"
    family = "distillation"
    needs = frozenset({"cls", "mask_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        "short": SHORT,
        "uni": UNI,
        # Its last 12,500 steps, at 512 pixels, begun with --init RUN: schedules a tenth as long, heads anew.
        "uni_high_resolution": replace(
            UNI, size=512, epochs=10, warmup_epochs=1, freeze_last_layer=0.1, teacher_temperature_start=0.07
        ),
        # For some thousand small images on one CPU or GPU, the mechanism whole, with the changes of DINO's `small`: a
        # thousandth of the steps, so a quick teacher, a short warm-up, a higher rate, no rising temperature; few
        # prototypes, narrow heads; small crops of half the side, and larger parts of the pictures. LayerScale from 1:
        # it has no time to grow, and from .1 an untrained teacher's targets tell a sixth of what they tell of
        # CIFAR-10's images from 1 (.16 and .97 nats).
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, epoch_steps=None, warmup_epochs=1, batch_size=64, lr=3e-3,
            local_crops=4, local_size=16, prototypes=256, patch_prototypes=256, hidden=256, bottleneck=64,
            patch_bottleneck=64, momentum=0.99, drop_path=0.05, layer_scale=1.0, teacher_temperature=0.04,
            teacher_temperature_epochs=0, blur_sigma=(0.1, 1.0), local_area=(0.2, 0.6),
        ),
    }  # fmt: skip
    tiny = {"local_size": 8, "hidden": 32, "prototypes": 32, "patch_prototypes": 32, "freeze_last_layer": 0.1}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = encoders.crop_problems(s.encoder, s.local_size, s.patch) if s.local_crops else []
        return found + block_problems(s.size // encoders.patch_of(s.encoder, s.patch), s.mask_ratio, s.mask_block)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        # Positions meet other grids by timm's interpolation, as they do wherever the encoder is used afterwards.
        how = {"size": s.size, "channels": s.channels, "patch": s.patch, "interpolation": "bicubic", **s.trunk}
        self.encoder = encoders.any_size(encoders.build(s.encoder, **how))
        nn.init.normal_(self.encoder.trunk.cls_token, std=1e-6)
        self.teacher = momentum_copy(self.encoder)
        encoders.uniform_drop_path(self.encoder, s.drop_path)
        self.mask_token = nn.Parameter(torch.zeros(1, self.encoder.width))
        self.view_head = taught_head(s, self.encoder.width)
        own = {"of": self.view_head} if s.shared_head else {"prototypes": s.patch_prototypes}
        self.patch_head = taught_head(s, self.encoder.width, bottleneck=s.patch_bottleneck, **own)

    @property
    def handed_over(self) -> encoders.Encoder:
        return self.teacher

    def views(self) -> list[View]:
        s = self.s
        return masked_multi_crop(
            self.encoder.inputs, s.local_crops, s.local_size, s.global_area, s.local_area, s.blur_sigma,
            cell=encoders.step(self.encoder), as_released=s.blur_as_released,
            share=s.mask_share, ratio=s.mask_ratio, smallest=s.mask_block,
        )  # fmt: skip

    def after_init(self) -> None:
        ema_update(self.teacher, self.encoder, 0.0)

    def targets(self, logits: Tensor, center: Tensor, progress: Progress) -> Tensor:
        """Distributions [M, K] from the teacher's logits; the center is of the steps before."""
        temperature = temperature_at(self.s, progress)
        if self.s.sinkhorn:
            return sinkhorn(logits, epsilon=temperature, iterations=self.s.sinkhorn)
        return sharpen(logits, temperature, center if self.s.centering else None)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, images, of_view, of_patch = self.s, [view["image"] for view in views], self.view_head, self.patch_head
        large, mask = torch.cat(images[:2]), torch.cat([view["mask"] for view in views[:2]])  # [2 B, rows, cols]
        hidden = mask.flatten(1)  # [2 B, T], M of it True
        features, tokens = self.encoder(large, with_tokens=True, hidden=(mask, self.mask_token))
        z = of_view.student.embed(torch.cat([features, *encoders.by_size(self.encoder, images[2:])]))
        student = of_view.student.last_layer(z).chunk(len(images))
        with torch.no_grad():  # the teacher sees every patch
            seen, seen_tokens = self.teacher.features_and_tokens(large)
            zt = of_view.teacher.embed(seen)
            logits, patch_logits = of_view.teacher.last_layer(zt), of_patch.teacher(seen_tokens[hidden])  # [M, K]
        targets = self.targets(logits, of_view.center, progress).chunk(2)
        wanted = self.targets(patch_logits, of_patch.center, progress)
        said = of_patch.student(tokens[hidden])
        terms = {
            "views": across_views(targets, student, s.student_temperature),
            "patches": s.patch_weight * masked_cross_entropy(wanted, said, hidden, s.student_temperature),
            "koleo": s.koleo_weight * sum(koleo(crop) for crop in features.chunk(2)),
        }
        signals = watched(features.chunk(2)[0], z, zt, targets[0], momentum_at(s, progress))
        signals["view_logits"] = logits.mean(0, keepdim=True)
        signals["patch_logits"] = patch_logits.mean(0, keepdim=True) if len(patch_logits) else of_patch.center
        return Step(terms, signals)

    def before_update(self, progress: Progress) -> None:
        hold_last_layers(self.s, progress, self.view_head.student, self.patch_head.student)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        m = momentum_at(self.s, progress)
        ema_update(self.teacher, self.encoder, m)
        self.view_head.follow([s["view_logits"] for s in signals], m)
        self.patch_head.follow([s["patch_logits"] for s in signals], m)
