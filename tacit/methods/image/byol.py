"""BYOL: Bootstrap Your Own Latent, a new approach to self-supervised learning (Grill et al. 2020, arXiv 2006.07733).

No negatives: the online network predicts, through a predictor it alone has, what a slow target network makes of the
other view. That this does not collapse is owed to the predictor and to the gradient that stops at the target; each is
a setting, and without both the monitors name the collapse. The linear probe that the official code trains beside it,
and that no gradient leaves, is the engine's online k-NN here. Of the published pipeline two details differ: contrast
turns about the mean luma, not each channel's mean, and the blur repeats edges where theirs has zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.schedules import cosine
from tacit.heads import mlp
from tacit.objectives import normalised_mse
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Crop, unlike_pair


@dataclass(frozen=True)
class Settings(Recipe):
    # LARS that neither adapts nor decays biases and norms; a step's rate along a cosine after the warm-up.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 1000)
    batch_size: int = again(Recipe, "batch_size", 4096)
    optimizer: str = again(Recipe, "optimizer", "lars")
    lr: float = again(Recipe, "lr", 0.2)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 10.0)
    weight_decay: float = again(Recipe, "weight_decay", 1.5e-6)

    predictor: bool = setting(True, "the online network predicts the target's embedding by an MLP of its own")
    stop_gradient: bool = setting(
        True, "no gradient passes through the target; without, the target is the online network, trained on both sides"
    )
    momentum: float = setting(0.996, "of the target at the first step; rises to 1 by a cosine", low=0, high=1)
    target_start: str = setting(
        "apart", "the target's first weights: drawn apart, or the online network's", choices=("apart", "copied")
    )
    hidden: int = setting(4096, "hidden width of projector and predictor", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)


class BYOL(Method):
    title = "BYOL"
    paper = "Grill et al. 2020, Bootstrap Your Own Latent, arXiv 2006.07733"
    modality = "image"
    family = "distillation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The shorter runs have rates and targets of their own.
        "300_epochs": Settings(epochs=300, lr=0.3, weight_decay=1e-6, momentum=0.99),
        "100_epochs": Settings(epochs=100, lr=0.45, weight_decay=1e-6, momentum=0.99),
        "40_epochs": Settings(epochs=40, lr=0.45, weight_decay=1e-6, momentum=0.97),
        # The official quick set-up, on ten classes of ImageNet at 128 pixels.
        "imagenette": Settings(encoder="resnet18", size=128, batch_size=256, lr=2.0, weight_decay=1e-6),
        # For some thousand small images on one CPU or GPU, the mechanism whole. A small ViT learns faster there than a
        # ResNet, and takes AdamW with its decay in place of LARS. Far fewer steps than the paper's: batches of a 64th
        # for more of them, a target that follows within 30 as in the paper's shortest runs, a short warm-up. Heads of
        # half the hidden width, for narrower ones cost accuracy. Inputs of a seventh: half the blur, larger crops.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, optimizer="adamw", lr=2e-3,
            weight_decay=0.05, momentum=0.97, hidden=2048, blur_sigma=(0.1, 1.0), min_area=0.4,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16}

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder, self.projector = self.network()
        self.predictor = mlp(s.out, s.hidden, s.out, 2 if s.predictor else 0, last_bias=False)
        # The target stays in train mode: it normalises by its own batches.
        network = self.network() if s.target_start == "apart" else (self.encoder, self.projector)
        self.target, self.target_projector = (momentum_copy(part) for part in network)

    def network(self) -> tuple[encoders.Encoder, nn.Module]:
        """Encoder and projector with fresh weights; inputs are resized bicubically."""
        s = self.s
        encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, interpolation="bicubic"
        )
        return encoder, mlp(encoder.width, s.hidden, s.out, 2, last_bias=False)

    def views(self) -> list[Crop]:
        """Both pipelines shift brightness and cut crops to the picture; they differ in blur and solarisation."""
        return unlike_pair(
            self.encoder.inputs, min_area=self.s.min_area, blur_sigma=self.s.blur_sigma, clip_sides=True,
            brightness_adds=True, blur_reach=max(self.s.size // 20, 1), solarize_threshold=0.5,
        )  # fmt: skip

    def after_init(self) -> None:
        ema_update(self.target, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return cosine(progress.step, progress.steps, self.s.momentum, 1.0)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 2 x [B, C, H, W]
        features = encoders.view_by_view(self.encoder, images)  # 2 x [B, D]
        z1, z2 = (self.projector(x) for x in features)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        if self.s.stop_gradient:
            with torch.no_grad():
                z1, z2 = (self.target_projector(x) for x in encoders.view_by_view(self.target, images))
        stop = self.s.stop_gradient
        terms = {
            "p1z2": normalised_mse(p1, z2, stop_gradient=stop),
            "p2z1": normalised_mse(p2, z1, stop_gradient=stop),
        }
        signals = {
            "features": features[0].detach(),
            "embeddings": F.normalize(torch.cat([p1, p2]).detach().float(), dim=1),
            "positives": F.normalize(torch.cat([z2, z1]).detach().float(), dim=1),
            "momentum": torch.tensor(self.momentum(progress)),
        }
        return Step(terms, signals)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        # After the update: the target moves towards what the online network has just become.
        m = self.momentum(progress)
        ema_update(self.target, self.encoder, m)
        ema_update(self.target_projector, self.projector, m)
