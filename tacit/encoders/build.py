"""Encoders by name, and what cannot be built, said with the arithmetic before anything is."""

from __future__ import annotations

import re
from typing import Any

import timm
from timm.models._registry import model_entrypoint
from torch import nn

from tacit.encoders.encoder import Encoder, TokenBatchNorm
from tacit.errors import BadSettings, Unknown
from tacit.views import input_spec

# Our names: the timm architecture and what is changed of it. The two small ones are for inputs of 28 to 96 pixels.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_mini": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "vit_mini": (
        "deit_small_patch16_224",
        {"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4},
    ),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {}),
    "deit_small": ("deit_small_patch16_224", {}),
}


def build(
    name: str,
    *,
    size: int,
    channels: int = 3,
    drop_path: float = 0.0,
    patch: int | None = None,
    window: int | None = None,
    norm_before_mlp: str = "ln",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    pretrained: bool = False,
    **kwargs: Any,
) -> Encoder:
    """An encoder with fresh weights, or, for a timm name and `pretrained`, with timm's.

    Args:
        name: a timm architecture, or one of `SMALL`.
        size: side of the square inputs in pixels; channels: how many they have.
        drop_path: stochastic depth of the last block, from 0 at the first.
        patch, window: patch size, and a Swin's window, where they should differ from the name's.
        norm_before_mlp: "ln", or "bn" for BatchNorm over batch and tokens.
        mean, std: of the inputs; ImageNet's when left out.
        kwargs: anything else timm's model takes.

    Raises:
        Unknown: no such name. BadSettings: the geometry does not work out.
    """
    if found := problems(name, size, patch, window, channels):
        raise BadSettings(found)
    arch, changes = SMALL.get(name, (name, {}))
    made = {**changes, **kwargs}
    if patch is not None:
        made["patch_size"] = patch
    if window is not None:
        made["window_size"] = window
    if _family(arch) in ("swin", "vit"):
        made["img_size"] = size
    if channels != 3:
        made["in_chans"] = channels
    drop = {"drop_path_rate": drop_path} if drop_path else {}
    trunk = timm.create_model(arch, pretrained=pretrained, num_classes=0, **drop, **made)
    if not pretrained and getattr(trunk, "cls_token", None) is not None:
        nn.init.trunc_normal_(trunk.cls_token, std=0.02)  # as published for DeiT; timm now draws it with 1e-6
    if norm_before_mlp == "bn":
        _batch_norm_before_mlp(trunk, name)
    if pretrained:
        config = trunk.pretrained_cfg
        mean, std = mean or config.get("mean"), std or config.get("std")
    inputs = input_spec(size, channels, mean if channels == 3 else None, std if channels == 3 else None)
    return Encoder(trunk, name=name, arch=arch, kwargs=made, norm=norm_before_mlp, inputs=inputs)


def problems(name: str, size: int, patch: int | None, window: int | None, channels: int) -> list[str]:
    """Why `name` cannot be built for such inputs, with sizes that would work; empty when it can. Raises `Unknown`."""
    if name not in SMALL and not timm.is_model(name):
        raise Unknown("encoder", name, [*SMALL, *timm.list_models()], "Any timm name will do: timm.list_models().")
    arch, changes = SMALL.get(name, (name, {}))
    family = _family(arch)
    found = []
    if family != "swin" and window is not None:
        found.append(f"window = {window}: {name} has no attention windows; leave it out or take a Swin.")
    if family == "other":
        if patch is not None:
            found.append(f"patch = {patch}: the patch size of {name} cannot be chosen; leave it out.")
        return found
    patch = patch or changes.get("patch_size") or _number(arch, "patch", 4 if family == "swin" else 16)
    if size % patch:
        found.append(
            f"size = {size}: must be a multiple of the patch size of {name}; {size} = {size // patch} x {patch} + "
            f"{size % patch}. Set size={_near(size, patch)}."
        )
    elif family == "swin":
        window = window or changes.get("window_size") or _number(arch, "window", 7)
        depth = len(changes.get("depths", (2, 2, 6, 2)))
        if trouble := _swin_trouble(size // patch, window, depth):
            good = [
                s for s in range(patch, 2 * size + 64 * patch, patch) if not _swin_trouble(s // patch, window, depth)
            ]
            near = sorted(good, key=lambda s: abs(s - size))[:3]
            found.append(
                f"size = {size} with patch {patch} and window {window}: {trouble} "
                f"Set size={' or '.join(map(str, sorted(near)))}, or another window."
            )
    return found


def _swin_trouble(grid: int, window: int, stages: int) -> str | None:
    """A stage's grid must be a multiple of the window, or fit into one, and halve evenly into the next stage."""
    for stage in range(stages):
        if grid > window and grid % window:
            return f"the grid of stage {stage + 1} is {grid} x {grid}, and {grid} = {grid // window} x {window} + {grid % window}."
        if stage + 1 < stages and grid % 2:
            return f"the grid of stage {stage + 1} is {grid} x {grid}, which does not halve."
        grid //= 2
    return None


def _family(arch: str) -> str:
    module = model_entrypoint(arch).__module__.rsplit(".", 1)[-1]
    return {"swin_transformer": "swin", "vision_transformer": "vit", "deit": "vit"}.get(module, "other")


def _number(arch: str, word: str, default: int) -> int:
    match = re.search(rf"{word}(\d+)", arch)
    return int(match.group(1)) if match else default


def _near(size: int, step: int) -> str:
    below, above = size // step * step, (size // step + 1) * step
    return f"{below} or {above}" if below else f"{above}"


def _batch_norm_before_mlp(trunk: nn.Module, name: str) -> None:
    blocks = [m for m in trunk.modules() if hasattr(m, "norm2") and hasattr(m, "mlp")]
    if not blocks:
        raise BadSettings(
            [f"norm_before_mlp = bn: {name} has no blocks with a norm before an MLP; use a ViT or a Swin."]
        )
    for block in blocks:
        block.norm2 = TokenBatchNorm(block.norm2.normalized_shape[0])
