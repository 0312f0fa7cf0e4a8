"""SimMIM: A Simple Framework for Masked Image Modeling (Xie et al. 2022, arXiv 2111.09886).

Large units of an image are hidden behind a learned token inside the encoder, whatever its kind; one linear layer turns
its last features into pixels, and the hidden ones are compared by their absolute differences. So also was Swin V2 (Liu
et al. 2022, arXiv 2111.09883) pre-trained, on pixels normalised by the window around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tacit import encoders
from tacit.encoders import MaskTokens
from tacit.engine import Method, Progress, Recipe, Step
from tacit.heads import pixel_head
from tacit.objectives import masked_l1, normalise_windows, to_pixels, window_statistics
from tacit.settings import again, setting
from tacit.views import Crop, Masked, random_mask


@dataclass(frozen=True)
class Settings(Recipe):
    encoder: str = again(Recipe, "encoder", "swin_base_patch4_window7_224")
    size: int = again(Recipe, "size", 192)
    window: int | None = again(Recipe, "window", 6)
    epochs: int = again(Recipe, "epochs", 800)
    batch_size: int = again(Recipe, "batch_size", 2048)
    lr: float = again(Recipe, "lr", 1e-4)
    lr_end: float = again(Recipe, "lr_end", 0.0)
    lr_cosine: str = again(Recipe, "lr_cosine", "steps")
    lr_drops: tuple[float, ...] = again(Recipe, "lr_drops", (0.875,))  # epoch 700
    lr_lag: int = again(Recipe, "lr_lag", 1)
    warmup_epochs: float = again(Recipe, "warmup_epochs", 10.0)
    clip: float | None = again(Recipe, "clip", 5.0)
    # The official code names these tables as spared, by a prefix that none of them has: there they decay after all.
    decay_positions: bool = again(Recipe, "decay_positions", False)

    mask_ratio: float = setting(0.6, "share of the mask units that are hidden, rounded up", low=0.0, high=1.0)
    mask_unit: int = setting(32, "side of what is hidden at once, in pixels, whatever the patch", low=1)
    target_window: int | None = setting(
        None, "side of the window whose mean and spread normalise a pixel, odd; nothing for raw pixels", low=3
    )
    drop_path: float = setting(0.0, "stochastic depth of the last block", low=0, high=0.99)
    mean_feature: bool = setting(
        True, "a plain ViT's feature is the mean of its tokens, not the class token, which nothing here trains"
    )
    min_area: float = setting(0.67, "smallest share of the image's area a view may hold", low=0.001, high=1)

    @property
    def trunk(self) -> dict[str, object]:
        return encoders.mean_pooled(self.encoder) if self.mean_feature else {}


# A thousandth of the weights, and batches of a 64th for more steps: ten times the rate, by a cosine, a short warm-up.
# A unit is a quarter of the side, two patches of 4 or one of 8, for at a sixth as published the 36 units would be of 5
# pixels, which their neighbours give away; 10 of 16 are hidden.
_SMALL = {
    "size": 32, "window": None, "epochs": 20, "warmup_epochs": 1, "batch_size": 32, "lr": 8e-3, "mask_unit": 8,
    "lr_cosine": "after_warmup", "lr_lag": 0,
}  # fmt: skip


class SimMIM(Method):
    title = "SimMIM"
    paper = "Xie et al. 2022, SimMIM: A Simple Framework for Masked Image Modeling, arXiv 2111.09886"
    modality = "image"
    family = "reconstruction"
    needs = frozenset(["mask_tokens"])
    Settings = Settings
    presets = {
        "paper": Settings(),
        "short": Settings(epochs=100, lr=2e-4, lr_cosine="from_zero", lr_drops=(), lr_warmup=1e-6, lr_end=1e-5),
        "swinv2": Settings(encoder="swinv2_base", window=12, drop_path=0.1, target_window=47),
        "vit": Settings(encoder="simmim_vit_base", size=224, window=None, drop_path=0.1),
        # For some thousand small images on one CPU or GPU, the mechanism whole; the rule is above.
        "small": Settings(encoder="vit_mini", **_SMALL),
        "small_swinv2": Settings(encoder="swinv2_mini", drop_path=0.05, target_window=7, **_SMALL),
    }
    tiny = {"size": 16, "mask_unit": 4}

    @classmethod
    def problems(cls, s: Settings) -> list[str]:
        found = []
        patch = encoders.patch_of(s.encoder, s.patch)
        if s.size % s.mask_unit or (patch and s.mask_unit % patch):
            units = [u for u in range(patch or 1, s.size + 1, patch or 1) if s.size % u == 0]
            found.append(
                f"mask_unit = {s.mask_unit}: must divide size = {s.size} evenly"
                + (f" and be a multiple of the patch of {s.encoder}, {patch}. " if patch else ". ")
                + f"Set mask_unit={' or '.join(map(str, units)) or 'another'}, or another size."
            )
        elif not 0 < (seen := int((units := (s.size // s.mask_unit) ** 2) * (1 - s.mask_ratio))) < units:
            found.append(
                f"mask_ratio = {s.mask_ratio}: leaves {seen} of {units} units of {s.mask_unit} pixels to be seen; both "
                "hidden and seen ones are needed. Set another mask_ratio, or a smaller mask_unit."
            )
        if s.target_window is not None and s.target_window % 2 == 0:
            found.append(
                f"target_window = {s.target_window}: a window around a pixel has an odd side. "
                f"Set target_window={s.target_window - 1} or {s.target_window + 1}."
            )
        return found

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        self.encoder = encoders.build(
            s.encoder, size=s.size, channels=s.channels, patch=s.patch, window=s.window, drop_path=s.drop_path,
            **s.trunk,
        )  # fmt: skip
        self.mask_tokens = MaskTokens(self.encoder)
        trunk = self.encoder.trunk
        self.patch, self.stride = trunk.patch_embed.patch_size[0], trunk.feature_info[-1]["reduction"]
        self.head = pixel_head(self.encoder.width, self.stride, s.channels)

    def views(self) -> list[Masked]:
        s = self.s
        crop = Crop(inputs=self.encoder.inputs, scale=(s.min_area, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
        sampler = partial(random_mask, ratio=s.mask_ratio, unit=s.mask_unit // self.patch)
        return [Masked(crop, sampler, cell=self.patch)]

    def predict(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] of what is seen of [B, C, H, W], and the pixels [B, C, H, W] it is completed by."""
        features, tokens = self.mask_tokens(self.encoder, x, mask)
        rows, cols = (n // self.stride for n in x.shape[2:])
        return features, self.head(tokens.transpose(1, 2).unflatten(2, (rows, cols)))

    def target(self, x: Tensor) -> Tensor:
        return x if self.s.target_window is None else normalise_windows(x, self.s.target_window)

    def loss(self, views: list[dict[str, Tensor]], progress: Progress) -> Step:
        (view,) = views
        features, pixels = self.predict(view["image"], view["mask"])
        signals = {
            "features": features.detach(),
            # What is predicted of every unit on the mean: the same for all records where the image is not heeded.
            "embeddings": F.normalize(F.avg_pool2d(pixels.detach().float(), self.s.mask_unit).flatten(1), dim=1),
        }
        return Step({"pixels": masked_l1(pixels, self.target(view["image"]), to_pixels(view["mask"], pixels))}, signals)

    @torch.no_grad()
    def reconstructions(self, views: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What the views hold, what of it is seen (0 elsewhere), and its completion: [n, C, H, W], as inputs are."""
        (view,) = views
        x, hidden = view["image"], to_pixels(view["mask"], view["image"])
        _, pixels = self.predict(x, view["mask"])
        if self.s.target_window is not None:
            mean, spread = window_statistics(x, self.s.target_window)
            pixels = pixels * spread + mean
        return {"input": x, "masked": x * ~hidden, "reconstruction": torch.where(hidden, pixels.to(x.dtype), x)}
