"""A ViT's class token alone: the last block need not make patch tokens that nobody reads."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tacit.encoders.skip_rows import PLAIN_BLOCKS
from tacit.precision import attend

FOLLOWED = ("forward", "forward_features", "forward_head", "pool")  # a kind of ViT that has its own goes its own way


def reads_class_token(trunk: nn.Module) -> bool:
    """Whether `trunk(x)` is its class token, and its last block one that `class_token` takes apart."""
    if not isinstance(trunk, VisionTransformer) or trunk.global_pool != "token" or trunk.grad_checkpointing:
        return False
    if any(getattr(type(trunk), name) is not getattr(VisionTransformer, name) for name in FOLLOWED):
        return False
    last = trunk.blocks[-1]
    if type(last) not in PLAIN_BLOCKS or type(last.attn) is not Attention:
        return False
    if getattr(last.attn, "gate", None) is not None:
        return False
    return not any(map(_needs_all, last.modules()))


def _needs_all(part: nn.Module) -> bool:
    """Whether statistics or draws are of all tokens, or somebody watches."""
    watched = part._forward_hooks or part._forward_pre_hooks
    return bool(watched) or isinstance(part, _BatchNorm) or (isinstance(part, nn.Dropout) and part.p > 0)


def class_token(trunk: VisionTransformer, x: Tensor) -> Tensor:
    """`trunk(x)` [B, D] to rounding: in the last block only the class token asks, is projected and has an MLP.

    That is a fifteenth of the multiplications of 12 blocks, a fifth of 4.
    """
    x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(x))))
    for block in trunk.blocks[:-1]:
        x = block(x)
    last = trunk.blocks[-1]
    first = x[:, :1] + last.drop_path1(last.ls1(_first_attends(last.attn, last.norm1(x))))
    first = first + last.drop_path2(last.ls2(last.mlp(last.norm2(first))))
    return trunk.forward_head(trunk.norm(first))


def _first_attends(attn: Attention, x: Tensor) -> Tensor:
    """`attn(x)[:, :1]`: [B, N, D] -> [B, 1, D]."""
    weight, bias, width = attn.qkv.weight, attn.qkv.bias, attn.num_heads * attn.head_dim
    of_q, of_kv = (None, None) if bias is None else (bias[:width], bias[width:])
    q = F.linear(x[:, :1], weight[:width], of_q).unflatten(2, (1, attn.num_heads, attn.head_dim))
    kv = F.linear(x, weight[width:], of_kv).unflatten(2, (2, attn.num_heads, attn.head_dim))
    (q,), (k, v) = (part.permute(2, 0, 3, 1, 4).unbind(0) for part in (q, kv))  # [B, heads, tokens, D / heads]
    found = attend(attn.q_norm(q), attn.k_norm(k), v)
    found = found.transpose(1, 2).flatten(2)
    return attn.proj(attn.norm(found) if hasattr(attn, "norm") else found)
