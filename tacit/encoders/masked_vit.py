"""A ViT that sees a mask token in place of some patches (Zhou et al. 2021, iBOT; Oquab et al. 2023, DINOv2)."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tacit.encoders.encoder import Encoder
from tacit.errors import UsageError


def with_mask_tokens(encoder: Encoder, images: Tensor, mask: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """`encoder.features_and_tokens(images)` with `token` for the embeddings of hidden patches, before their positions.

    Args:
        images: [B, C, H, W], of any size that the encoder takes. mask: [B, H / patch, W / patch] bool, True = hidden.
        token: [D], of the width of the embeddings.

    Returns:
        [B, width] and the tokens of all patches, [B, N, D]; without hidden patches exactly what the encoder gives.

    Raises:
        UsageError: the encoder is no ViT.
    """
    trunk = encoder.trunk
    if not isinstance(trunk, VisionTransformer):
        raise UsageError(f"{encoder.name} is no ViT: its patches cannot be replaced by a mask token here.")
    x = trunk.patch_embed(images)  # [B, N, D], or [B, rows, cols, D] of an encoder for any size
    x = torch.where(mask.view(*x.shape[:-1], 1), token.to(x.dtype), x)
    x = trunk.norm(trunk.blocks(trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(x)))))
    return trunk.forward_head(x), x[:, trunk.num_prefix_tokens :]
