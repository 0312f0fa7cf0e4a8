"""GMML: GMML is All you Need (Atito et al. 2022, arXiv 2205.14986), group masked model learning.

A denoising autoencoder: groups of connected pixels are overwritten by noise or by another picture, a ViT sees all of
it, and a light decoder gives back what was there, judged by L1 where it was overwritten. No teacher, no negatives, no
mask token. The class token has no loss of its own; the feature handed over is the mean of the patch tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import DINORecipe, Method, Progress, Step, restoring_signals
from tacit.heads import PixelDecoder
from tacit.objectives import masked_l1
from tacit.settings import again, setting
from tacit.views import Blocks, Corrupted, Crop, corruption_problems


@dataclass(frozen=True)
class Settings(DINORecipe):
    encoder: str = again(DINORecipe, "encoder", "deit_small")
    epochs: int = again(DINORecipe, "epochs", 800)  # the official loop counts to one more
    batch_size: int = again(DINORecipe, "batch_size", 256)

    fills: tuple[str, ...] = setting(("noise",), "what overwrites, one kind a view: noise, zeros, copy")
    share: float = setting(
        0.75, "most of a view's area that blocks overwrite; they stop between .5 and it", low=0.01, high=0.95
    )
    donor_share: float = setting(
        0.3, "the same where another picture overwrites, as likely as each of `fills`; 0 for never", low=0, high=0.95
    )
    align: int = setting(1, "blocks lie at multiples of so many pixels; the patch size for whole patches", low=1)
    max_block: float = setting(0.3, "sides of blocks are less than this share of the view's", low=0.01, high=0.95)
    unbiased: bool = setting(False, "blocks cover every pixel equally often; as published, the top left hardly ever")
    masked_only: bool = setting(True, "only what was overwritten is judged, not all pixels")
    depths: tuple[int, ...] = setting((6, 8, 10, 12), "blocks whose mean is decoded, from 1; none for the last alone")
    decoder_layers: int = setting(3, "linear layers of the decoder before its convolution", low=0)
    drop_path: float = setting(0.1, "stochastic depth of the last block", low=0, high=0.99)
    global_area: tuple[float, float] = setting(
        (0.05, 1.0), "shares of the image's area a large crop holds; officially .25,1 beside small crops", low=0.001
    )
    local_crops: int = setting(0, "small crops beside the two large ones", low=0)
    local_size: int = setting(96, "side of the small crops, in pixels", low=4)
    local_area: tuple[float, float] = setting((0.05, 0.4), "shares of the image's area a small crop holds", low=0.001)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of the Gaussian blur's radius, in pixels", low=0)

    @property
    def trunk(self) -> dict[str, object]:
        return encoders.mean_pooled(self.encoder)


class GMML(Method):
    title = "GMML"
    paper = "Atito et al. 2022, GMML is All you Need, arXiv 2205.14986"
    modality = "image"
    family = "masked"
    Settings = Settings
    presets = {
        "paper": Settings(),
        # The reconstruction of SiT (2022) by itself, and that of ASiT, for spectrograms.
        "sit3": Settings(fills=("zeros",), share=0.5, depths=()),
        "asit": Settings(fills=("zeros",), share=0.7, depths=(), channels=1),
        # Whole patches are overwritten, as other masked systems do.
        "aligned": Settings(align=16),
        # For some thousand small images on one CPU or GPU. Far fewer steps than the paper's: batches of an eighth for
        # more of them, a short warm-up, no stochastic depth. Blocks at the same shares of the depth. A patch is an
        # eighth of the side, not a fourteenth: blocks are of whole ones, and up to three quarters of the side. Half the
        # blur, and larger crops, which hold something to give back. No blocks of other pictures, with which less was
        # learnt in so few steps; `donor_share=0.3` brings them back.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=32, lr=2e-3, drop_path=0.0, align=4,
            max_block=0.75, donor_share=0.0, depths=(2, 3, 4), global_area=(0.4, 1.0), blur_sigma=(0.1, 1.0),
            local_size=16,
        ),
    }  # fmt: skip

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        sizes = {s.size, s.local_size if s.local_crops else s.size}
        blocks = Blocks(s.align, s.max_block, s.unbiased)
        found = corruption_problems(blocks, s.fills, s.share, s.donor_share, *sizes)
        if s.local_crops:
            found += encoders.crop_problems(s.encoder, s.local_size, s.patch)
        if encoders.problems(s.encoder, s.size, s.patch, s.window, s.channels, **s.trunk):
            return found  # said by `recipe.problems`
        return found + encoders.depth_problems(s.encoder, s.depths, s.size, s.patch)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
            interpolation="bicubic", **s.trunk,
        )  # fmt: skip
        if s.local_crops:
            self.encoder = encoders.any_size(self.encoder)
        self.decoder = PixelDecoder(self.encoder.width, s.channels, encoders.step(self.encoder), s.decoder_layers)

    def views(self) -> list[Corrupted]:
        """Two large crops and perhaps small ones, their colours a little changed, which are the targets; corrupted."""
        s, inputs = self.s, self.encoder.inputs
        sized = [(f"global {i + 1}", inputs, s.global_area) for i in range(2)]
        small = replace(inputs, size=s.local_size)
        sized += [(f"local {i + 1}", small, s.local_area) for i in range(s.local_crops)]
        light = {"jitter": (0.1, 0.1, 0.1, 0.01), "jitter_p": 0.3, "blur_p": 0.1, "blur_sigma": s.blur_sigma}
        blocks = Blocks(s.align, s.max_block, s.unbiased)
        return [
            Corrupted(Crop(inputs=size, name=name, scale=area, **light), blocks, s.fills, s.share, s.donor_share)
            for name, size, area in sized
        ]

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [B, D] and reconstructions [B, C, H, W] of corrupted images."""
        pooled, tokens = encoders.multi_depth(self.encoder, images, self.s.depths)
        return pooled, self.decoder(tokens)

    def l1(self, images: list[Tensor], views: list[dict[str, Tensor]]) -> Tensor:
        clean, mask = (torch.cat([view[name] for view in views]) for name in ("clean", "mask"))
        return masked_l1(torch.cat(images), clean, mask if self.s.masked_only else None)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        features, images = zip(*encoders.by_size(self.decode, [view["image"] for view in views]), strict=True)
        terms = {"global": self.l1(images[:2], views[:2])}
        if len(views) > 2:
            terms["local"] = self.l1(images[2:], views[2:])
        nothing = self.l1([torch.zeros_like(x) for x in images[:2]], views[:2])
        return Step(terms, restoring_signals(*features[:2], terms["global"], nothing))

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """[B, C, H, W] each, as prepared inputs: the first large crop, what is left of it, and what is made of that."""
        view = views[0]
        return {"input": view["clean"], "masked": view["image"], "reconstruction": self.decode(view["image"])[1]}
