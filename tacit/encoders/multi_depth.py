"""Features of several depths of a ViT as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tacit.encoders.build import build
from tacit.encoders.encoder import Encoder


def multi_depth(encoder: Encoder, x: Tensor, blocks: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Pooled feature and patch tokens of several blocks: [B, C, H, W] -> [B, width], [B, N, D], from one pass.

    The pooled feature is `encoder(x)`. The tokens are the mean of the residual streams behind `blocks` (counted from 1;
    none for the last), which then goes through the last norm, once (GMML, official code): norms of each would give all
    depths the same weight.
    """
    trunk = encoder.trunk
    wanted = sorted({block - 1 for block in blocks} or {len(trunk.blocks) - 1})
    final, streams = trunk.forward_intermediates(x, indices=wanted, output_fmt="NLC")
    mean = streams[0] if len(streams) == 1 else torch.stack(streams).mean(0)
    return trunk.forward_head(final), trunk.norm(mean)


def depth_problems(
    name: str, blocks: Sequence[int], size: int, patch: int | None = None, setting: str = "depths"
) -> list[str]:
    """Why tokens of those blocks cannot be trained through, for an encoder that can be built; nothing is computed.

    The last block must be among them: nothing would train those above the highest.
    """
    with torch.device("meta"):
        trunk = build(name, size=size, patch=patch).trunk
    if not isinstance(trunk, VisionTransformer):
        return [f"encoder = {name}: the method reads the blocks of a plain ViT. Try vit_mini or deit_small."]
    depth = len(trunk.blocks)
    if blocks and (max(blocks) != depth or min(blocks) < 1 or len(set(blocks)) < len(blocks)):
        given = ",".join(map(str, blocks))
        return [
            f"{setting} = {given}: must be different blocks of {name}, which has {depth}, and end with the last: "
            f"those above the highest would not be trained. Set {setting}={depth}, or {_like(depth)}."
        ]
    return []


def _like(depth: int) -> str:
    """The blocks of GMML's ViTs of 12, for another depth."""
    return ",".join(map(str, sorted({max(round(depth * share), 1) for share in (1 / 2, 2 / 3, 5 / 6, 1)})))
