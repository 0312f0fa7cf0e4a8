"""Encoders by name, and what cannot be built, said before anything is."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn

from tacit.encoders import crossed, cvt, dvae, geometry, sk_resnet, vatt, vil  # noqa: F401 some tell timm their names
from tacit.encoders.encoder import (
    MEAN_PATCH,
    Encoder,
    TokenBatchNorm,
    WholePatches,
    blocks_with_drop_path,
    set_drop_path,
)
from tacit.encoders.frames import cut_positions
from tacit.encoders.geometry import family, geometry_problems, timm_arguments
from tacit.encoders.window_attention import attend_in_fewer_passes
from tacit.errors import BadSettings, DataError, Unknown
from tacit.views import Inputs, SequenceInputs, SoundInputs, TextInputs, WaveInputs, input_spec

# Our names: the timm architecture and what is changed of it. Those called mini are for inputs of 28 to 96 pixels.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_mini": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "vit_mini": (
        "deit_small_patch16_224",
        {"patch_size": 4, "embed_dim": 128, "depth": 4, "num_heads": 4},
    ),
    "resnet_mini": ("resnet18", {"channels": (32, 64, 128, 256), "stem_width": 32, "small_stem": True}),
    "cvt_mini": (
        "cvt_13_esvit",
        {
            "dims": (32, 64, 128), "depths": (2, 2, 2), "num_heads": (1, 2, 4), "kernels": (3, 3, 3),
            "strides": (2, 2, 2), "paddings": (1, 1, 1), "window_size": 4,
        },
    ),
    "vil_mini": (
        "vil_2262_esvit",
        {
            "dims": (32, 64, 128), "depths": (2, 2, 2), "num_heads": (1, 2, 4), "strides": (2, 2, 2),
            "chunked": (True, True, False), "window_size": 4,
        },
    ),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {}),
    "deit_small": ("deit_small_patch16_224", {}),
    cvt.cvt_13_esvit.__name__: ("cvt_13_esvit", {}),
    "swinv2_mini": (
        "swinv2_tiny_window8_256",
        {"patch_size": 2, "window_size": 4, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    ),
    "swinv2_tiny": ("swinv2_tiny_window8_256", {}),
    "swinv2_base": ("swinv2_base_window12_192", {}),  # 192 pixels, the one that SimMIM pre-trains
    "simmim_vit_base": (  # SimMIM's ViT: places are known by one table of relative positions for all blocks
        "beit_base_patch16_224",
        {
            "use_abs_pos_emb": False, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "init_values": 0.1,
            "use_fc_norm": False,
        },
    ),
    vil.vil_2262_esvit.__name__: ("vil_2262_esvit", {}),
    "uni2_h": ("vit_giant_patch14_reg4_dinov2", {"depth": 24, "reg_tokens": 8}),  # UNI 2's ViT-H/14
    "dvae_mini": ("dall_e_dvae", {"hidden": 32, "blocks": 1, "stride": 4}),
    "vit_tiny_12h": ("deit_tiny_patch16_224", {"num_heads": 12}),  # CAE's smallest, and as the next
    "vit_small_12h": ("deit_small_patch16_224", {"num_heads": 12}),  # MoCo v3's ViT-S
    **vatt.NAMES,  # of films, waveforms and words
}  # fmt: skip


def build(
    name: str,
    *,
    size: int | tuple[int, ...] | None = None,
    channels: int = 3,
    inputs: Any = None,
    drop_path: float = 0.0,
    patch: int | tuple[int, ...] | None = None,
    window: int | None = None,
    norm_before_mlp: str = "ln",
    norm_eps: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str = "bilinear",
    positions: int | None = None,
    pretrained: bool = False,
    **kwargs: Any,
) -> Encoder:
    """An encoder with fresh weights, or, for a timm name and `pretrained`, with timm's.

    Args:
        name: a timm architecture, or one of `SMALL`.
        size: side of the square inputs in pixels; channels: how many they have.
        inputs: of sounds, in the place of these two: their spectrograms have as many rows as frames. A plain ViT alone
            takes them. Or of films, waveforms and words, which are those of VATT's transformers, or of feature
            sequences, which `crossed.CrossModal` alone takes.
        drop_path: stochastic depth of the last block, rising from 0 at the first.
        patch, window: patch size, of spectrograms also (frames, bands), and the side of attention's windows or chunks,
            where they should differ from the name's.
        norm_before_mlp: "ln", or "bn" for BatchNorm over batch and tokens.
        norm_eps: epsilon of a Swin's LayerNorms, where it should differ from timm's 1e-5; other trunks keep theirs.
        mean, std: of the inputs, one number a channel; ImageNet's when left out. interpolation: how they are resized.
        positions: side in pixels that a ViT's position table is made for. The table is learned at that size and
            interpolated to the grid of the input at every step (bicubic, antialiased); pixels on the right and below
            that fill no patch are left unread. Trunks without such a table do without.
        kwargs: anything else timm's model takes; and `cut_positions`, frames that the positions of a ViT on sounds are
            made for: shorter sounds use the first of them (`CutPositions`).

    Raises:
        Unknown: no such name. BadSettings: the geometry does not work out, or the architecture lacks what is asked.
        DataError: the published weights cannot be fetched.
    """
    if inputs is not None:
        size, channels = input_shape(inputs), inputs.channels
    if isinstance(inputs, SequenceInputs):
        kwargs |= {name: getattr(inputs, name) for name in ("lengths", "dims", "vocabulary")}
    found = problems(name, size, patch, window, channels, positions=positions, **kwargs)
    found += [
        f"{field} = {values}: must hold one number for each of the {channels} channels."
        for field, values in (("mean", mean), ("std", std))
        if values is not None and len(values) != channels
    ]
    if found:
        raise BadSettings(found)
    arch, made = resolve(name, size, patch, window, channels, kwargs, positions)
    if norm_eps is not None and family(arch) == "swin":
        made["norm_eps"] = norm_eps
    inputs = inputs or input_spec(size, channels, mean, std, interpolation)
    encoder = assemble(name, arch, made, norm_before_mlp, inputs, pretrained=pretrained)
    if drop_path and not blocks_with_drop_path(encoder):
        raise BadSettings([f"drop_path = {drop_path}: {name} has no residual blocks to drop. Set drop_path=0."])
    return set_drop_path(encoder, drop_path)


def assemble(
    name: str, arch: str, made: dict[str, Any], norm_before_mlp: str, inputs: Inputs | SoundInputs | SequenceInputs, *,
    pretrained: bool = False,
) -> Encoder:  # fmt: skip
    """The encoder that `encoder.json` describes: timm's `arch` with the arguments `made`, without stochastic depth."""
    try:
        trunk = timm.create_model(arch, pretrained=pretrained, num_classes=0, **timm_arguments(made))
    except OSError as error:
        if not pretrained:
            raise
        raise DataError(
            f"The published weights of {name} cannot be fetched ({type(error).__name__}). Check the connection, or "
            f"take the architecture without them: {name}:random"
        ) from error
    if made.get("dynamic_img_size") and type(trunk.patch_embed) is PatchEmbed:
        trunk.patch_embed.__class__ = WholePatches
    attend_in_fewer_passes(trunk)
    if made.get("cut_positions"):
        cut_positions(trunk)
    if made.get("small_stem"):  # of small inputs nothing is thrown away at the start (He et al. 2016, section 4.2)
        trunk.conv1 = nn.Conv2d(trunk.in_chans, trunk.bn1.num_features, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk.maxpool = nn.Identity()
    if not pretrained and getattr(trunk, "cls_token", None) is not None:
        nn.init.trunc_normal_(trunk.cls_token, std=0.02)  # as published for DeiT; timm now draws it with 1e-6
    if "norm_eps" in made:
        set_norm_eps(trunk, made["norm_eps"])
    if norm_before_mlp == "bn":
        _batch_norm_before_mlp(trunk, name)
    encoder = Encoder(trunk, name=name, arch=arch, kwargs=made, norm=norm_before_mlp, inputs=inputs)
    return set_drop_path(encoder, 0.0)  # timm's own default is 0.1 for some


def problems(
    name: str, size: int | tuple[int, ...], patch: int | tuple[int, ...] | None = None, window: int | None = None,
    channels: int = 3, positions: int | None = None, **kwargs: Any,
) -> list[str]:  # fmt: skip
    """Why `name` cannot be built for such inputs, with sizes that would work; empty when it can. Raises `Unknown`."""
    if name not in SMALL and not timm.is_model(name):
        raise Unknown("encoder", name, [*SMALL, *timm.list_models()], "Any timm name will do: timm.list_models().")
    given = {"size": size, "channels": channels, "patch": patch, "window": window, "positions": positions}
    low = [field for field, n in given.items() if n is not None and min(n if isinstance(n, tuple) else (n,)) < 1]
    if low:
        return [f"{field} = {given[field]}: must be at least 1." for field in low]
    arch, made = resolve(name, size, patch, window, channels, kwargs, positions)
    return geometry_problems(name, arch, size, made)


def crop_problems(name: str, size: int, patch: int | None = None, setting: str = "local_size") -> list[str]:
    """Why crops of `size` pixels cannot go through an encoder that `any_size` made; empty when they can."""
    arch, made = resolve(name, size, patch, None, 3, {})
    return geometry.crop_problems(name, arch, made, size, setting)


def lacking(
    name: str, needs: frozenset[str], size: int | tuple[int, ...], patch: int | tuple[int, ...] | None = None,
    window: int | None = None, channels: int = 3,
) -> list[str]:  # fmt: skip
    """Which of `needs` (see `Encoder.can`) the encoder of that name cannot do, as one sentence; nothing is computed.

    Of one that cannot be built for such inputs nothing is said: `problems` says why.
    """
    if problems(name, size, patch, window, channels):
        return []
    arch, made = resolve(name, size, patch, window, channels, {})
    with torch.device("meta"):
        able = assemble(name, arch, made, "ln", input_spec(1, channels)).can
    if not needs - able:
        return []
    return [
        f"encoder = {name}: the method needs {' and '.join(sorted(needs - able))}, and {name} has only "
        f"{', '.join(sorted(able))}. A ViT has most: try vit_mini or deit_small."
    ]


def patch_of(name: str, patch: int | None = None) -> int | None:
    """Pixels of a patch's side in the trunk of that name, `patch` if given; None for a trunk that has no patches."""
    arch, changes = SMALL.get(name, (name, {}))
    if patch or changes.get("patch_size"):
        return patch or changes["patch_size"]
    return geometry.default_patch(arch) if family(arch) in ("swin", "vit") or "patch" in arch else None


def mean_pooled(name: str) -> dict[str, Any]:
    """What `build` is to be told so that a plain ViT's feature is the mean of its tokens; nothing for other trunks."""
    arch = SMALL.get(name, (name,))[0]
    return dict(MEAN_PATCH) if timm.is_model(arch) and family(arch) == "vit" else {}


def resolve(
    name: str, size: int | tuple[int, ...], patch: int | tuple[int, ...] | None, window: int | None, channels: int,
    kwargs: dict[str, Any], positions: int | None = None,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """timm's architecture and arguments for `name`."""
    arch, changes = SMALL.get(name, (name, {}))
    made = {**changes, **kwargs}
    if patch is not None:
        made["patch_size"] = patch
    if window is not None:
        made["window_size"] = window
    if family(arch) in ("swin", "vit", "vil") or getattr(timm.get_pretrained_cfg(arch), "fixed_input_size", False):
        made["img_size"] = (made["cut_positions"], size[1]) if made.get("cut_positions") else size
    if family(arch) == "vatt":
        made["shape"] = size
    if positions is not None and family(arch) == "vit":
        made |= {"img_size": positions, "dynamic_img_size": True}
    if channels != 3:
        made["in_chans"] = channels
    return arch, made


def input_shape(inputs: Any) -> tuple[int, ...]:
    """What a trunk is made for: sides of pictures, frames and sides of films, samples, sentences and their words."""
    return (inputs.samples,) if isinstance(inputs, WaveInputs) else inputs.shape


def example(inputs: Any, batch: int = 2) -> torch.Tensor:
    """Prepared inputs of nothing: zeros [batch, channels, ...], or of sentences ids [batch, sentences, words]."""
    if isinstance(inputs, TextInputs):
        return torch.zeros(batch, *inputs.shape, dtype=torch.int64)
    return torch.zeros(batch, inputs.channels, *input_shape(inputs))


def set_norm_eps(trunk: nn.Module, eps: float) -> None:
    """Of every LayerNorm, in place."""
    for part in trunk.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def _batch_norm_before_mlp(trunk: nn.Module, name: str) -> None:
    blocks = [
        m for m in trunk.modules()
        if hasattr(m, "mlp") and isinstance(getattr(m, "norm2", None), nn.LayerNorm)
        and not isinstance(m, SwinTransformerV2Block)  # whose norms come after
    ]  # fmt: skip
    if not blocks:
        raise BadSettings(
            [f"norm_before_mlp = bn: {name} has no blocks with a LayerNorm before an MLP; use a ViT or a Swin."]
        )
    for block in blocks:
        block.norm2 = TokenBatchNorm(block.norm2.normalized_shape[0])
