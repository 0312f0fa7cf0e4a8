"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron et al. 2020, arXiv 2006.09882. Online clustering: optimal transport assigns the records of a batch to prototypes,
each of them used alike, and every crop predicts the assignments (the codes) of the other large crops of its record. No
pairs are compared and no encoder is averaged. On several GPUs the BatchNorms are synchronised over all of them, where
the official code does so in groups of eight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import Prototypes, mlp
from tacit.objectives import across_views, sinkhorn
from tacit.settings import again, setting
from tacit.teachers import EmbeddingQueue, queue_problems
from tacit.views import Crop, equal_multi_crop

STD = (0.228, 0.224, 0.225)  # as the official code has it; the first is not ImageNet's usual .229


@dataclass(frozen=True)
class Settings(Recipe):
    # The official run of 800 epochs. All tensors are decayed and adapted, BatchNorms and biases too.
    encoder: str = again(Recipe, "encoder", "resnet50")
    epochs: int = again(Recipe, "epochs", 800)
    batch_size: int = again(Recipe, "batch_size", 4096)
    optimizer: str = again(Recipe, "optimizer", "larc")
    lr: float = again(Recipe, "lr", 4.8)
    lr_batch: int = again(Recipe, "lr_batch", 4096)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.3)
    lr_end: float = again(Recipe, "lr_end", 4.8e-3)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 10.0)
    warmup_inclusive: bool = again(Recipe, "warmup_inclusive", True)
    weight_decay: float = again(Recipe, "weight_decay", 1e-6)
    decay_vectors: bool = again(Recipe, "decay_vectors", True)

    local_crops: int = setting(6, "small crops beside the two large ones", low=0)
    local_size: int = setting(96, "side of the small crops, in pixels", low=4)
    global_area: tuple[float, float] = setting((0.14, 1.0), "shares of the image's area a large crop holds", low=0.001)
    local_area: tuple[float, float] = setting((0.05, 0.14), "shares of the image's area a small crop holds", low=0.001)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    jitter_strength: float = setting(1.0, "multiplies the changes of colour, (.8, .8, .8, .2)", low=0, high=1.25)
    hidden: int = setting(2048, "hidden width of the head", low=1)
    out: int = setting(128, "width of the embeddings that are compared with prototypes", low=1)
    prototypes: int = setting(3000, "how many", low=2)
    freeze_prototypes: int = setting(313, "steps in which the prototypes do not learn: an epoch of ImageNet", low=0)
    temperature: float = setting(0.1, "divides the scores that predict a code", low=1e-3)
    epsilon: float = setting(0.05, "divides the scores a code is made of; lower makes codes harder", low=1e-3)
    sinkhorn_iterations: int = setting(
        3, "rounds of equal partition in a code; with 0, records may share one prototype, and SwAV collapses", low=0
    )
    queue_size: int = setting(0, "past embeddings of each large crop that share in the codes; 0 for none", low=0)
    queue_start: float = setting(15.0, "epochs before the queue is filled; it is used once it is full", low=0)


class SwAV(Method):
    title = "SwAV"
    paper = (
        "Caron et al. 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, "
        "arXiv 2006.09882"
    )
    modality = "image"
    family = "clustering"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # Batches for one machine: the queue makes up for the records a batch lacks.
        "small_batch": Settings(
            epochs=200, batch_size=256, lr=0.6, lr_batch=256, lr_end=6e-4, warmup_epochs=0, queue_size=3840,
            freeze_prototypes=5005,
        ),
        "two_crops": Settings(epochs=400, local_crops=0, global_area=(0.08, 1.0)),
        # For some thousand small images on one CPU or GPU, the mechanism whole: a batch smaller than the prototypes,
        # hence a queue, but short and late, as embeddings age fast in a short run; prototypes frozen for a hundredth of
        # the steps. A thirtieth of the prototypes and an eighth of the head for a narrow encoder. Codes fade to
        # uniform ones where the scores of two views correlate by less than epsilon / temperature; in so few steps they
        # must not at the start, so crops are larger, colours change half as much, and epsilon is the official advice
        # for a loss that stays at ln K. A ViT takes AdamW and its rates in place of LARC and its own.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, batch_size=64, optimizer="adamw", lr=5e-4, lr_batch=64,
            lr_warmup=0.0, lr_end=1e-6, warmup_epochs=1, weight_decay=0.04, decay_vectors=False, local_crops=4,
            local_size=16, global_area=(0.3, 1.0), local_area=(0.1, 0.4), blur_sigma=(0.1, 1.0), jitter_strength=0.5,
            hidden=256, out=64, prototypes=100, freeze_prototypes=30, epsilon=0.03, queue_size=256, queue_start=5.0,
        ),
    }  # fmt: skip
    tiny = {"local_size": 8, "hidden": 32, "out": 16, "prototypes": 16, "freeze_prototypes": 2, "queue_size": 16}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = encoders.crop_problems(s.encoder, s.local_size, s.patch) if s.local_crops else []
        return found + (queue_problems(s.queue_size, s.batch_size) if s.queue_size else [])

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        # The official stem pads by 1, then its convolution by 2: the 3 of every ResNet, so it is left as it is.
        self.encoder = encoders.any_size(
            encoders.build(
                s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window,
                std=STD if s.channels == 3 else None,
            ),
            mask_padding=False,
        )  # fmt: skip
        for part in self.encoder.modules():
            if isinstance(part, nn.BatchNorm2d):  # timm starts the last of a residual branch at 0, SwAV at 1
                nn.init.ones_(part.weight)
        self.head = mlp(self.encoder.width, s.hidden, s.out, 2)
        self.prototypes = Prototypes(s.out, s.prototypes)
        self.queue = EmbeddingQueue(views=2, width=s.out, length=s.queue_size)

    def views(self) -> list[Crop]:
        return equal_multi_crop(
            self.encoder.inputs, self.s.local_crops, self.s.local_size, self.s.global_area, self.s.local_area,
            self.s.blur_sigma, self.s.jitter_strength,
        )  # fmt: skip

    def before_step(self, progress: Progress) -> None:
        self.prototypes.normalise_()

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 2 large, then the small: V x [B, C, H_v, W_v]
        features = encoders.by_size(self.encoder, images)
        z = F.normalize(self.head(torch.cat(features)).float(), dim=1)  # [V B, out]
        scores = self.prototypes(z).chunk(len(images))  # V x [B, K]
        codes = self.codes(scores[:2])
        large = z[: 2 * len(images[0])].detach()
        signals = {
            "features": features[0].detach(),
            "embeddings": large,
            "positives": large.roll(len(images[0]), 0),  # those of the other large crop
            "targets": codes[0],
            "large": torch.stack(large.chunk(2)),
        }
        return Step({"views": across_views(codes, scores, self.s.temperature)}, signals)

    @torch.no_grad()
    def codes(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """What the large crops are assigned to, 2 x [B, K] to 2 x [B, K], the queue among the records if it is full.

        Past embeddings meet the prototypes of today: it is they that are kept, not their scores.
        """
        batch = len(scores[0])
        if self.queue.full:
            scores = [torch.cat([self.prototypes(past), s]) for past, s in zip(self.queue.share(), scores, strict=True)]
        found = [sinkhorn(s, epsilon=self.s.epsilon, iterations=self.s.sinkhorn_iterations) for s in scores]
        return [q[-batch:] for q in found]

    def before_update(self, progress: Progress) -> None:
        if progress.step < self.s.freeze_prototypes:
            self.prototypes.weight.grad = None

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        if self.s.queue_size and progress.epoch >= self.s.queue_start:
            self.queue.push(torch.cat([s["large"] for s in signals], dim=1))
