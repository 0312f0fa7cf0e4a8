"""SiT: Self-supervised vIsion Transformer (Atito, Awais and Kittler 2021, arXiv 2104.03602).

A ViT gives back overwritten pixels, and at once tells pictures apart. Three methods were published under the name: `v1`
(2021) spoils views in four ways, judges all pixels, and weighs reconstruction, rotation and contrast in the batch by
learned uncertainties; `v2` (June 2022) overwrites blocks as GMML does and judges these; `paper`, its last version
(December 2022), drops rotation and contrasts with a momentum teacher of clean views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import DINORecipe, Method, Progress, Step
from tacit.engine.schedules import cosine
from tacit.heads import PROJECTIONS, PixelDecoder, projection
from tacit.objectives import FORMS, batch_info_nce, masked_l1, nt_xent, uncertain
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import SIT_PAIRS, Blocks, Corrupted, Spoiled, Turned, corruption_problems, sit_pair


@dataclass(frozen=True)
class Settings(DINORecipe):
    encoder: str = again(DINORecipe, "encoder", "deit_small")
    epochs: int = again(DINORecipe, "epochs", 800)
    batch_size: int = again(DINORecipe, "batch_size", 256)
    weight_decay_end: float | None = again(DINORecipe, "weight_decay_end", 0.1)

    contrast: str = setting("teacher", "with a momentum teacher keys, or in the batch", choices=("teacher", "batch"))
    temperature: float = setting(0.2, "divides the similarities", low=1e-3)
    momentum: float = setting(0.996, "of the teacher at the first step; rises to 1 by a cosine", low=0, high=1)
    rotation: bool = setting(False, "views are turned by quarters, and a token of its own tells by how many")
    weighing: str = setting("fixed", "of the tasks: fixed, or by a learned number each", choices=("fixed", *FORMS))
    reconstruction_weight: float = setting(1.0, "of reconstruction among fixed weights; 5 for small data", low=0)
    head: str = setting("bn", "of contrast and rotation: with BatchNorm, without, one Linear", choices=PROJECTIONS)
    hidden: int = setting(4096, "hidden width of the heads", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)
    decoder_layers: int = setting(3, "linear layers of the decoder before its convolution", low=0)
    corruption: str = setting("blocks", "GMML's blocks, or v1's four kinds at once", choices=("blocks", "spoiled"))
    fills: tuple[str, ...] = setting(("zeros",), "what blocks overwrite with, one kind a view: noise, zeros, copy")
    share: float = setting(0.5, "most of a view's area that blocks overwrite", low=0.01, high=0.95)
    donor_share: float = setting(0.3, "the same where another picture overwrites; 0 for never", low=0, high=0.95)
    align: int = setting(1, "blocks lie at multiples of so many pixels", low=1)
    max_block: float = setting(0.3, "sides of blocks are less than this share of the view's", low=0.01, high=0.95)
    unbiased: bool = setting(False, "blocks cover every pixel equally often; as published, the top left hardly ever")
    masked_only: bool = setting(True, "only what was overwritten is judged, not all pixels")
    pair: str = setting("harsh", "the views: harsh, one light, or alike", choices=SIT_PAIRS)
    min_area: float = setting(0.2, "smallest share of the image's area a view may hold", low=0.001, high=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)
    drop_path: float = setting(0.1, "stochastic depth of the last block, not the teacher's", low=0, high=0.99)


class SiT(Method):
    title = "SiT"
    paper = "Atito et al. 2021, SiT: Self-supervised vIsion Transformer, arXiv 2104.03602"
    modality = "image"
    family = "masked and contrastive"
    needs = frozenset({"cls", "drop_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        "v2": Settings(
            encoder="deit_tiny_patch16_224", size=64, epochs=500, batch_size=64, lr_end=1e-5, weight_decay_end=0.4,
            contrast="batch", temperature=0.5, rotation=True, weighing="deviation", head="mlp", hidden=2048,
            decoder_layers=2, fills=("noise",), share=0.7, donor_share=0.35, pair="light",
        ),
        # Without the sampler that shows each picture three times, and the average of weights it is evaluated with.
        "v1": Settings(
            encoder="deit_base_patch16_224", epochs=501, batch_size=288, lr=1e-3, lr_batch=512, lr_warmup=1e-6,
            lr_end=5e-6, warmup_epochs=5, warmup_inclusive=False, lr_cosine="by_epoch", weight_decay=0.05,
            weight_decay_end=None, decay_positions=False, clip=None, contrast="batch", temperature=0.5, rotation=True,
            weighing="log_variance", head="linear", out=512, decoder_layers=0, corruption="spoiled", masked_only=False,
            pair="alike", min_area=0.08,
        ),
        # For some thousand small images, a thousandth of the steps: small batches, a teacher that follows within a
        # hundred, twice the rate, heads of an eighth and a half, half the blur, and the weight for small data.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=4e-3, momentum=0.99,
            reconstruction_weight=5.0, hidden=512, out=128, drop_path=0.05, blur_sigma=(0.1, 1.0),
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        wrong = corruption_problems(Blocks(s.align, s.max_block, s.unbiased), s.fills, s.share, s.donor_share, s.size)
        return wrong if s.corruption == "blocks" else []

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
            interpolation="bicubic", **({"reg_tokens": 1} if s.rotation else {}),
        )  # fmt: skip
        if s.rotation:
            nn.init.trunc_normal_(self.encoder.trunk.reg_token, std=0.02)
        self.projector = projection(s.head, self.encoder.width, s.hidden, s.out)
        self.rotation_head = projection(s.head, self.encoder.width, s.hidden, 4) if s.rotation else None
        self.decoder = PixelDecoder(self.encoder.width, s.channels, encoders.step(self.encoder), s.decoder_layers)
        if s.weighing != "fixed":
            tasks = ["reconstruction", "contrast"] + ["rotation"] * s.rotation
            self.weights = nn.ParameterDict({task: nn.Parameter(torch.ones(())) for task in tasks})
        if s.contrast == "teacher":  # in train mode; the official one also averages a decoder that it never runs
            self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)
            self.teacher_projector = momentum_copy(self.projector)

    def views(self) -> list[Corrupted | Spoiled]:
        s = self.s
        crops = sit_pair(s.pair, self.encoder.inputs, s.min_area, s.blur_sigma)
        crops = [Turned(crop) if s.rotation else crop for crop in crops]
        if s.corruption == "spoiled":
            return [Spoiled(crop) for crop in crops]
        blocks = Blocks(s.align, s.max_block, s.unbiased)
        return [Corrupted(crop, blocks, s.fills, s.share, s.donor_share) for crop in crops]

    def after_init(self) -> None:
        if self.s.contrast == "teacher":
            ema_update(self.teacher, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return cosine(progress.step, progress.steps, self.s.momentum, 1.0)

    def contrast(self, z: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of projections z [2 B, out] of both views, and what each is pulled to."""
        (a, b), t = z.chunk(2), self.s.temperature
        if self.s.contrast == "batch":  # `nt_xent` sums two directions, the paper means over 2 B rows
            return nt_xent(a, b, t, across_ranks=False) / 2, torch.cat([b, a]).detach()
        with torch.no_grad():
            ka, kb = self.teacher_projector(self.teacher(clean)).chunk(2)
        return batch_info_nce(a, kb, t) + batch_info_nce(b, ka, t), torch.cat([kb, ka])

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        images, clean, mask = (torch.cat([view[name] for view in views]) for name in ("image", "clean", "mask"))
        tokens = self.encoder.trunk.forward_features(images)  # class token, perhaps the rotation's, patches
        prefix, z = self.encoder.trunk.num_prefix_tokens, self.projector(tokens[:, 0])
        contrast, positives = self.contrast(z, clean)
        restored = masked_l1(self.decoder(tokens[:, prefix:]), clean, mask if self.s.masked_only else None)
        tasks = {"reconstruction": restored, "contrast": contrast}
        unit = [F.normalize(x.detach().float(), dim=1) for x in (z, positives)]
        signals = {"features": tokens[: len(z) // 2, 0].detach(), "embeddings": unit[0], "positives": unit[1]}
        signals["momentum"] = torch.tensor(self.momentum(progress))
        if self.s.rotation:
            logits, turn = self.rotation_head(tokens[:, 1]).float(), torch.cat([view["turn"] for view in views])
            tasks["rotation"] = F.cross_entropy(logits, turn)
            signals["metric/rotation_accuracy"] = (logits.detach().argmax(1) == turn).float().mean()
        signals |= {f"metric/{name}": task.detach() for name, task in tasks.items()}
        return Step({name: self.weighed(name, task) for name, task in tasks.items()}, signals)

    def weighed(self, name: str, task: Tensor) -> Tensor:
        reconstruction = name == "reconstruction"
        if self.s.weighing == "fixed":
            return self.s.reconstruction_weight * task if reconstruction else task
        return uncertain(task, self.weights[name], self.s.weighing, share=0.5 if reconstruction else 1.0)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        if self.s.contrast == "teacher":
            ema_update(self.teacher, self.encoder, self.momentum(progress))
            ema_update(self.teacher_projector, self.projector, self.momentum(progress))

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, C, H, W] each, as prepared inputs: the first view, what is left of it, and what is made of that."""
        shown = {"input": views[0]["clean"], "masked": views[0]["image"]}
        return shown | {"reconstruction": self.decoder(self.encoder.tokens(shown["masked"]))}
