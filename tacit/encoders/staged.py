"""What our own trunks of several stages share: the way through them, as timm's models offer it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.models import generate_default_cfgs
from torch import Tensor, nn


class Staged(nn.Module):
    """[B, C, H, W] -> [B, D], the mean of the last map after a LayerNorm, or `num_classes` logits of it.

    Args:
        layers: from [B, H, W, C] to [B, h, w, D] each, of the given widths `dims` and `strides`.
        eps: of the last LayerNorm.
    """

    def __init__(
        self, layers: Sequence[nn.Module], dims: Sequence[int], strides: Sequence[int], eps: float, num_classes: int
    ):
        super().__init__()
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, dims[-1], dims[-1]
        self.output_fmt = "NHWC"
        self.feature_info = [
            {"num_chs": dim, "reduction": math.prod(strides[: i + 1]), "module": f"layers.{i}"}
            for i, dim in enumerate(dims)
        ]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dims[-1], eps=eps)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()

    def forward_intermediates(
        self, x: Tensor, intermediates_only: bool = False, output_fmt: str = "NCHW"
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """One map a stage, and, unless `intermediates_only`, the features."""
        found, x = [], x.permute(0, 2, 3, 1)
        for stage in self.layers:
            x = stage(x)
            found.append(x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x)
        return found if intermediates_only else (self.norm(x), found)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, h, w, D]"""
        return self.forward_intermediates(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((1, 2))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def published_inputs(name: str, first_conv: str):
    """timm's default configurations of one model for ImageNet at 224 pixels, of which no weights are published."""
    return generate_default_cfgs(
        {
            name: {
                "url": "", "input_size": (3, 224, 224), "num_classes": 1000, "crop_pct": 0.875,
                "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
                "first_conv": first_conv, "classifier": "head",
            }
        }
    )  # fmt: skip
