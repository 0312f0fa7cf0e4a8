"""CAE: Context Autoencoder for Self-Supervised Representation Learning (Chen et al. 2022, arXiv 2202.03026).

A ViT encodes the visible patches alone; a regressor tells from them what it would make of the hidden ones, and from
that alone a decoder tells their codes: of k-means on patches, of a run of `dvae`, or, as published, of DALL-E's VAE
(`tokenizer=FILE`). CAE v2 (Zhang et al. 2022, arXiv 2211.09799) tells a frozen CLIP's features of all patches instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.monitors import about_mean
from tacit.heads import LatentDecoder, LatentRegressor, decoder_problems, hold_key_biases, latent_projection
from tacit.objectives import cosine_distance, repainted_picture
from tacit.settings import again, setting
from tacit.teachers import Frozen
from tacit.views import Crop, View, count_problems, exact_mask, rendered_twice


@dataclass(frozen=True)
class Settings(Recipe):
    encoder: str = again(Recipe, "encoder", "vit_base_patch16_224")
    epochs: int = again(Recipe, "epochs", 1600)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 40.0)
    batch_size: int = again(Recipe, "batch_size", 2048)
    lr: float = again(Recipe, "lr", 1.5e-3)
    lr_batch: int = again(Recipe, "lr_batch", 2048)  # the paper gives no rule for other batches
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)  # the code's own warm-up rate is never used
    lr_end: float = again(Recipe, "lr_end", 1e-5)
    clip: float | None = again(Recipe, "clip", 3.0)

    targets: str = setting("codes", "codes of hidden patches, or features of all (v2)", choices=encoders.TARGETS)
    tokenizer: str = setting("kmeans", "kmeans, a run of dvae, DALL-E's file; of features a CLIP's folder or timm name")
    token_size: int = setting(112, "side of the crop that the tokeniser sees, in pixels", low=4)
    vocabulary: int = setting(8192, "codes of k-means; other tokenisers have their own", low=2)
    mask: str = setting("block", "whether blocks of patches are hidden, or each by itself", choices=("block", "random"))
    mask_ratio: float = setting(0.5, "share of the patches that are hidden, rounded down", low=0, high=1)
    mask_block: int = setting(16, "patches of the smallest block that is hidden, while as many are left", low=1)
    align_weight: float = setting(2.0, "of the distance to the encoder's own latents of hidden patches", low=0)
    regressor_width: int = setting(768, "width of regressor and decoder; a multiple of 4 and of regressor_heads", low=4)
    regressor_depth: int = setting(4, "blocks of the regressor", low=1)
    regressor_heads: int = setting(12, "heads of the regressor's and the decoder's attention", low=1)
    decoder_depth: int = setting(4, "blocks of the decoder; features are told by a linear layer instead", low=0)
    layer_scale: float = setting(0.1, "what the encoder's residual branches begin with; 0 for no such factor", low=0)
    regressor_layer_scale: float = setting(0.1, "the same of regressor and decoder", low=0)
    drop_path: float = setting(0.1, "stochastic depth of the last block, of all three", low=0, high=0.99)
    min_area: float = setting(0.08, "smallest share of the image's area a view may hold", low=0.001, high=1)
    jitter: float = setting(0.0, "change of brightness, contrast and saturation", low=0)

    @property
    def trunk(self) -> dict[str, object]:
        return {"init_values": self.layer_scale or None}


V2 = Settings(
    epochs=300, warmup_epochs=10, targets="features", tokenizer="vit_base_patch16_clip_224.openai", token_size=224,
    min_area=0.4, jitter=0.4,
)  # fmt: skip


class CAE(Method):
    title = "CAE"
    paper = "Chen et al. 2022, Context Autoencoder for Self-Supervised Representation Learning, arXiv 2202.03026"
    modality = "image"
    family = "reconstruction"
    needs = frozenset({"cls", "drop_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        "short": Settings(epochs=300, warmup_epochs=10),
        "vit_tiny": Settings(encoder="vit_tiny_12h"),
        "vit_small": Settings(encoder="vit_small_12h"),
        # As the released script runs: a line that ends too soon keeps the regressor's width from being 1024.
        "large": Settings(encoder="vit_large_patch16_224", layer_scale=1e-5, regressor_layer_scale=1e-5),
        "v2": V2,
        "v2_small": replace(V2, encoder="vit_small_12h", mask_ratio=0.25, regressor_width=384, regressor_depth=1),
        "v2_tiny": replace(V2, encoder="vit_tiny_12h", mask_ratio=0.1531, regressor_width=96, regressor_depth=1),
        # For some thousand small images on one CPU or GPU, the mechanism whole. Regressor and decoder as wide as the
        # encoder and a third as deep, rounded up. Blocks from 4 patches on: a sixteenth of 64, a quarter of 16. Codes
        # of patches at full size, for at half of it a patch of 4 is left with 4 pixels; a sixteenth as many. Small
        # batches, a short warm-up, LayerScale from 1, for it has no time to grow, larger parts of the pictures.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=32, lr=1e-3, lr_batch=64,
            token_size=32, vocabulary=512, mask_block=4, regressor_width=128, regressor_depth=2, regressor_heads=4,
            decoder_depth=2, layer_scale=1.0, regressor_layer_scale=1.0, drop_path=0.05, min_area=0.2,
        ),
    }  # fmt: skip
    tiny = {"token_size": 16, "vocabulary": 16, "regressor_width": 64, "regressor_depth": 1, "decoder_depth": 1}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = decoder_problems(s.regressor_width, s.regressor_heads, "regressor")
        if not (grid := encoders.patch_grid(s.encoder, s.size, s.patch)):
            return found  # said by `recipe.problems`, or by what it cannot do
        found += count_problems(grid, s.mask_ratio, s.mask_block if s.mask == "block" else 1)
        return found + encoders.target_problems(s.targets, s.tokenizer, s.token_size, grid, s.channels)

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, drop_path=s.drop_path, interpolation="bicubic",
            **s.trunk,
        )  # fmt: skip
        # The code draws BEiT's start, and then overwrites all of it but the patch projection and the tokens.
        encoders.sincos_positions_(encoders.truncated_patches_(encoders.xavier_(self.encoder)), first="row")
        self.grid = self.encoder.trunk.patch_embed.grid_size[0]
        told = (s.token_size, self.grid, s.channels, s.vocabulary)
        self.tokenizer = Frozen(encoders.build_targets(s.targets, s.tokenizer, *told))
        codes, positions = s.targets == "codes", encoders.sincos_2d(s.regressor_width, self.grid, self.grid, "row")
        how = {"heads": s.regressor_heads, "layer_scale": s.regressor_layer_scale, "drop_path": s.drop_path}
        self.project = latent_projection(self.encoder.width, s.regressor_width)
        self.regressor = LatentRegressor(positions, depth=s.regressor_depth, norm=codes, **how)
        depth, out = s.decoder_depth if codes else 0, self.tokenizer.module.outputs
        self.decoder = LatentDecoder(positions, out, depth=depth, **how)

    def views(self) -> list[View]:
        """A crop with a mask, and the same crop rendered for the tokeniser."""
        s = self.s
        sampler = exact_mask(int(self.grid**2 * s.mask_ratio), s.mask_block if s.mask == "block" else None)
        colours = {"jitter": (s.jitter, s.jitter, s.jitter, 0.0), "jitter_p": float(s.jitter > 0)}
        crop = Crop(inputs=self.encoder.inputs, scale=(s.min_area, 1.0), **colours)
        return rendered_twice(crop, sampler, encoders.step(self.encoder), self.tokenizer.module.inputs)

    def look(self, batches: Iterator[list[dict[str, Tensor]]]) -> None:
        """k-means finds its centres."""
        self.tokenizer.module.look(views[1]["image"] for views in batches)

    def predict(self, view: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class token and visible patches encoded [B, 1 + V, W], as wide as the regressor [B, 1 + V, D], and what it
        tells from these of the hidden ones [B, M, D]."""
        seen, hidden = encoders.visible_ids(view["mask"]), encoders.visible_ids(~view["mask"])
        encoded = encoders.encode_visible(self.encoder, view["image"], seen)
        tokens = self.project(encoded)
        return encoded, tokens, self.regressor(tokens[:, 1:], seen, hidden)

    @torch.no_grad()
    def aligned(self, view: dict[str, Tensor]) -> Tensor:
        """The encoder's own latents of the hidden patches [B, M, D], by the same weights: never an average of them."""
        hidden = encoders.visible_ids(~view["mask"])
        return self.project(encoders.encode_visible(self.encoder, view["image"], hidden))[:, 1:]

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        view, rendering = views  # image [B, C, H, W] and mask [B, h, w]; image [B, C, T, T]
        seen, hidden = encoders.visible_ids(view["mask"]), encoders.visible_ids(~view["mask"])
        encoded, tokens, told = self.predict(view)
        targets = self.tokenizer(rendering["image"])
        signals = {"features": encoded[:, 0].detach(), **about_mean(encoded[:, 1:].float().mean(1), views=1)}
        if self.s.targets == "features":  # [B, 1 + N, D]
            wanted = encoders.pick(targets[:, 1:], torch.cat([seen, hidden], dim=1))
            said = self.decoder(torch.cat([tokens, told], dim=1))
            return Step({"features": cosine_distance(said, torch.cat([targets[:, :1], wanted], dim=1))}, signals)
        codes, logits = targets.flatten(1).gather(1, hidden), self.decoder(told, hidden).float()
        signals["metric/accuracy"] = (logits.argmax(-1) == codes).float().mean()
        terms = {
            "codes": F.cross_entropy(logits.flatten(0, 1), codes.flatten()),
            "alignment": self.s.align_weight * F.mse_loss(told.float(), self.aligned(view).float()),
        }
        return Step(terms, signals)

    def before_update(self, progress: Progress) -> None:
        hold_key_biases(self)

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """`repainted_picture` by the codes; nothing where targets cannot be turned back into pixels."""
        view, tokenizer = views[0], self.tokenizer.module
        if not tokenizer.decodes:
            return {}
        hidden, codes = encoders.visible_ids(~view["mask"]), tokenizer(views[1]["image"])
        said = self.decoder(self.predict(view)[2], hidden).argmax(-1)
        picture = tokenizer.decode(codes.flatten(1).scatter(1, hidden, said).view_as(codes))
        return repainted_picture(view["image"], view["mask"], self.encoder.inputs.prepare(picture))
