"""The decoder of masked autoencoders: from the tokens that were encoded to something said of every patch."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def decoder_problems(width: int, heads: int, name: str = "decoder") -> list[str]:
    """Why a decoder cannot have that width and so many heads, in the words of the settings; empty when it can."""
    if width % 4 == 0 and width % heads == 0:
        return []
    return [f"{name}_width = {width}: must be a multiple of 4, for its positions, and of {name}_heads = {heads}."]


class TokenDecoder(nn.Module):
    """Encoded tokens [B, P + V, width] of V patches -> a prediction for each of the N patches [B, N, out].

    Linear, a learned mask token for every patch that is not there, all patches in their order with the prefix tokens in
    front, fixed positions (zeros for the prefix), blocks of a ViT, LayerNorm, Linear; the prefix is attended to, and
    dropped at the end (He et al. 2021, MAE, section 3 and the official code). Linears start from Xavier's uniform
    distribution with biases of zero, the mask token from a normal one of .02.

    Args:
        width: of the encoded tokens.
        positions: [N, dim], fixed; `encoders.sincos_2d` makes them. They set the decoder's width and its patches.
        depth: blocks. heads: of their attention; they divide `dim`.
        out: numbers said of a patch.
        prefix: P, how many of the encoded tokens, the first, are of no patch.
    """

    def __init__(self, width: int, positions: Tensor, *, depth: int, heads: int, out: int, prefix: int = 1):
        super().__init__()
        dim = positions.shape[1]
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.prefix = prefix
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.register_buffer("positions", positions.unsqueeze(0), persistent=False)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, out)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """`ids` [B, V]: the numbers of the patches that the tokens after the prefix are of."""
        x = self.embed(tokens)
        prefix, seen = x[:, : self.prefix], x[:, self.prefix :]
        patches = self.mask_token.to(x.dtype).expand(len(x), self.positions.shape[1], -1)
        patches = patches.scatter(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]), seen) + self.positions
        x = self.blocks(torch.cat([prefix, patches], dim=1))
        return self.predict(self.norm(x[:, self.prefix :]))
