"""The lightest decoder of pixels: one linear layer a token (Xie et al. 2022, SimMIM, section 3.4)."""

from __future__ import annotations

from torch import nn


def pixel_head(width: int, stride: int, channels: int = 3) -> nn.Sequential:
    """Maps of tokens [B, width, h, w] -> images [B, channels, h stride, w stride].

    A 1x1 convolution gives each token stride x stride pixels, which a pixel shuffle puts where they lie.
    """
    return nn.Sequential(nn.Conv2d(width, channels * stride**2, 1), nn.PixelShuffle(stride))
