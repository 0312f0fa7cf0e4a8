"""SimCLR v2: Big Self-Supervised Models are Strong Semi-Supervised Learners (Chen et al. 2020, arXiv 2006.10029).

The first of its three stages: two views of a record find each other among the views of all others in the batch, through
a deep projection head. The second stage fine-tunes on few labels from the middle of that head, the third distils the
result on unlabelled images (`simclr_v2_distil`). The paper's optional memory of past keys (about one point) is not
part of it, as it is not of the published code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import mlp
from tacit.objectives import nt_xent
from tacit.settings import again, setting
from tacit.views import Crop


@dataclass(frozen=True)
class Settings(Recipe):
    # The paper, section 3: LARS, 0.1 times the root of the batch (6.4 at 4096), a warm-up of 5 % of the epochs.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 800)
    batch_size: int = again(Recipe, "batch_size", 4096)
    optimizer: str = again(Recipe, "optimizer", "lars_lr_inside")
    lr: float = again(Recipe, "lr", 0.1)
    lr_batch: int = again(Recipe, "lr_batch", 1)
    lr_scaling: str = again(Recipe, "lr_scaling", "sqrt")
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 40.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-4)

    temperature: float = setting(0.1, "divides the similarities", low=1e-3)
    out: int = setting(128, "width of the compared embeddings", low=1)
    projector_layers: int = setting(
        3, "linear layers of the projector; all but the last are as wide as the encoder", low=1
    )
    jitter_strength: float = setting(
        1.0, "of the colour jitter: 0.8 of it, and 0.2 of it for the hue", low=0, high=1.25
    )
    blur_p: float = setting(0.5, "chance of a Gaussian blur", low=0, high=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the blur's radius, in pixels", low=0)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)


class SimCLRv2(Method):
    title = "SimCLR v2"
    paper = "Chen et al. 2020, Big Self-Supervised Models are Strong Semi-Supervised Learners, arXiv 2006.10029"
    modality = "image"
    family = "contrastive"
    Settings = Settings
    presets = {
        # The published run takes 250,228 steps on ImageNet, 0.3 % more than whole batches fit into the epochs.
        "paper": Settings(),
        "big": Settings(encoder="resnet152_3x_sk"),
        # The linear scaling of SimCLR, in the published examples of fewer epochs too.
        "linear": Settings(lr=0.3, lr_batch=256, lr_scaling="linear", warmup_epochs=10.0),
        # For some thousand small images on one CPU or GPU: the published settings for CIFAR-10 (weaker jitter, no
        # blur, a higher temperature), small batches for more steps, a short warm-up, larger crops of small images.
        # A ViT for the ResNet, and so AdamW at the rate of the others for LARS.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, optimizer="adamw", lr=5e-4,
            lr_batch=64, weight_decay=0.05, temperature=0.5, jitter_strength=0.5, blur_p=0.0, min_area=0.2,
        ),
    }  # fmt: skip
    tiny = {"out": 16}

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        # Nothing is subtracted from pixels in [0, 1], and nothing divides them.
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window,
            mean=(0.0,) * s.channels, std=(1.0,) * s.channels, interpolation="bicubic",
        )  # fmt: skip
        # Stage two takes its first [Linear, BatchNorm, ReLU] along with the encoder.
        width = self.encoder.width
        self.projector = mlp(width, width, s.out, s.projector_layers, bias=False, last_norm="bn_no_shift")
        for layer in self.projector:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)

    def views(self) -> list[Crop]:
        """Two draws of one pipeline. Contrast turns about the mean luma; TensorFlow's about each channel's mean."""
        s = 0.8 * self.s.jitter_strength
        shared = Crop(
            inputs=self.encoder.inputs, scale=(self.s.min_area, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5,
            jitter=(s, s, s, s / 4), jitter_p=0.8, gray_p=0.2, blur_p=self.s.blur_p, blur_sigma=self.s.blur_sigma,
            blur_reach=max(self.s.size // 20, 1),  # a kernel of a tenth of the side, made odd
        )  # fmt: skip
        return [replace(shared, name="A"), replace(shared, name="B")]

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        # Both views in one pass through both networks: every BatchNorm normalises over both.
        features = self.encoder(torch.cat([view["image"] for view in views]))  # [2 B, D]
        a, b = self.projector(features).float().chunk(2)  # 2 x [B, out]
        z1, z2 = (F.normalize(z.detach(), dim=1) for z in (a, b))
        signals = {
            "features": features.detach().chunk(2)[0],
            "embeddings": torch.cat([z1, z2]),
            "positives": torch.cat([z2, z1]),
        }
        return Step({"nt_xent": nt_xent(a, b, self.s.temperature)}, signals)
