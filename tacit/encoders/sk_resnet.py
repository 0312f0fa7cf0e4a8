"""The ResNets of SimCLR v2 (Chen et al. 2020, arXiv 2006.10029): wider ones, with selective kernels or without.

They are timm's parts put together as the official code has them, under names that timm then knows too: `resnet50_sk`,
`resnet152_3x_sk`, `resnet50_2x` and the like. With selective kernels (Li et al. 2019, arXiv 1903.06586) go the stem
and the shortcuts of ResNet-D (He et al. 2019, arXiv 1812.01187).
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import create_pool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import nn

LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
RATIO, LEAST = 1 / 16, 32  # of the channels that choose between the two kernels


class SKBottleneck(SelectiveKernelBottleneck):
    """timm's block with two full 3x3 convolutions to choose from: the paper's one of twice the outputs, in halves."""

    def __init__(self, inplanes: int, planes: int, *args: Any, **kwargs: Any):
        kernels = {"kernel_size": [3, 3], "split_input": False, "rd_channels": max(int(planes * RATIO), LEAST)}
        super().__init__(inplanes, planes, *args, sk_kwargs=kernels, **kwargs)


def sk_resnet(name: str, *, width: float = 1, sk: bool = True, pretrained: bool = False, **kwargs: Any) -> ResNet:
    """A ResNet of bottlenecks `width` times as wide: [B, C, H, W] -> [B, 2048 width], any side of 32 or more.

    The convolutions start as normals of variance 1 / fan-in, the last norm of every branch at zero. Pooling pads as
    TensorFlow's does, so that published weights meet the pixels they were trained on.

    Args:
        kwargs: what timm's ResNet takes, `layers` (blocks a stage) among them.
    """
    plain = {
        "block": SKBottleneck if sk else Bottleneck, "channels": tuple(int(64 * width) * 2**i for i in range(4)),
        "stem_type": "deep", "stem_width": int(32 * width), "avg_down": sk,
    }  # fmt: skip
    trunk = build_model_with_cfg(ResNet, name, pretrained, **{**plain, **kwargs})
    if sk:  # ResNet-D's shortcut averages in the first stage too, which has no stride
        trunk.layer1[0].downsample[0] = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1))
    else:
        trunk.conv1 = nn.Conv2d(trunk.in_chans, trunk.bn1.num_features, 7, stride=2, padding=3, bias=False)
    trunk.maxpool = create_pool2d("max", 3, stride=2, padding="same")
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return trunk


def _name(depth: int, width: int, sk: bool) -> str:
    return f"resnet{depth}" + (f"_{width}x" if width > 1 else "") + ("_sk" if sk else "")


NAMES = {
    _name(depth, width, sk): (depth, width, sk)
    for depth in LAYERS for width in (1, 2, 3) for sk in (True, False) if sk or width > 1
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
            "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv1.0" if sk else "conv1", "classifier": "fc",
        }
        for name, (_, _, sk) in NAMES.items()
    }
)  # fmt: skip


def _register(name: str, depth: int, width: int, sk: bool) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> ResNet:
        made = {"layers": LAYERS[depth], "width": width, "sk": sk, **kwargs}
        return sk_resnet(name, pretrained=pretrained, **made)

    entry.__name__ = name
    register_model(entry)


for _one, _made in NAMES.items():
    _register(_one, *_made)
