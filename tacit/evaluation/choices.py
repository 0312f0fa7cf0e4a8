"""What of an encoder a protocol may look at: every published choice of feature, all of them from one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders import Encoder
from tacit.encoders.cvt import CvT
from tacit.encoders.vil import ViL
from tacit.errors import BadSettings, Unknown

CHOICES = {
    "pooled": "what the encoder hands over: the class token, or the mean of the tokens where there is none",
    "cls": "class token after the last norm",
    "mean": "mean of the patch tokens after the last norm",
    "cls_mean": "class token and mean of the patch tokens, joined (DINO, ViT-B)",
    "last4": "class tokens of the last four blocks, each through the last norm, joined (DINO, ViT-S); without a class "
    "token the means of the last four blocks' tokens (of a ViL's first stages: the global tokens), those of the last "
    "stage through the last norm (EsViT)",
    "last4_mean": "last4 and the mean of the patch tokens, joined (DINOv2)",
    "cls_raw": "class token of the last block before the last norm (MSN)",
    "blocks": "class tokens, if any, and means of the patch tokens of all blocks, each through the last norm, joined "
    "(ATST)",
    "stages": "means of every stage's map, joined; of every block of a plain ViT",
}


def available(encoder: Encoder) -> tuple[str, ...]:
    """The choices this encoder has."""
    able = ["pooled", "mean"]
    if "cls" in encoder.can:
        able += ["cls", "cls_mean", "cls_raw"]
    if len(blocks(encoder)) >= 4:
        able += ["last4", "last4_mean"]
    if isinstance(encoder.trunk, VisionTransformer):
        able.append("blocks")
    if "stages" in encoder.can:
        able.append("stages")
    return tuple(name for name in CHOICES if name in able)


def check(encoder: Encoder, names: Sequence[str]) -> None:
    """Raises `Unknown` or `BadSettings` unless the encoder has all of these."""
    for name in names:
        if name == "pooled":  # whatever gives a vector has it
            continue
        if name not in CHOICES:
            raise Unknown("feature", name, CHOICES)
        if name not in available(encoder):
            raise BadSettings(
                [f"feature = {name}: {encoder.name} has no {CHOICES[name]}. It has {', '.join(available(encoder))}."]
            )


def blocks(encoder: Encoder) -> list[nn.Module]:
    """The transformer blocks in the order of the data; none for other trunks."""
    trunk = encoder.trunk
    if isinstance(trunk, VisionTransformer):
        return list(trunk.blocks)
    if isinstance(trunk, SwinTransformer | SwinTransformerV2 | CvT | ViL):
        return [block for stage in trunk.layers for block in stage.blocks]
    return []


def choose(encoder: Encoder, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Features [B, D] by name of images [B, C, H, W], from one pass through the encoder.

    Raises:
        Unknown, BadSettings: a choice that does not exist, or that this encoder has not.
    """
    check(encoder, names)
    if tuple(names) == ("pooled",):
        return {"pooled": encoder(x).float()}
    last: list[Tensor] = []
    watched = blocks(encoder) if "blocks" in names else blocks(encoder)[-4:]
    hooks = [b.register_forward_hook(lambda _, __, y: last.append(y)) for b in watched]
    try:
        final = encoder.trunk.forward_features(x)
    finally:
        for hook in hooks:
            hook.remove()
    prefix = getattr(encoder.trunk, "num_prefix_tokens", 0) if final.ndim == 3 else 0
    find = {
        "pooled": lambda: encoder.trunk.forward_head(final),
        "cls": lambda: final[:, 0],
        "mean": lambda: _mean(encoder, final, prefix),
        "cls_raw": lambda: last[-1][:, 0],
        "last4": lambda: torch.cat([_of_block(encoder, y) for y in last[-4:]], dim=1),
        "blocks": lambda: torch.cat([part for y in last for part in _both(encoder, y, prefix)], dim=1),
        "stages": lambda: torch.cat([y.mean((2, 3)) for y in encoder.stages(x)], dim=1),
    }
    find["cls_mean"] = lambda: torch.cat([find["cls"](), find["mean"]()], dim=1)
    find["last4_mean"] = lambda: torch.cat([find["last4"](), find["mean"]()], dim=1)
    return {name: find[name]().float() for name in names}


def _mean(encoder: Encoder, final: Tensor, prefix: int) -> Tensor:
    if final.ndim == 3:  # [B, tokens, D]
        return final[:, prefix:].mean(1)
    return final.mean((1, 2) if getattr(encoder.trunk, "output_fmt", "NCHW") == "NHWC" else (2, 3))


def _both(encoder: Encoder, y: Tensor, prefix: int) -> list[Tensor]:
    y = encoder.trunk.norm(y)
    return ([y[:, 0]] if "cls" in encoder.can else []) + [y[:, prefix:].mean(1)]


def _of_block(encoder: Encoder, y: Tensor) -> Tensor:
    norm = encoder.trunk.norm
    of_last_stage = y.shape[-1] == norm.normalized_shape[-1]
    if isinstance(encoder.trunk, ViL):
        return norm(y).mean(1) if of_last_stage else y[:, 0]
    if y.ndim == 3:
        y = norm(y)
        return y[:, 0] if "cls" in encoder.can else y[:, getattr(encoder.trunk, "num_prefix_tokens", 0) :].mean(1)
    return (norm(y) if of_last_stage else y).mean((1, 2))
