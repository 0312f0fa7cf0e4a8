"""The encoder of DALL-E's discrete VAE as a trunk (Ramesh et al. 2021, arXiv 2102.12092, appendix A)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from tacit.heads.dvae import convolution, groups

MEAN, STD = -0.125, 1.25  # 0.8 x + 0.1: logits of pixels stay finite


class DVAEEncoder(nn.Module):
    """[B, C, H, W] -> [B, D], the mean of the last map [B, D, H / stride, W / stride] after a ReLU.

    A 7x7 convolution and `log2(stride) + 1` groups of residual blocks, each but the first twice as wide as the one
    before, with 2x2 max-pooling between them. What turns the map into codes is no part of it.

    Args:
        hidden: width of the first group. blocks: of a group. stride: pixels of a code's side, a power of 2.
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 0, hidden: int = 256, blocks: int = 2, stride: int = 8):
        super().__init__()
        widths = [hidden * 2**i for i in range(stride.bit_length())]
        self.num_features = widths[-1]
        self.num_classes = num_classes
        self.made = {"in_chans": in_chans, "hidden": hidden, "blocks": blocks, "stride": stride}
        self.feature_info = [
            {"num_chs": width, "reduction": 2**i, "module": f"blocks.group_{i + 1}"} for i, width in enumerate(widths)
        ]
        self.blocks = nn.Sequential(
            OrderedDict(
                input=convolution(in_chans, hidden, 7),
                **groups(hidden, widths, blocks, (3, 3, 3, 1), ("pool", nn.MaxPool2d(2))),
                relu=nn.ReLU(),
            )
        )

    def forward_features(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "dall_e_dvae": {
            "url": "", "num_classes": 0, "input_size": (3, 256, 256), "pool_size": None, "crop_pct": 1.0,
            "interpolation": "bilinear", "mean": (MEAN,) * 3, "std": (STD,) * 3, "first_conv": "blocks.input",
            "classifier": "",
        }
    }
)  # fmt: skip


@register_model
def dall_e_dvae(pretrained: bool = False, **kwargs: Any) -> DVAEEncoder:
    """As published: 256 channels, two blocks a group, codes of 8 x 8 pixels."""
    return build_model_with_cfg(DVAEEncoder, "dall_e_dvae", pretrained, **kwargs)
