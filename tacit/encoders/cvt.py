"""EsViT's variant of CvT (Li et al. 2021, arXiv 2106.09785; after Wu et al. 2021, arXiv 2103.15808), as timm models.

Four stages of a convolution that shrinks the map and of blocks whose queries, keys and values come from a depthwise
convolution; attention stays within windows, which neither shift nor know where their tokens lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import DropPath, Mlp, QuickGELU, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, register_model
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn

from tacit.encoders.staged import Staged, published_inputs
from tacit.precision import attend

EPS = 1e-5  # of the LayerNorms


class ConvEmbed(nn.Module):
    """[B, H, W, C] -> [B, H', W', D]: a convolution that overlaps itself, and a LayerNorm."""

    def __init__(self, channels: int, dim: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvWindowAttention(nn.Module):
    """Attention within windows of [B, H, W, D]; similarities are divided by the root of the whole width D.

    A map that the windows do not fill is padded with zeros on the right and below, before the convolution; padding is
    attended. A map smaller than a window is one window.
    """

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window, self.scale = heads, window, dim**-0.5
        self.dw = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.qkv = nn.Linear(dim, 3 * dim)  # a 1x1 convolution
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window = min(self.window, height, width)
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        full = x.shape[1:3]
        x = self.qkv(self.bn(self.dw(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
        x = window_partition(x, (window, window)).flatten(1, 2)  # [B windows, N, 3 D]
        q, k, v = x.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = attend(q, k, v, self.scale).transpose(1, 2).flatten(2)
        x = window_reverse(x.unflatten(1, (window, window)), (window, window), *full)
        return self.proj(x[:, :height, :width])


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = ConvWindowAttention(dim, heads, window)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=QuickGELU)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    def __init__(self, embed: ConvEmbed, blocks: Sequence[Block]):
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x))


class CvT(Staged):
    """[B, C, H, W] of any size -> [B, dims[-1]], the mean of the last map after a LayerNorm.

    Args, one of each a stage:
        dims, depths, num_heads: widths, blocks, heads.
        kernels, strides, paddings: of the convolutions between stages.
        window_size: side of the windows, of all stages.
    """

    def __init__(
        self, in_chans: int = 3, num_classes: int = 0, dims: Sequence[int] = (64, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2), num_heads: Sequence[int] = (1, 3, 6, 12),
        kernels: Sequence[int] = (7, 3, 3, 3), strides: Sequence[int] = (4, 2, 2, 2),
        paddings: Sequence[int] = (2, 1, 1, 1), window_size: int = 7, mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
    ):  # fmt: skip
        rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        stages, channels = [], in_chans
        for i, dim in enumerate(dims):
            embed = ConvEmbed(channels, dim, kernels[i], strides[i], paddings[i])
            stages.append(Stage(embed, [Block(dim, num_heads[i], window_size, mlp_ratio, r) for r in rates[i]]))
            channels = dim
        super().__init__(stages, dims, strides, EPS, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)


default_cfgs = published_inputs("cvt_13_esvit", "layers.0.embed.proj")


@register_model
def cvt_13_esvit(pretrained: bool = False, **kwargs) -> CvT:
    """EsViT's configuration s1, which takes the place of a CvT-13: 2-2-6-2 blocks, 29.3 million parameters."""
    return build_model_with_cfg(CvT, "cvt_13_esvit", pretrained, **kwargs)
