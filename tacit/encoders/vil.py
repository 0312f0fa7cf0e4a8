"""ViL (Vision Longformer: Zhang et al. 2021, arXiv 2103.15358) as EsViT trains it (arXiv 2106.09785), as timm models.

Four stages of patches and blocks. The first two cut their map into chunks: a token attends to its own chunk, to those
around it, and to one global token, which attends to all; the last two attend everywhere. Each stage learns a global
token of its own but for the last, whose mean is the feature. Where tokens lie is known from biases of relative
positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from tacit.encoders.chunks import Attention, ChunkAttention
from tacit.encoders.staged import Staged, published_inputs

EPS = 1e-6  # of the LayerNorms


class Block(nn.Module):
    def __init__(self, attention: Attention, dim: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = attention
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), grid))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """[B, H, W, C] -> [B, H / stride, W / stride, D]; rows and columns that fill no patch are left unread."""

    def __init__(self, channels: int, dim: int, stride: int, blocks: Sequence[Block], with_global: bool):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, stride, stride)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, dim), std=0.02)) if with_global else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        grid, x = (x.shape[1], x.shape[2]), x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, grid)
        return (x if self.cls_token is None else x[:, 1:]).unflatten(1, grid)


class ViL(Staged):
    """[B, C, H, W] of any size -> [B, dims[-1]], the mean of the last map after a LayerNorm.

    Args, one of each a stage where there are several:
        img_size: side of the images at whose maps the biases of the stages without chunks are learned.
        dims, depths, num_heads: widths, blocks, heads.
        strides: sides of the patches between stages.
        chunked: whether attention stays within chunks. window_size: side of all chunks.
        neighbours: which chunks around theirs tokens meet; see `ChunkAttention`.
    """

    def __init__(
        self, img_size: int = 224, in_chans: int = 3, num_classes: int = 0, dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2), num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2), chunked: Sequence[bool] = (True, True, False, False),
        window_size: int = 7, neighbours: str = "all", mlp_ratio: float = 4.0, drop_path_rate: float = 0.1,
    ):  # fmt: skip
        rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        stages, channels, side = [], in_chans, img_size
        for i, dim in enumerate(dims):
            side, last, blocks = side // strides[i], i == len(dims) - 1, []
            for rate in rates[i]:
                if chunked[i]:
                    attention = ChunkAttention(dim, num_heads[i], window_size, neighbours)
                else:
                    attention = Attention(dim, num_heads[i], side, with_global=not last)
                blocks.append(Block(attention, dim, mlp_ratio, rate))
            stages.append(Stage(channels, dim, strides[i], blocks, with_global=not last))
            channels = dim
        super().__init__(stages, dims, strides, EPS, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)


default_cfgs = published_inputs("vil_2262_esvit", "layers.0.proj")


@register_model
def vil_2262_esvit(pretrained: bool = False, **kwargs) -> ViL:
    """EsViT's "2262": 2-2-6-2 blocks of 96 to 768 numbers, 27.6 million parameters."""
    return build_model_with_cfg(ViL, "vil_2262_esvit", pretrained, **kwargs)
