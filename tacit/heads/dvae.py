"""The convolutions of DALL-E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A, and released code).

Their names are the released ones, so that released weights find their place.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def convolution(width_in: int, width_out: int, kernel: int) -> nn.Conv2d:
    """Of odd kernel, as large outside as inside; weights from a normal of 1 / sqrt(inputs), biases 0."""
    made = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
    nn.init.normal_(made.weight, std=(width_in * kernel**2) ** -0.5)
    nn.init.zeros_(made.bias)
    return made


class ConvBlock(nn.Module):
    """`x + gain * branch(x)`: four times [ReLU, convolution], the first three a quarter as wide as the output.

    Args:
        gain: 1 / (blocks of the whole network)^2. kernels: of the four convolutions.
    """

    def __init__(self, width_in: int, width_out: int, gain: float, kernels: tuple[int, int, int, int]):
        super().__init__()
        widths = (width_in, *(max(width_out // 4, 1),) * 3, width_out)
        self.gain = gain
        self.id_path = convolution(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        parts = OrderedDict()
        for i, kernel in enumerate(kernels):
            parts[f"relu_{i + 1}"] = nn.ReLU()
            parts[f"conv_{i + 1}"] = convolution(widths[i], widths[i + 1], kernel)
        self.res_path = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


def groups(
    width_in: int, widths: list[int], blocks: int, kernels: tuple[int, int, int, int], between: tuple[str, nn.Module]
) -> OrderedDict[str, nn.Module]:
    """`group_1`, … of `blocks` blocks each; `between` (its name and itself) ends all but the last."""
    made, gain = OrderedDict(), 1 / (len(widths) * blocks) ** 2
    for number, width in enumerate(widths, 1):
        group = OrderedDict()
        for i in range(blocks):
            group[f"block_{i + 1}"] = ConvBlock(width_in, width, gain, kernels)
            width_in = width
        if number < len(widths):
            group[between[0]] = between[1]
        made[f"group_{number}"] = nn.Sequential(group)
    return made


class DVAEDecoder(nn.Module):
    """Codes as distributions [B, K, h, w], one-hot or relaxed -> [B, 2 C, h stride, w stride].

    The first C channels are the means of logits of pixels, the others the logarithms of their scales. Upsampling takes
    the nearest neighbour.

    Args:
        hidden: width of the last group; every group before is twice as wide. blocks: of a group.
        stride: pixels of a code's side, a power of 2.
    """

    def __init__(self, vocabulary: int, channels: int, *, hidden: int = 256, blocks: int = 2, stride: int = 8):
        super().__init__()
        widths = [hidden * 2**i for i in reversed(range(stride.bit_length()))]
        start = max(hidden // 2, 8)
        up = ("upsample", nn.Upsample(scale_factor=2, mode="nearest"))
        self.blocks = nn.Sequential(
            OrderedDict(
                input=convolution(vocabulary, start, 1),
                **groups(start, widths, blocks, (1, 3, 3, 3), up),
                output=nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=convolution(hidden, 2 * channels, 1))),
            )
        )

    def forward(self, codes: Tensor) -> Tensor:
        return self.blocks(codes)

    def pixels(self, codes: Tensor) -> Tensor:
        """The most likely picture [B, C, H, W] in (0, 1), as the VAE's inputs, of the same distributions."""
        return torch.sigmoid(self(codes).chunk(2, dim=1)[0].float())
