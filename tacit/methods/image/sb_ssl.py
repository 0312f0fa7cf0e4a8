"""SB-SSL: slice-based self-supervised transformers for knee MRI (Atito et al. 2022, arXiv 2208.13923).

A ViT learns from the slices of the very exams at hand by GMML: groups of connected pixels are overwritten by noise,
nothing or the slice of another exam, and given back. Data are exams: `--data exams:FOLDER:plane=sagittal`; each has the
same share of an epoch, however many slices it holds. What tells exams apart is a second transformer over the embeddings
of their slices, trained on the exams' labels: `tacit exams`.

The paper names no code. What follows GMML is of its authors' code; views, donors of another exam and the contrastive
variant, a momentum teacher as in SiT whose negatives are other exams, are this library's reading of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import encoders
from tacit.engine import DINORecipe, Method, Progress, Step, restoring_signals
from tacit.engine.schedules import cosine
from tacit.heads import PROJECTIONS, PixelDecoder, projection
from tacit.objectives import batch_info_nce, masked_l1
from tacit.settings import again, setting
from tacit.teachers import ema_update, momentum_copy
from tacit.views import Blocks, Corrupted, Crop, Tilted, corruption_problems


@dataclass(frozen=True)
class Settings(DINORecipe):
    encoder: str = again(DINORecipe, "encoder", "deit_small")
    epochs: int = again(DINORecipe, "epochs", 800)
    batch_size: int = again(DINORecipe, "batch_size", 64)

    mean: float = setting(0.3, "of slices between their series' limits; the log tells that of the data")
    std: float = setting(0.25, "deviation of these, which slices are divided by", low=1e-3)
    fills: tuple[str, ...] = setting(
        ("noise", "zeros"), "what overwrites, one kind a view: noise, zeros, copy; beside donors"
    )
    share: float = setting(
        0.75, "most of a view's area that blocks overwrite; they stop between .5 and it", low=0.01, high=0.95
    )
    donor_share: float = setting(
        0.3, "the same where a slice of another exam overwrites, as likely as each of `fills`; 0 for never", low=0,
        high=0.95,
    )  # fmt: skip
    align: int = setting(1, "blocks lie at multiples of so many pixels", low=1)
    max_block: float = setting(0.3, "sides of blocks are less than this share of the view's", low=0.01, high=0.95)
    unbiased: bool = setting(False, "blocks cover every pixel equally often; as published, the top left hardly ever")
    masked_only: bool = setting(True, "only what was overwritten is judged, not all pixels")
    depths: tuple[int, ...] = setting((6, 8, 10, 12), "blocks whose mean is decoded, from 1; none for the last alone")
    decoder_layers: int = setting(3, "linear layers of the decoder before its convolution", low=0)
    drop_path: float = setting(0.1, "stochastic depth of the last block, not the teacher's", low=0, high=0.99)
    min_area: float = setting(0.25, "smallest share of the slice's area a view may hold", low=0.001, high=1)
    flip: float = setting(0.5, "chance of a mirrored view; of sagittal slices, whose front is not their back, none is",
                          low=0, high=1)  # fmt: skip
    degrees: float = setting(10.0, "most that a view is turned by", low=0, high=180)
    contrast: bool = setting(False, "views are also compared with a momentum teacher's, other exams pushed away")
    adjacent: bool = setting(False, "what is pulled together is a slice and the next, not two views of one")
    reconstruction_weight: float = setting(1.0, "of reconstruction beside contrast", low=0)
    temperature: float = setting(0.2, "divides the similarities", low=1e-3)
    momentum: float = setting(0.996, "of the teacher at the first step; rises to 1 by a cosine", low=0, high=1)
    head: str = setting("bn", "of contrast: with BatchNorm, without, one Linear", choices=PROJECTIONS)
    hidden: int = setting(4096, "hidden width of the head", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)

    @property
    def trunk(self) -> dict[str, object]:
        return encoders.mean_pooled(self.encoder)


class SBSSL(Method):
    title = "SB-SSL"
    paper = "Atito et al. 2022, SB-SSL: Slice-Based Self-Supervised Transformers for Knee MRI, arXiv 2208.13923"
    modality = "image"
    family = "masked"
    Settings = Settings
    presets = {
        "paper": Settings(),
        "contrastive": Settings(contrast=True),
        # For some thousand small slices on one CPU or GPU, as GMML's: a thousandth of the steps at a higher rate, a
        # short warm-up, blocks of the same shares; heads of an eighth and a half, a teacher that follows within a
        # hundred steps.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, lr=4e-3, drop_path=0.0, depths=(2, 3, 4),
            momentum=0.99, hidden=512, out=128,
        ),
    }  # fmt: skip
    tiny = {"hidden": 32, "out": 16}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = corruption_problems(Blocks(s.align, s.max_block, s.unbiased), s.fills, s.share, s.donor_share, s.size)
        if s.adjacent and not s.contrast:
            found.append("adjacent = true: nothing compares the two slices without contrast. Set contrast=true.")
        if encoders.problems(s.encoder, s.size, s.patch, s.window, s.channels, **s.trunk):
            return found  # said by `recipe.problems`
        return found + encoders.depth_problems(s.encoder, s.depths, s.size, s.patch)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
            mean=(s.mean,) * s.channels, std=(s.std,) * s.channels, **s.trunk,
        )  # fmt: skip
        self.decoder = PixelDecoder(self.encoder.width, s.channels, encoders.step(self.encoder), s.decoder_layers)
        if s.contrast:
            self.projector = projection(s.head, self.encoder.width, s.hidden, s.out)
            self.teacher = encoders.set_drop_path(momentum_copy(self.encoder), 0.0)
            self.teacher_projector = momentum_copy(self.projector)

    def views(self) -> list[Corrupted]:
        """Two crops alike, turned a little, brighter or darker and of more or less contrast; no colour to change."""
        s, blocks = self.s, Blocks(self.s.align, self.s.max_block, self.s.unbiased)
        how = {"scale": (s.min_area, 1.0), "flip": s.flip, "jitter": (0.2, 0.2, 0.0, 0.0), "jitter_p": 1.0}
        fields = ("image", "next" if s.adjacent else "image")
        crops = [Crop(self.encoder.inputs, f"view {i + 1}", field, **how) for i, field in enumerate(fields)]
        return [
            Corrupted(Tilted(crop, s.degrees), blocks, s.fills, s.share, s.donor_share, grey=True, apart=True)
            for crop in crops
        ]

    def after_init(self) -> None:
        if self.s.contrast:
            ema_update(self.teacher, self.encoder, 0.0)

    def momentum(self, progress: Progress) -> float:
        return cosine(progress.step, progress.steps, self.s.momentum, 1.0)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        s, (images, clean, mask) = self.s, (torch.cat([v[n] for v in views]) for n in ("image", "clean", "mask"))
        mask = mask if s.masked_only else None
        pooled, tokens = encoders.multi_depth(self.encoder, images, s.depths)
        restored = masked_l1(self.decoder(tokens), clean, mask)
        signals = restoring_signals(*pooled.chunk(2), restored, masked_l1(torch.zeros_like(clean), clean, mask))
        if not s.contrast:
            return Step({"reconstruction": restored}, signals)
        z, groups = self.projector(pooled), views[0]["group"]
        with torch.no_grad():
            keys = self.teacher_projector(self.teacher(clean))
        (a, b), (ka, kb) = z.chunk(2), keys.chunk(2)
        contrast = batch_info_nce(a, kb, s.temperature, groups) + batch_info_nce(b, ka, s.temperature, groups)
        unit = [F.normalize(x.detach().float(), dim=1) for x in (z, torch.cat([kb, ka]))]
        signals |= {"embeddings": unit[0], "positives": unit[1], "momentum": torch.tensor(self.momentum(progress))}
        return Step({"reconstruction": s.reconstruction_weight * restored, "contrast": contrast}, signals)

    def after_step(self, signals: list[dict[str, Tensor]], progress: Progress) -> None:
        if self.s.contrast:
            ema_update(self.teacher, self.encoder, self.momentum(progress))
            ema_update(self.teacher_projector, self.projector, self.momentum(progress))

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, C, H, W] each, as prepared inputs: the first view, what is left of it, and what is made of that."""
        shown = {"input": views[0]["clean"], "masked": views[0]["image"]}
        tokens = encoders.multi_depth(self.encoder, shown["masked"], self.s.depths)[1]
        return shown | {"reconstruction": self.decoder(tokens)}
