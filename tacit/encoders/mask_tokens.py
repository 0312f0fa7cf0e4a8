"""Encoders that see a learned token where patches are hidden (Devlin et al. 2019, BERT; for images BEiT, SimMIM).

The token belongs to the method, not to the encoder, whose weights are those of one that never saw a mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

if TYPE_CHECKING:
    from tacit.encoders.encoder import Encoder

MASKABLE = VisionTransformer | SwinTransformer | SwinTransformerV2 | Beit


class MaskTokens(nn.Module):
    """One learned vector [D] of the patch embeddings' width, at first a truncated normal of 0.02.

    `mask_tokens(encoder, x, mask)` is `encoder.features_and_tokens(x)` with it in the place of every hidden patch.

    It stands in after the patch embedding and its norm, before positions: what is hidden still knows where it lies. In
    a trunk of several stages D is the first stage's width. No attention is masked.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(encoder.trunk.patch_embed.proj.out_channels))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, encoder: Encoder, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] and [B, H / patch, W / patch] bool, True where hidden -> [B, width], [B, N, D]."""
        return encoder(x, with_tokens=True, hidden=(mask, self.token))


def hide(embedded: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """`token` [D] in place of what `mask` [B, h, w] hides of [B, h w, D] or [B, h, w, D]."""
    return torch.where(mask.reshape(*embedded.shape[:-1], 1), token.to(embedded.dtype), embedded)


def masked_features(trunk: MASKABLE, x: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """timm's `trunk.forward_features(x)`, with `token` in the place of hidden patch embeddings."""
    y = hide(trunk.patch_embed(x), mask, token)
    if isinstance(trunk, SwinTransformer | SwinTransformerV2):
        return trunk.norm(trunk.layers(y))
    if isinstance(trunk, VisionTransformer):
        return trunk.norm(trunk.blocks(trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(y)))))
    y = torch.cat([trunk.cls_token.expand(len(y), -1, -1), y], dim=1)
    y = trunk.pos_drop(y if trunk.pos_embed is None else y + trunk.pos_embed)
    bias = trunk.rel_pos_bias() if trunk.rel_pos_bias is not None else None
    for block in trunk.blocks:
        y = block(y, shared_rel_pos_bias=bias)
    return trunk.norm(y)
