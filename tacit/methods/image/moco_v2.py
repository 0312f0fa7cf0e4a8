"""MoCo v2: Improved Baselines with Momentum Contrastive Learning (Chen et al. 2020, arXiv 2003.04297).

One view asks, the other answers: a query is matched with its record's key among a long queue of older keys, which a
slow copy of the encoder made (MoCo, He et al. 2020, arXiv 1911.05722). BatchNorm could give a key away by the batch it
was normalised with. Hence devices that normalise apart encode the keys in a shuffled order; where the engine shares the
statistics among all devices (SyncBatchNorm, on several GPUs), or a device is alone, shuffling would change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tacit import encoders
from tacit.distributed import shuffle_rows, unshuffle_rows
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import mlp
from tacit.objectives import info_nce
from tacit.settings import again, setting
from tacit.teachers import KeyQueue, ema_update, momentum_copy, queue_problems
from tacit.views import Crop


@dataclass(frozen=True)
class Settings(Recipe):
    # SGD that decays everything, one rate an epoch along a cosine, no warm-up.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 200)
    batch_size: int = again(Recipe, "batch_size", 256)
    optimizer: str = again(Recipe, "optimizer", "sgd")
    lr: float = again(Recipe, "lr", 0.03)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    lr_cosine: str = again(Recipe, "lr_cosine", "by_epoch")
    warmup_epochs: float = again(Recipe, "warmup_epochs", 0.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-4)
    decay_vectors: bool = again(Recipe, "decay_vectors", True)

    temperature: float = setting(0.2, "divides the similarities", low=1e-3)
    queue_size: int = setting(65536, "keys in the queue; a multiple of batch_size", low=1)
    momentum: float = setting(0.999, "of the key branch, at every step", low=0, high=1)
    shuffle_bn: bool = setting(True, "devices that normalise apart encode the keys in a shuffled order")
    hidden: int = setting(2048, "hidden width of the head", low=1)
    out: int = setting(128, "width of the compared embeddings", low=1)
    head_layers: int = setting(2, "linear layers of the head", low=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    min_area: float = setting(0.2, "smallest share of the image's area a view may hold", low=0.001, high=1)


class MoCoV2(Method):
    title = "MoCo v2"
    paper = "Chen et al. 2020, Improved Baselines with Momentum Contrastive Learning, arXiv 2003.04297"
    modality = "image"
    family = "contrastive"
    Settings = Settings
    presets = {
        "paper": Settings(),
        "long": Settings(epochs=800),
        # For some thousand small images on one CPU or GPU, the mechanism whole. A small ViT learns faster there than a
        # ResNet, and takes AdamW with its decay and a short warm-up in place of SGD. Far fewer steps than the paper's:
        # batches of a quarter for more of them, keys that follow within 30, and a queue of a 128th, or records would
        # meet their own old keys as negatives. A quarter of the head's width; inputs of a seventh: half the blur.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, optimizer="adamw", lr=2e-3,
            weight_decay=0.05, decay_vectors=False, queue_size=512, momentum=0.97, hidden=512, blur_sigma=(0.1, 1.0),
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16, "queue_size": 32}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        return queue_problems(s.queue_size, s.batch_size)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window)
        for block in self.encoder.modules():  # timm starts a ResNet's blocks as identities, torchvision's ResNet not
            if isinstance(block, BasicBlock | Bottleneck):
                nn.init.ones_(getattr(block, "bn3", block.bn2).weight)
        self.head = mlp(self.encoder.width, s.hidden, s.out, s.head_layers, norm=False)
        # The key branch stays in train mode: it normalises by its own batches and keeps its own running statistics.
        self.key_encoder = momentum_copy(self.encoder)
        self.key_head = momentum_copy(self.head)
        self.queue = KeyQueue(views=1, width=s.out, length=s.queue_size)

    def views(self) -> list[Crop]:
        """One pipeline, drawn twice."""
        pipeline = Crop(
            inputs=self.encoder.inputs, scale=(self.s.min_area, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5,
            jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=0.5, blur_sigma=self.s.blur_sigma,
        )  # fmt: skip
        return [replace(pipeline, name="query"), replace(pipeline, name="key")]

    def after_init(self) -> None:
        ema_update(self.key_encoder, self.encoder, 0.0)

    def before_step(self, progress: Progress) -> None:
        # Before the key forward and before this step's update: the keys see the online weights the queries see.
        ema_update(self.key_encoder, self.encoder, self.s.momentum)
        ema_update(self.key_head, self.head, self.s.momentum)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        asked, answering = (view["image"] for view in views)  # [B, C, H, W]
        features = self.encoder(asked)  # [B, D]
        q = F.normalize(self.head(features).float(), dim=1)
        k = self.keys(answering)
        (queue,) = self.queue.keys  # as it was before this batch
        signals = {
            "features": features.detach(),
            "embeddings": q.detach(),
            "positives": k,
            "negatives": queue,
            "momentum": torch.tensor(self.s.momentum),
            "queue_age": torch.tensor(self.queue.age(self.s.batch_size)),
        }
        return Step({"qk": info_nce(q, k, queue, self.s.temperature)}, signals)

    @property
    def shuffles(self) -> bool:
        """Whether a device would normalise keys by its own rows alone."""
        norms = [m for m in self.key_encoder.modules() if isinstance(m, _BatchNorm)]
        return self.s.shuffle_bn and any(not isinstance(m, nn.SyncBatchNorm) for m in norms)

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Unit keys [B, out] of images [B, C, H, W], encoded among other devices' rows where need be."""
        shuffles = self.shuffles
        if shuffles:
            images, order = shuffle_rows(images)
        k = F.normalize(self.key_head(self.key_encoder(images)).float(), dim=1)
        return unshuffle_rows(k, order) if shuffles else k

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        self.queue.enqueue(torch.cat([s["positives"] for s in signals]).unsqueeze(0))
