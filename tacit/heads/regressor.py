"""What stands between a context autoencoder's encoder and its targets (Chen et al. 2022, CAE, section 3.1)."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import DropPath, LayerScale, Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tacit.precision import attend

EPS = 1e-6


class CrossAttention(nn.Module):
    """Attention of [B, Q, D] to keys and values [B, K, D] each: [B, Q, D]. Keys have no bias (official code)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.v, self.proj = (nn.Linear(width, width) for _ in range(3))
        self.k = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        parts = (self.q(queries), self.k(keys), self.v(values))
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class RegressorBlock(nn.Module):
    """One update of the queries [B, M, D] from a source [B, K, D] of keys and values, positions beside both.

    Queries, keys and values have a LayerNorm each; positions are added to the first two alone. The second residual
    branch starts from, and is added to, the normalised stream: a LayerNorm lies on it.
    """

    def __init__(self, width: int, heads: int, layer_scale: float, drop_path: float):
        super().__init__()
        self.norm_q, self.norm_k, self.norm_v, self.norm = (nn.LayerNorm(width, eps=EPS) for _ in range(4))
        self.attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, 4 * width)
        self.ls1, self.ls2 = (LayerScale(width, layer_scale) if layer_scale else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, queries: Tensor, source: Tensor, at: Tensor, source_at: Tensor) -> Tensor:
        told = self.attn(self.norm_q(queries + at), self.norm_k(source + source_at), self.norm_v(source))
        h = self.norm(queries + self.drop_path(self.ls1(told)))
        return h + self.drop_path(self.ls2(self.mlp(h)))


class LatentRegressor(nn.Module):
    """Tokens of visible patches [B, V, D] -> what the encoder would make of the hidden ones [B, M, D].

    The hidden patches' latents begin as one learned token, and are the queries of every block; its keys and values are
    the visible tokens, which never change, and the running latents. No class token takes part.

    Args:
        positions: [N, D] of all patches, fixed.
        norm: whether a LayerNorm ends it; CAE v2 leaves it out.
        drop_path: stochastic depth of the last block, rising from 0 at the first.
    """

    def __init__(
        self, positions: Tensor, *, depth: int, heads: int, layer_scale: float = 0.1, drop_path: float = 0.0,
        norm: bool = True,
    ):  # fmt: skip
        super().__init__()
        width = positions.shape[1]
        self.register_buffer("positions", positions, persistent=False)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02, a=-0.02, b=0.02))
        self.blocks = nn.ModuleList(RegressorBlock(width, heads, layer_scale, p) for p in _rates(drop_path, depth))
        self.norm = nn.LayerNorm(width, eps=EPS) if norm else nn.Identity()
        _xavier(self)

    def forward(self, visible: Tensor, visible_ids: Tensor, hidden_ids: Tensor) -> Tensor:
        """Numbers of the patches, counted row by row: `visible_ids` [B, V], `hidden_ids` [B, M]."""
        at = self.positions[hidden_ids]
        source_at = torch.cat([self.positions[visible_ids], at], dim=1)
        latents = self.mask_token.to(visible.dtype).expand(*hidden_ids.shape, -1)
        for block in self.blocks:
            latents = block(latents, torch.cat([visible, latents], dim=1), at, source_at)
        return self.norm(latents)


class LatentDecoder(nn.Module):
    """Latents of hidden patches [B, M, D] -> what is said of each [B, M, out], from these alone.

    Blocks of a ViT over them and their positions, LayerNorm, Linear. What is visible is never seen. In CAE v2 there are
    no blocks, and norm and Linear are for tokens of all kinds, without positions (`ids` left out).
    """

    def __init__(
        self, positions: Tensor, out: int, *, depth: int, heads: int, layer_scale: float = 0.1, drop_path: float = 0.0
    ):
        super().__init__()
        width = positions.shape[1]
        self.register_buffer("positions", positions, persistent=False)
        norm, scale = partial(nn.LayerNorm, eps=EPS), layer_scale or None
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, qkv_bias=True, init_values=scale, drop_path=p, norm_layer=norm)
                for p in _rates(drop_path, depth)
            )
        )
        self.norm = norm(width)
        self.predict = nn.Linear(width, out)
        _xavier(self)

    def forward(self, latents: Tensor, ids: Tensor | None = None) -> Tensor:
        """`ids` [B, M]: the numbers of the patches."""
        return self.predict(self.norm(self.blocks(latents if ids is None else latents + self.positions[ids])))


def latent_projection(width: int, to: int) -> nn.Module:
    """Linear and LayerNorm from the encoder's width to the regressor's; nothing where they are the same."""
    return nn.Identity() if width == to else _xavier(nn.Sequential(nn.Linear(width, to), nn.LayerNorm(to, eps=EPS)))


def _rates(last: float, depth: int) -> list[float]:
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def _xavier(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def hold_key_biases(module: nn.Module) -> None:
    """Take the gradient from the key's part of every `qkv.bias`, so that it stays zero.

    A bias of the keys changes no attention: it adds one number to all of a query's products. BEiT and CAE have none;
    of a plain ViT's it is held, for what is saved to stay a plain ViT.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("qkv.bias") and parameter.grad is not None:
            parameter.grad.view(3, -1)[1].zero_()
