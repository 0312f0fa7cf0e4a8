"""What transformers' files call the tensors of timm's Swin and ViT. timm packs queries, keys and values into one."""

from __future__ import annotations

import re

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

_BLOCK = [
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
]
_VIT = [
    *_BLOCK,
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.qkv\.", ".attention.attention.QKV."),
]
_SWIN = [
    *_BLOCK,
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    # timm merges patches at the start of a stage, transformers (and the official code) at the end of the one before.
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"encoder.layers.{int(m[1]) - 1}.downsample."),
    (r"^layers\.", "encoder.layers."),
    (r"\.attn\.qkv\.", ".attention.self.QKV."),
    (r"\.attn\.relative_position_bias_table$", ".attention.self.relative_position_bias_table"),
]


def transformers_name(name: str, trunk: nn.Module) -> str:
    """`QKV` stands in it for query, key and value, whose tensors timm concatenates."""
    for pattern, theirs in _SWIN if isinstance(trunk, SwinTransformer) else _VIT:
        name = re.sub(pattern, theirs, name)
    return name


def to_transformers(trunk: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, value in trunk.state_dict().items():
        theirs = transformers_name(name, trunk)
        if "QKV" in theirs:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            state |= {theirs.replace("QKV", part): rows for part, rows in parts}
        else:
            state[theirs] = value
    return state


def from_transformers(state: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """What of `state` has a place in `trunk`, under timm's names."""
    found = {}
    for name in trunk.state_dict():
        theirs = transformers_name(name, trunk)
        parts = [theirs.replace("QKV", part) for part in ("query", "key", "value")] if "QKV" in theirs else [theirs]
        if all(part in state for part in parts):
            found[name] = torch.cat([state[part] for part in parts]) if len(parts) > 1 else state[theirs]
    return found
