"""MoBY: Self-Supervised Learning with Swin Transformers (Xie et al. 2021, arXiv 2105.04553).

The key queue, InfoNCE and momentum encoder of MoCo v2 with the predictor, the asymmetric views and the two-way loss of
BYOL, for transformers: AdamW, and drop path on the online branch alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.schedules import cosine
from tacit.heads import mlp
from tacit.objectives import info_nce
from tacit.settings import again, setting
from tacit.teachers import KeyQueue, ema_update, momentum_copy, queue_problems
from tacit.views import Crop, unlike_pair


@dataclass(frozen=True)
class Settings(Recipe):
    # Section 6 of the official recipe: AdamW, cosine at the absolute step, updated one step late, clip 5.
    lr_cosine: str = again(Recipe, "lr_cosine", "from_zero")
    lr_lag: int = again(Recipe, "lr_lag", 1)
    clip: float | None = again(Recipe, "clip", 5.0)

    temperature: float = setting(0.2, "divides the similarities", low=1e-3)
    queue_size: int = setting(4096, "keys in each of the two queues; a multiple of batch_size", low=1)
    momentum: float = setting(0.99, "of the key branch at the first step; rises to 1 by a cosine", low=0, high=1)
    drop_path: float = setting(0.2, "stochastic depth of the online encoder's last block", low=0, high=0.99)
    key_drop_path: float = setting(0.0, "stochastic depth of the key encoder's last block", low=0, high=0.99)
    norm_before_mlp: str = setting("ln", "norm before each MLP of the encoders", choices=("ln", "bn"))
    hidden: int = setting(4096, "hidden width of projector and predictor", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)
    projector_layers: int = setting(2, "linear layers of the projector", low=0)
    predictor_layers: int = setting(2, "linear layers of the predictor; 0 for none", low=0)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)


class MoBY(Method):
    title = "MoBY"
    paper = "Xie et al. 2021, Self-Supervised Learning with Swin Transformers, arXiv 2105.04553"
    modality = "image"
    family = "contrastive"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Far fewer steps than the paper's:
        # hence batches of an eighth, for more steps; a momentum that lets the keys follow within 30 of them, a short
        # warm-up, four times the rate. A queue of an eighth, or records would meet their own old keys as negatives. A
        # fortieth of the weights: heads of an eighth and a half, a quarter of the drop path. Inputs of a seventh: half
        # the blur, and larger crops.
        "small": Settings(
            encoder="swin_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=4e-3, queue_size=512,
            momentum=0.97, drop_path=0.05, hidden=512, out=128, blur_sigma=(0.1, 1.0), min_area=0.2,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16, "queue_size": 32}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = queue_problems(s.queue_size, s.batch_size)
        if s.projector_layers == 0 and s.predictor_layers == 0:
            found.append("projector_layers = 0 and predictor_layers = 0: at least one head must have a layer.")
        return found

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window,
            drop_path=s.drop_path, norm_before_mlp=s.norm_before_mlp,
        )  # fmt: skip
        self.projector = mlp(self.encoder.width, s.hidden, s.out, s.projector_layers)
        out = s.out if s.projector_layers else self.encoder.width
        self.predictor = mlp(out, s.hidden, out, s.predictor_layers)
        # The key branch stays in train mode: it normalises by its own batches and keeps its own running statistics.
        self.key_encoder = encoders.set_drop_path(momentum_copy(self.encoder), s.key_drop_path)
        self.key_projector = momentum_copy(self.projector)
        self.queue = KeyQueue(views=2, width=out, length=s.queue_size)

    def views(self) -> list[Crop]:
        """T1 always blurs and never solarises, T2 blurs one in ten and solarises one in five; all else is shared."""
        pair = {"min_area": self.s.min_area, "blur_sigma": self.s.blur_sigma}
        return unlike_pair(self.encoder.inputs, names=("T1", "T2"), **pair)

    def after_init(self) -> None:
        ema_update(self.key_encoder, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return cosine(progress.step, progress.steps, self.s.momentum, 1.0)

    def before_step(self, progress: Progress) -> None:
        # Before the key forward and before this step's update: the keys see the online weights the queries see.
        m = self.momentum(progress)
        ema_update(self.key_encoder, self.encoder, m)
        ema_update(self.key_projector, self.projector, m)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 2 x [B, C, H, W]
        features = encoders.view_by_view(self.encoder, images)  # 2 x [B, D]
        q1, q2 = (F.normalize(self.predictor(self.projector(x)).float(), dim=1) for x in features)
        with torch.no_grad():
            k1, k2 = (
                F.normalize(self.key_projector(x).float(), dim=1)
                for x in encoders.view_by_view(self.key_encoder, images)
            )

        queue1, queue2 = self.queue.keys  # as they were before this batch
        t = self.s.temperature
        terms = {"q1k2": info_nce(q1, k2, queue2, t), "q2k1": info_nce(q2, k1, queue1, t)}
        signals = {
            "features": features[0].detach(),
            "embeddings": torch.cat([q1, q2]).detach(),
            "positives": torch.cat([k2, k1]),
            "negatives": queue2,
            "keys": torch.stack([k1, k2]),
            "momentum": torch.tensor(self.momentum(progress)),
            "queue_age": torch.tensor(self.queue.age(self.s.batch_size)),
        }
        return Step(terms, signals)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        self.queue.enqueue(torch.cat([s["keys"] for s in signals], dim=1))
