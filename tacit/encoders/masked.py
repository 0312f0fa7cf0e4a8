"""A ViT on some of the patches (He et al. 2021, MAE, section 3): what is hidden is left out before the first block.

Functions over an `Encoder`, whose weights stay those of a plain one: what is saved, evaluated and exported knows
nothing of masks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tacit.encoders.build import resolve
from tacit.encoders.encoder import Encoder
from tacit.encoders.geometry import default_patch, family
from tacit.encoders.skip_rows import PLAIN_BLOCKS, add_branch
from tacit.errors import UsageError


def patch_grid(name: str, size: int, patch: int | None = None) -> int:
    """How many patches of a ViT of that name lie along a side; 0 if it is no ViT, or its patches do not fill `size`."""
    arch, made = resolve(name, size, patch, None, 3, {})
    side = made.get("patch_size") or default_patch(arch)
    return size // side if family(arch) == "vit" and size % side == 0 else 0


def visible_ids(mask: Tensor) -> Tensor:
    """Numbers of the patches that are not hidden, row by row: bool [B, h, w] or [B, N] -> [B, V].

    Raises:
        UsageError: the rows hide different numbers of patches, which cannot be stacked.
    """
    visible = ~mask.flatten(1)
    each = visible.sum(1)
    if (each != each[0]).any():
        raise UsageError("The masks of a batch hide different numbers of patches; a sampler must hide one number.")
    return visible.nonzero()[:, 1].view(len(mask), -1)


def pick(tokens: Tensor, ids: Tensor) -> Tensor:
    """Of [B, N, D] the tokens whose numbers are `ids` [B, V], in that order: [B, V, D]."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def embed(encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the first block, positions added: class and other prefix tokens [B, P, D], patches [B, N, D]."""
    trunk = encoder.trunk
    tokens = trunk._pos_embed(trunk.patch_embed(images))
    return tokens[:, : trunk.num_prefix_tokens], tokens[:, trunk.num_prefix_tokens :]


def encode_tokens(
    encoder: Encoder, tokens: Tensor, attend: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> Tensor:
    """Blocks and last norm over tokens as `embed` gives them: [B, T, D] -> [B, T, D].

    Args:
        attend: takes the place of every block's attention: a function of the attention's module and its input.

    Raises:
        UsageError: blocks that are not attention first and an MLP next, whose attention cannot be replaced.
    """
    trunk = encoder.trunk
    x = trunk.norm_pre(tokens)
    if attend is None:
        return trunk.norm(trunk.blocks(x))
    for block in trunk.blocks:
        if type(block) not in PLAIN_BLOCKS:
            raise UsageError(
                f"{encoder.name} is made of {type(block).__name__}, whose attention cannot be replaced. Take a ViT of "
                "plain blocks, such as vit_mini or deit_small."
            )
        x = x + block.drop_path1(block.ls1(attend(block.attn, block.norm1(x))))
        x = add_branch(x, block.drop_path2, lambda rows, block=block: block.ls2(block.mlp(block.norm2(rows))))
    return trunk.norm(x)


def encode_visible(encoder: Encoder, images: Tensor, ids: Tensor) -> Tensor:
    """Some patches of [B, C, H, W] encoded, as if there were no others: [B, P + V, D], prefix tokens first.

    Every patch gets the position it has in the image before any is dropped. After the last norm, as `Encoder.tokens`.

    Args:
        ids: [B, V], numbers of the patches to keep, counted row by row.
    """
    prefix, patches = embed(encoder, images)
    return encode_tokens(encoder, torch.cat([prefix, pick(patches, ids)], dim=1))
