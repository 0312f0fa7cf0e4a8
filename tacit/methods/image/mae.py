"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

A ViT encodes the quarter of the patches it is shown, and nothing stands in for the others. A small decoder is given
what was encoded and a mask token for each patch that was not, and tells their pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.monitors import about_mean
from tacit.heads import TokenDecoder, decoder_problems
from tacit.objectives import masked_mean, normalise_patches, patchify, repainted
from tacit.settings import again, setting
from tacit.views import Crop, Masked, random_mask, ratio_problems


@dataclass(frozen=True)
class Settings(Recipe):
    # Appendix A.1 and the official recipe, with the Large model that both recommend.
    encoder: str = again(Recipe, "encoder", "vit_large_patch16_224")
    epochs: int = again(Recipe, "epochs", 800)
    batch_size: int = again(Recipe, "batch_size", 4096)
    lr: float = again(Recipe, "lr", 1.5e-4)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 40.0)
    betas: tuple[float, float] = again(Recipe, "betas", (0.9, 0.95))

    mask_ratio: float = setting(0.75, "share of the patches that are hidden", low=0, high=1)
    norm_pix: bool = setting(True, "targets are pixels less their patch's mean, over its standard deviation")
    decoder_width: int = setting(512, "width of the decoder; a multiple of 4 and of decoder_heads", low=4)
    decoder_depth: int = setting(8, "blocks of the decoder", low=1)
    decoder_heads: int = setting(16, "heads of the decoder's attention", low=1)
    min_area: float = setting(0.2, "smallest share of the image's area a view may hold", low=0.001, high=1)


class MAE(Method):
    title = "MAE"
    paper = "He et al. 2021, Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377"
    modality = "image"
    family = "reconstruction"
    needs = frozenset({"drop_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        "base": Settings(encoder="vit_base_patch16_224"),
        "huge": Settings(encoder="vit_huge_patch14_224"),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Far fewer steps than the paper's:
        # batches of a 64th for more of them, a short warm-up, and about half of the paper's peak rate, which AdamW
        # bears at this width. The decoder is to the encoder what it is in the paper: half as wide, a third as deep,
        # rounded up, with heads of 32. The same share is hidden: of 64 patches 16 are seen, of 16 (patch=8) 4.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=5e-3, decoder_width=64,
            decoder_depth=2, decoder_heads=2,
        ),
    }  # fmt: skip
    tiny = {"decoder_width": 32, "decoder_depth": 1}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        side = encoders.patch_grid(s.encoder, s.size, s.patch)
        found = ratio_problems(s.mask_ratio, side**2) if side else []
        return found + decoder_problems(s.decoder_width, s.decoder_heads)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, interpolation="bicubic"
        )
        encoders.sincos_positions_(encoders.xavier_(self.encoder), first="column")
        trunk = self.encoder.trunk
        self.patch = encoders.step(self.encoder)
        self.decoder = TokenDecoder(
            self.encoder.width, encoders.sincos_2d(s.decoder_width, *trunk.patch_embed.grid_size),
            depth=s.decoder_depth, heads=s.decoder_heads, out=self.patch**2 * s.channels,
            prefix=trunk.num_prefix_tokens,
        )  # fmt: skip

    def views(self) -> list[Masked]:
        """A crop and a flip, no change of colours, and a mask."""
        crop = Crop(inputs=self.encoder.inputs, scale=(self.s.min_area, 1.0))
        return [Masked(crop, partial(random_mask, ratio=self.s.mask_ratio), cell=self.patch)]

    def predict(self, view: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Pixels of all patches [B, N, patch patch C] and the encoded tokens [B, P + V, D] they were told from."""
        ids = encoders.visible_ids(view["mask"])
        tokens = encoders.encode_visible(self.encoder, view["image"], ids)
        return self.decoder(tokens, ids).float(), tokens

    def targets(self, images: Tensor) -> Tensor:
        patches = patchify(images, self.patch).float()
        return normalise_patches(patches) if self.s.norm_pix else patches

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        (view,) = views  # image [B, C, H, W], mask [B, h, w]
        hidden = view["mask"].flatten(1)
        predicted, tokens = self.predict(view)
        targets = self.targets(view["image"])
        loss = masked_mean((predicted - targets).square().mean(-1), hidden)
        of_nothing = masked_mean(targets.square().mean(-1), hidden)  # the loss of a prediction of zeros
        seen = tokens[:, self.decoder.prefix :].detach().float().mean(1)
        signals = {
            "features": tokens[:, 0].detach() if self.decoder.prefix else seen,
            **about_mean(seen, views=1),
            "metric/explained": 1 - loss.detach() / of_nothing.clamp_min(1e-12),
        }
        return Step({"pixels": loss}, signals)

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """`repainted`: each [B, C, H, W], as the encoder's inputs."""
        (view,) = views
        return repainted(view["image"], view["mask"], self.predict(view)[0], self.patch, self.s.norm_pix)
