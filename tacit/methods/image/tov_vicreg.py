"""TOV-VICReg: Pretraining the Vision Transformer using self-supervised methods for vision based Deep Reinforcement
Learning (Goulao and Oliveira 2022, arXiv 2209.10901).

VICReg between two views of a stack of game frames, and a linear head that tells from the features of the stacks now,
before and after whether they stand in their order. Data are episodes: `--data episodes:FOLDER`. What the encoder sees
is a stack of as many grey frames as there are channels.

Features of the middle stack are of a crop, the others of whole frames, so most wrong orders give themselves away; only
the one with before and after exchanged asks for time. `metric/order_time` is how often the head prefers the right order
to that one: chance is one half. Positions are interpolated with antialiasing, the official code does without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.distributed import gather_with_grad
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import mlp
from tacit.objectives import ORDERS, arranged, covariance, invariance, order_accuracies, order_loss, preferred, variance
from tacit.settings import again, setting
from tacit.views import Crop

SLOTS = ("now", "before", "after")  # in the published order, which is not that of time
CHRONOLOGICAL = ("before", "now", "after")


@dataclass(frozen=True)
class Settings(Recipe):
    encoder: str = again(Recipe, "encoder", "vit_tiny_patch16_224")
    size: int = again(Recipe, "size", 84)
    patch: int | None = again(Recipe, "patch", 8)
    epochs: int = again(Recipe, "epochs", 10)
    optimizer: str = again(Recipe, "optimizer", "lars")
    lr: float = again(Recipe, "lr", 0.6)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 2.0)
    weight_decay: float = again(Recipe, "weight_decay", 1e-6)

    positions: int | None = setting(
        224, "side, in pixels, that a ViT's position table is made for; it is interpolated to `size`", low=4
    )
    hidden: int = setting(1024, "hidden width of the projector", low=1)
    out: int = setting(1024, "width of the embeddings that are compared", low=2)
    invariance: float = setting(10.0, "weight of the distance between two views of a stack", low=0)
    variance: float = setting(10.0, "weight of the hinge on standard deviations; with 0 the embeddings collapse", low=0)
    covariance: float = setting(10.0, "weight of the covariances", low=0)
    order: float = setting(0.1, "weight of the verification of order", low=0)
    chronological: bool = setting(False, "the right order is that of time, not now, before, after as published")
    gather: bool = setting(False, "variance and covariance over all devices, as VICReg has it, not within each")
    min_area: float = setting(0.08, "smallest share of a frame's area that a crop may hold", low=0.001, high=1)
    frames_as_colours: bool = setting(
        True,
        "jitter and grey take three frames for red, green and blue; without, all frames change alike, none is grey",
    )

    @property
    def trunk(self) -> dict[str, object]:
        return {"positions": self.positions}


class TOVVICReg(Method):
    title = "TOV-VICReg"
    paper = (
        "Goulao and Oliveira 2022, Pretraining the Vision Transformer using self-supervised methods for vision based "
        "Deep Reinforcement Learning, arXiv 2209.10901"
    )
    modality = "image"
    family = "decorrelation"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The weights that the official code has where its script for the paper says nothing.
        "code": Settings(invariance=25.0, variance=25.0, covariance=1.0, order=1.0),
        # For some thousand stacks on one CPU or GPU, the mechanism whole. Far fewer steps than the paper's, with a
        # ViT of four blocks: AdamW and an eighth of the batch, for more of them; a quarter of the projector's width. A
        # table of 16 x 16 for a grid of 8 x 8. Small frames: crops from a fifth, where a sprite is seldom cut away.
        # The order counts as much as another term, for there is no time to learn it a hundred times slower.
        "small": Settings(
            encoder="vit_mini", size=32, patch=None, positions=64, epochs=10, warmup_epochs=1, batch_size=64,
            optimizer="adamw", lr=5e-4, lr_batch=64, weight_decay=0.05, hidden=256, out=256, min_area=0.2,
            order=10.0,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16, "positions": 32}

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, positions=s.positions,
            mean=(0.0,) * s.channels, std=(1.0,) * s.channels,
        )  # fmt: skip
        self.projector = mlp(self.encoder.width, s.hidden, s.out, 3, last_bias=False)
        self.order_head = nn.Linear(3 * self.encoder.width, 1)
        # One pass an image and no norm over the batch: the four views may go through together.
        self.apart = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.encoder.modules())

    def views(self) -> list[Crop]:
        """x and y of the stack now, z of the one before, w of the one after."""
        jitter, gray_p = ((0.4, 0.4, 0.2, 0.1), 0.2) if self.s.frames_as_colours else ((0.4, 0.4, 0.0, 0.0), 0.0)
        whole = Crop(inputs=self.encoder.inputs, whole=True, flip=0, jitter=jitter, jitter_p=0.8, gray_p=gray_p)
        x = replace(
            whole, name="x", whole=False, scale=(self.s.min_area, 1.0), flip=0.5, blur_p=1.0, blur_sigma=(0.1, 0.2),
            blur_reach=3,
        )  # fmt: skip
        y = replace(x, name="y", blur_p=0.1, solarize_p=0.2, solarize_threshold=120 / 255)
        return [x, y, replace(whole, name="z", field="previous"), replace(whole, name="w", field="next")]

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images = [view["image"] for view in views]  # 4 x [B, C, H, W]
        features = [self.encoder(i) for i in images] if self.apart else self.encoder(torch.cat(images)).chunk(4)
        x, y = (self.projector(f) for f in features[:2])
        spread = [gather_with_grad(e) for e in (x, y)] if self.s.gather else [x, y]
        now, _, before, after = features
        slots = torch.stack([before, now, after] if self.s.chronological else [now, before, after], dim=1)
        order = torch.randint(len(ORDERS), (len(now),), device=now.device)
        logits = self.order_head(arranged(slots, order)).squeeze(1)
        terms = {
            "invariance": self.s.invariance * invariance(x, y),
            "variance": self.s.variance * sum(variance(e) for e in spread) / 2,
            "covariance": self.s.covariance * sum(covariance(e) for e in spread),
            "order": self.s.order * order_loss(logits, order),
        }
        signals = {
            "features": now.detach(),
            "embeddings": F.normalize(x.detach(), dim=1),
            "positives": F.normalize(y.detach(), dim=1),
        }
        return Step(terms, signals | self.judged(slots.detach()))

    @torch.no_grad()
    def judged(self, slots: Tensor) -> dict[str, Tensor]:
        """What the head makes of all six orders: on each, on both classes evenly, and where time decides."""
        orders = torch.arange(len(ORDERS), device=slots.device)
        logits = torch.stack([self.order_head(arranged(slots, o.expand(len(slots)))) for o in orders], 1).squeeze(2)
        right = order_accuracies(logits)
        names = CHRONOLOGICAL if self.s.chronological else SLOTS
        exchanged = [names.index({"before": "after", "after": "before"}.get(n, n)) for n in names]
        time = ORDERS.tolist().index(exchanged)
        each = {"_".join(names[i] for i in o): right[k] for k, o in enumerate(ORDERS.tolist())}
        each |= {"accuracy": (right[0] + right[1:].mean()) / 2, "time": preferred(logits[:, 0], logits[:, time])}
        return {f"metric/order_{name}": value for name, value in each.items()}
