"""Feature pyramids over an encoder that runs at any size: FPN over stages, a simple pyramid over a plain ViT."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from tacit.encoders import Encoder, any_size, set_drop_path
from tacit.errors import UsageError


def maps_of(encoder: Encoder) -> tuple[list[int], list[int], int]:
    """Channels and strides of the stages a pyramid is built on, and the multiple that image sides are padded to.

    That multiple is the last stride; a Swin pads inside to whole windows, as the official detection code does. Of other
    hierarchical trunks the last four stages of stride 4 and more are taken.

    Raises:
        UsageError: a trunk without stages of growing stride, or of one fixed size.
    """
    trunk = encoder.trunk
    if isinstance(trunk, VisionTransformer):
        patch = trunk.patch_embed.patch_size[0]
        return [trunk.embed_dim], [patch], patch
    info = getattr(trunk, "feature_info", None) or []
    stages = [(f["num_chs"], f["reduction"]) for f in info if isinstance(f, dict)]
    swin = isinstance(trunk, SwinTransformer | SwinTransformerV2)
    fixed = getattr(trunk, "pretrained_cfg", {}).get("fixed_input_size") and not swin
    grows = all(a[1] < b[1] for a, b in itertools.pairwise(stages))
    if "stages" not in encoder.can or not stages or fixed or not grows:
        raise UsageError(
            f"{encoder.name} cannot carry a detector: it runs at one size only or has no stages of growing stride. "
            "Take a Swin, a plain ViT or a convolutional network with stages."
        )
    if not swin:
        stages = [s for s in stages if s[1] >= 4][-4:]
    channels, strides = ([s[i] for s in stages] for i in (0, 1))
    return channels, strides, strides[-1]


class Pyramid(nn.Module):
    """Maps {"0": [B, channels, H / strides[0], W / strides[0]], …, "pool"} of images [B, C, H, W].

    Over stages: an FPN (Lin et al. 2017), each stage through a fresh LayerNorm first, as in the Swin recipe; there are
    as many levels as the encoder has stages. Over a plain ViT: the simple pyramid on its last block's map (Li et al.
    2022, ViTDet, section 3). "pool" is the last level, every other pixel. The encoder is copied; `frozen` keeps it in
    eval mode and without gradient.

    Attributes: `strides` of all levels, `multiple` that H and W must be a multiple of, `out_channels`, `names` of the
    levels that regions are pooled from.
    """

    def __init__(self, encoder: Encoder, *, channels: int = 256, frozen: bool = False, drop_path: float = 0.0):
        super().__init__()
        widths, strides, self.multiple = maps_of(encoder)
        self.encoder = set_drop_path(any_size(encoder, mask_padding=False), drop_path)
        self.encoder.requires_grad_(not frozen)
        self.plain, self.frozen, self.out_channels = isinstance(encoder.trunk, VisionTransformer), frozen, channels
        self.wanted = 1 if self.plain else len(widths)
        if self.plain:
            up = next(u for u in (4, 2, 1) if strides[0] % u == 0 and strides[0] // u >= min(4, strides[0]))
            strides = [strides[0] // up * 2**i for i in range(4)]
            self.multiple = strides[-1]
            self.levels = nn.ModuleList(_simple(widths[0], channels, up / 2**i) for i in range(4))
        else:
            self.norms = nn.ModuleList(LayerNorm2d(w) for w in widths)
            self.fpn = FeaturePyramidNetwork(widths, channels)
        self.names = [str(i) for i in range(len(strides))]
        self.strides = [*strides, 2 * strides[-1]]

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            stages = self.encoder.trunk.forward_intermediates(
                x, indices=self.wanted, intermediates_only=True, output_fmt="NCHW"
            )
        if self.plain:
            maps = [level(stages[-1]) for level in self.levels]
        else:
            normed = [norm(stage) for norm, stage in zip(self.norms, stages, strict=True)]
            maps = list(self.fpn(OrderedDict(zip(self.names, normed, strict=True))).values())
        maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return OrderedDict(zip([*self.names, "pool"], maps, strict=True))


def _simple(width: int, channels: int, scale: float) -> nn.Sequential:
    """A ViT's map at `scale` (4, 2, 1, 1/2, …) of its resolution, in `channels`."""
    if scale == 4:
        parts = [
            nn.ConvTranspose2d(width, width // 2, 2, 2), LayerNorm2d(width // 2), nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, 2),
        ]  # fmt: skip
        width //= 4
    elif scale == 2:
        parts = [nn.ConvTranspose2d(width, width // 2, 2, 2)]
        width //= 2
    else:
        parts = [nn.MaxPool2d(round(1 / scale))] if scale < 1 else []
    return nn.Sequential(
        *parts, nn.Conv2d(width, channels, 1, bias=False), LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels),
    )  # fmt: skip
