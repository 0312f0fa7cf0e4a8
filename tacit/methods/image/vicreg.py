"""VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.

Bardes, Ponce and LeCun 2022, arXiv 2105.04906. Two views of a record are to have the same embedding, and there are no
negatives, no averages and no predictor: collapse is forbidden by name. Every dimension must vary over the batch, and no
two of them together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import encoders
from tacit.distributed import gather_with_grad
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import mlp
from tacit.objectives import covariance, invariance, variance
from tacit.settings import again, setting
from tacit.views import Crop, unlike_pair


@dataclass(frozen=True)
class Settings(Recipe):
    # As the official code: the rate ends at a thousandth of its peak of 1.6, where the paper's text has 0.002.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 1000)
    batch_size: int = again(Recipe, "batch_size", 2048)
    optimizer: str = again(Recipe, "optimizer", "lars")
    lr: float = again(Recipe, "lr", 0.2)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 2e-4)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 10.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-6)

    invariance_weight: float = setting(25.0, "of the distance between the two views' embeddings", low=0)
    variance_weight: float = setting(25.0, "of what the dimensions vary too little; with 0, VICReg collapses", low=0)
    covariance_weight: float = setting(1.0, "of what the dimensions vary together", low=0)
    target_std: float = setting(1.0, "standard deviation from which on a dimension varies enough", low=1e-3)
    hidden: int = setting(8192, "hidden width of the projector, the paper's expander", low=1)
    out: int = setting(8192, "width of the compared embeddings", low=2)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)


class VICReg(Method):
    title = "VICReg"
    paper = (
        "Bardes et al. 2022, Variance-Invariance-Covariance Regularization for Self-Supervised Learning, "
        "arXiv 2105.04906"
    )
    modality = "image"
    family = "decorrelation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The official run on one machine.
        "short": Settings(epochs=100, batch_size=512, lr=0.3, lr_end=3e-4),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Embeddings four times as wide as the
        # batch, as in the paper, for a covariance as well known; half the blur and larger crops, as inputs are a
        # seventh. A ViT takes AdamW and its rates in place of LARS and its own.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, optimizer="adamw", lr=5e-4,
            lr_batch=64, lr_end=1e-6, weight_decay=0.04, hidden=256, out=256, blur_sigma=(0.1, 1.0), min_area=0.2,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16}

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, interpolation="bicubic"
        )
        self.projector = mlp(self.encoder.width, s.hidden, s.out, 3, last_bias=False)

    def views(self) -> list[Crop]:
        """As in BYOL: the first always blurs, the second blurs one in ten and solarises one in five."""
        return unlike_pair(self.encoder.inputs, min_area=self.s.min_area, blur_sigma=self.s.blur_sigma)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        # One pass a view: every BatchNorm sees the views apart.
        features = [self.encoder(view["image"]) for view in views]  # 2 x [B, D]
        x, y = (self.projector(f).float() for f in features)  # 2 x [B, out]
        # The loss compares lengths too, so the monitors see directions and how far the lengths have shrunk.
        a, b = (F.normalize(z.detach(), dim=1) for z in (x, y))
        signals = {
            "features": features[0].detach(),
            "embeddings": torch.cat([a, b]),
            "positives": torch.cat([b, a]),
            "embedding_scale": x.detach().std(0).mean() / self.s.target_std,
        }
        return Step(self.terms(x, y), signals)

    def terms(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The weighted terms of two views' embeddings [B, out] (eq. 6); variance and covariance over all ranks.

        As in the official code the variance is the mean of the two views', where the paper adds them.
        """
        s = self.s
        each = [gather_with_grad(z) for z in (x, y)]
        return {
            "invariance": s.invariance_weight * invariance(x, y),
            "variance": s.variance_weight * sum(variance(z, s.target_std) for z in each) / 2,
            "covariance": s.covariance_weight * sum(covariance(z) for z in each),
        }
