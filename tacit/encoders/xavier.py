"""The first weights of a ViT as MoCo v3, MAE and their followers draw them, in place of timm's truncated normals."""

from __future__ import annotations

import math

import torch
from torch import nn

from tacit.encoders.encoder import Encoder


@torch.no_grad()
def xavier_(encoder: Encoder, *, split_qkv: bool = False) -> Encoder:
    """Draw every Linear, and the patch projection as the Linear it is, from U(-b, b), b^2 = 6 / (in + out); biases 0.

    Args:
        split_qkv: queries, keys and values count as three Linears (MoCo v3), not as one (MAE).

    Returns:
        The encoder.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            out, width = module.weight.shape
            bound = math.sqrt(6 / ((out // 3 if split_qkv and name.endswith("qkv") else out) + width))
        elif name.endswith("patch_embed.proj"):
            bound = math.sqrt(6 / (module.weight[0].numel() + len(module.weight)))
        else:
            continue
        module.weight.uniform_(-bound, bound)
        if module.bias is not None:
            module.bias.zero_()
    encoder.start = (*encoder.start, "xavier_qkv" if split_qkv else "xavier")
    return encoder


@torch.no_grad()
def truncated_patches_(encoder: Encoder) -> Encoder:
    """Draw the patch projection and the class token from a normal of .02 cut off at +-.02 (BEiT, CAE); bias 0.

    Returns:
        The encoder.
    """
    projection = encoder.trunk.patch_embed.proj
    for tensor in (projection.weight, encoder.trunk.cls_token):
        nn.init.trunc_normal_(tensor, std=0.02, a=-0.02, b=0.02)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    encoder.start = (*encoder.start, "truncated_patches")
    return encoder
