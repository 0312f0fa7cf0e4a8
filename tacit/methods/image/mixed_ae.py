"""MixedAE: Mixed Autoencoder for Self-supervised Visual Representation Learning (Chen et al. 2023, arXiv 2303.17152).

MAE in which nothing is left out: the places of what is hidden of one image are filled with patches of others, and the
decoder tells every image from its own. Mixing alone makes that easier and the encoder worse. So each patch has to find
those of its image: it attends to the most similar alone, and is drawn towards its own.

No official code could be found. What the paper's text leaves open is ours: slots drawn at random, class token open to
all, a projector of two layers for the contrast, the mixture's class token given to all of its decoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tacit import encoders
from tacit.engine import Method, Progress, Recipe, Step
from tacit.engine.monitors import about_mean
from tacit.heads import TokenDecoder, decoder_problems, mlp
from tacit.objectives import homologous_contrast, homologous_share, masked_mean, normalise_patches, patchify, repainted
from tacit.settings import again, setting
from tacit.views import Crop, Mixable, mixture


@dataclass(frozen=True)
class Settings(Recipe):
    # MAE's recipe; a batch counts the images that are mixed, not the mixtures.
    encoder: str = again(Recipe, "encoder", "vit_base_patch16_224")
    epochs: int = again(Recipe, "epochs", 800)
    batch_size: int = again(Recipe, "batch_size", 4096)
    lr: float = again(Recipe, "lr", 1.5e-4)
    lr_batch: int = again(Recipe, "lr_batch", 256)
    lr_warmup: float = again(Recipe, "lr_warmup", 0.0)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 40.0)
    betas: tuple[float, float] = again(Recipe, "betas", (0.9, 0.95))

    sources: int = setting(4, "images mixed into one, 1 / r of the paper; each is hidden but for 1 / sources", low=2)
    mode: str = setting(
        "compose", "one mixture of each group, or all that show every patch once", choices=("compose", "full")
    )
    segments: bool = setting(True, "a learned vector tells the encoder which patches are of one image")
    homologous_attention: bool = setting(True, "a patch attends to as many as are of its image, the most similar")
    contrast_weight: float = setting(0.1, "of the contrast between a mixture's images; 0 for none", low=0)
    temperature: float = setting(0.25, "divides the similarities of that contrast", low=1e-3)
    projection: int = setting(256, "width of what is contrasted", low=1)
    norm_pix: bool = setting(True, "targets are pixels less their patch's mean, over its standard deviation")
    decoder_width: int = setting(512, "width of the decoder; a multiple of 4 and of decoder_heads", low=4)
    decoder_depth: int = setting(8, "blocks of the decoder", low=1)
    decoder_heads: int = setting(16, "heads of the decoder's attention", low=1)
    min_area: float = setting(0.2, "smallest share of the image's area a view may hold", low=0.001, high=1)


class MixedAE(Method):
    title = "MixedAE"
    paper = "Chen et al. 2023, Mixed Autoencoder for Self-supervised Visual Representation Learning, arXiv 2303.17152"
    modality = "image"
    family = "reconstruction"
    needs = frozenset({"drop_tokens"})
    Settings = Settings
    presets = {
        "paper": Settings(),
        # What the paper sets out from: patches of several images, and nothing that tells them apart. Worse than MAE.
        "naive": Settings(segments=False, homologous_attention=False, contrast_weight=0.0),
        # As MAE's, by the same rule: smaller batches for more steps, a short warm-up, half of the peak rate, and a
        # decoder half as wide and a third as deep as the encoder; contrasts in a third of its width, as in the paper.
        "small": Settings(
            encoder="vit_mini", size=32, epochs=20, warmup_epochs=1, batch_size=64, lr=5e-3, projection=48,
            decoder_width=64, decoder_depth=2, decoder_heads=2,
        ),
    }  # fmt: skip
    tiny = {"decoder_width": 32, "decoder_depth": 1, "projection": 16}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        side, n = encoders.patch_grid(s.encoder, s.size, s.patch), s.sources
        found = decoder_problems(s.decoder_width, s.decoder_heads)
        if side**2 % n:
            found.append(f"sources = {n}: must divide the {side**2} patches of an image, so that each has as many.")
        elif side and side**2 == n and s.contrast_weight:
            found.append(f"sources = {n}: leaves each image one patch, with none to recognise. Set fewer.")
        if s.batch_size // s.accumulate % n:
            found.append(f"batch_size = {s.batch_size}: a micro-batch of it must split into groups of sources = {n}.")
        return found

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, interpolation="bicubic"
        )
        encoders.sincos_positions_(encoders.xavier_(self.encoder), first="column")
        trunk, width = self.encoder.trunk, self.encoder.width
        self.patch, self.prefix = encoders.step(self.encoder), trunk.num_prefix_tokens
        self.segments = nn.Parameter(torch.empty(s.sources, width).normal_(std=0.02)) if s.segments else None
        self.projector = None
        if s.contrast_weight:
            self.projector = mlp(width, width, s.projection, 2, norm=False, activation=nn.GELU)
        self.decoder = TokenDecoder(
            width, encoders.sincos_2d(s.decoder_width, *trunk.patch_embed.grid_size), depth=s.decoder_depth,
            heads=s.decoder_heads, out=self.patch**2 * s.channels, prefix=self.prefix,
        )  # fmt: skip

    def views(self) -> list[Mixable]:
        """MAE's crop and flip, and what mixes them."""
        return [Mixable(Crop(inputs=self.encoder.inputs, scale=(self.s.min_area, 1.0)), cell=self.patch)]

    def encode(self, images: Tensor, slots: Tensor, owners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mixtures [G, P + N, D] of groups of images, and the keys [G, heads, N, K] that the last block chose."""
        prefix, patches = encoders.embed(self.encoder, images)  # with their positions
        patches = patches.unflatten(0, (-1, self.s.sources))  # [G, n, N, D]
        mixed = patches.gather(1, owners[:, None, :, None].expand(-1, 1, -1, patches.shape[-1])).squeeze(1)
        if self.segments is not None:
            mixed = mixed + self.segments[slots]
        tokens = torch.cat([prefix[:: self.s.sources], mixed], dim=1)
        if not self.s.homologous_attention:
            return encoders.encode_tokens(self.encoder, tokens), None
        chosen = None

        def attend(attention: nn.Module, x: Tensor) -> Tensor:
            nonlocal chosen
            found, chosen = encoders.topk_attention(attention, x, slots.shape[1] // self.s.sources, self.prefix)
            return found

        return encoders.encode_tokens(self.encoder, tokens, attend), chosen

    def unmix(self, tokens: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each image's own tokens [B, P + V, D] behind its mixture's prefix, their places [B, V], its mask [B, N]."""
        n = self.s.sources
        mask = (owners.unsqueeze(1) != torch.arange(n, device=owners.device).view(1, n, 1)).flatten(0, 1)
        ids = encoders.visible_ids(mask)
        each = tokens.repeat_interleave(n, dim=0)
        return torch.cat([each[:, : self.prefix], encoders.pick(each[:, self.prefix :], ids)], dim=1), ids, mask

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        view = self.grouped(views[0])  # image [B, C, H, W], permutation [B, h, w], place [B]
        patches = patchify(view["image"], self.patch)
        targets = normalise_patches(patches) if self.s.norm_pix else patches.float()
        pixels, contrasts = [], []
        for shift in range(self.s.sources if self.s.mode == "full" else 1):
            slots, owners = mixture(view["permutation"], view["place"], self.s.sources, shift)
            tokens, chosen = self.encode(view["image"], slots, owners)
            own, ids, mask = self.unmix(tokens, owners)
            pixels.append(masked_mean((self.decoder(own, ids).float() - targets).square().mean(-1), mask))
            if self.projector is not None:
                z = self.projector(tokens[:, self.prefix :])
                contrasts.append(homologous_contrast(z, owners, self.s.temperature))
        terms = {"pixels": torch.stack(pixels).mean()}
        if contrasts:
            terms["homologous"] = self.s.contrast_weight * torch.stack(contrasts).mean()
        seen = own[:, self.prefix :].detach().float().mean(1)  # an image's tokens; the class token is the mixture's
        signals = {"features": seen, **about_mean(seen, views=1)}
        if chosen is not None:
            signals["metric/recognition"] = homologous_share(chosen, owners)
        return Step(terms, signals)

    def grouped(self, view: dict[str, Tensor]) -> dict[str, Tensor]:
        """The view; of fewer images than a group has, which only trials are of, some again."""
        count = len(view["place"])
        if count >= self.s.sources:
            return view
        again = torch.arange(self.s.sources, device=view["place"].device) % count
        return {name: x[again] for name, x in view.items()}

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """`repainted`: each [B, C, H, W], as the encoder's inputs."""
        view = self.grouped(views[0])
        slots, owners = mixture(view["permutation"], view["place"], self.s.sources)
        own, ids, mask = self.unmix(self.encode(view["image"], slots, owners)[0], owners)
        predicted, mask = self.decoder(own, ids), mask.view_as(view["permutation"])
        found = repainted(view["image"], mask, predicted, self.patch, self.s.norm_pix)
        return {name: x[: len(views[0]["image"])] for name, x in found.items()}
