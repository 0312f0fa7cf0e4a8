"""Start an encoder from weights that others, or an earlier run, have trained: names and shapes turned into ours."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from tacit.encoders.encoder import Encoder
from tacit.encoders.names import from_transformers
from tacit.errors import DataError

# Where checkpoints keep the encoder: MoBY's (both branches: `encoder.` is the online one), our runs', DINO's, SwAV's,
# EsViT's, MoCo's (v3, v2: the online one again), transformers'. Of equal ones the first is taken.
PREFIXES = (
    "", "module.encoder.", "encoder.", "method.teacher.trunk.", "method.encoder.trunk.", "encoder.trunk.", "trunk.",
    "module.backbone.", "backbone.", "module.base_encoder.", "module.encoder_q.", "module.", "vit.", "swin.",
)  # fmt: skip
WRAPPERS = ("model", "state_dict", "teacher", "student", "model_ema")


class Initialised(NamedTuple):
    """What `initialise` did, by parameter name."""

    loaded: list[str]
    interpolated: list[str]
    missing: list[str]
    unexpected: list[str]
    notes: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        titles = {"interpolated": self.interpolated, "kept fresh": self.missing, "not used": self.unexpected}
        for title, names in titles.items():
            if names:
                parts.append(f"{len(names)} {title} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})")
        return "; ".join([*parts, *self.notes])


def initialise(encoder: Encoder, path: str | os.PathLike) -> Initialised:
    """Start `encoder` from the weights at `path`: a run or encoder folder, a .safetensors, or a .pth read safely.

    Names of timm, transformers and the official Swin, DeiT and MoBY checkpoints are known; of MoBY's the online
    encoder is taken. Position embeddings, relative-position tables and patch embeddings are interpolated (bicubic) to
    the encoder's geometry, and input channels summed or repeated.

    Raises:
        DataError: the file cannot be read safely, or fewer than half of the encoder's tensors fit.
    """
    path = Path(path)
    own = encoder.trunk.state_dict()
    theirs = _timm_names(_tensors(_read(path)), encoder.trunk)
    notes: list[str] = []
    good = fitted(theirs, encoder.trunk, notes)
    good = {name: value for name, value in good.items() if name in own and value.shape == own[name].shape}
    if len(good) < len(own) / 2:
        wrong = next((name for name in theirs if name in own and name not in good), None)
        example = (
            f"{wrong} is {list(theirs[wrong].shape)} there and {list(own[wrong].shape)} here"
            if wrong
            else f"it holds for example {next(iter(theirs), 'nothing')!r}"
        )
        raise DataError(
            f"{path} does not fit {encoder.name}: {len(good)} of {len(own)} tensors agree by name and shape "
            f"({example}). Choose the --encoder that it was made with."
        )
    encoder.trunk.load_state_dict(good, strict=False)
    if isinstance(encoder.trunk, SwinTransformerV2):
        window = encoder.trunk.layers[0].blocks[0].attn.window_size[0]
        notes.append(f"positions in units of this encoder's windows ({window} in the first stage)")
    return Initialised(
        loaded=list(good),
        interpolated=[name for name in good if theirs[name].shape != own[name].shape],
        missing=[name for name in own if name not in good],
        unexpected=[name for name in theirs if name not in good],
        notes=notes,
    )


def fitted(state: dict[str, Tensor], trunk: nn.Module, notes: list[str] | None = None) -> dict[str, Tensor]:
    """`state`, under the trunk's names, with all that depends on the geometry interpolated to the trunk's.

    What cannot be is left as it was. `notes`: a list that is added to, of what was done to input channels.
    """
    own, notes = trunk.state_dict(), [] if notes is None else notes
    return {
        name: _fit(name, value, own[name], trunk, notes) if name in own and value.shape != own[name].shape else value
        for name, value in state.items()
    }


def _read(path: Path) -> dict[str, Any]:
    for folder in (path / "encoder", path):
        if (folder / "model.safetensors").is_file():
            path = folder / "model.safetensors"
            break
    if not path.is_file():
        raise DataError(f"{path} does not exist or holds no weights; give a run folder, a .safetensors or a .pth.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Official checkpoints carry their settings as one of these two, which hold values and run nothing. MoBY's are
        # yacs', whose place an ordinary dictionary takes.
        with torch.serialization.safe_globals([argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read safely as weights ({type(error).__name__}: {str(error)[:200]}). If you trust it, "
            "load it yourself and save its state dict as .safetensors."
        ) from error


def _tensors(state: Any) -> dict[str, Tensor]:
    """The state dict inside however many wrappers; empty when there is none."""
    if not isinstance(state, dict):
        return {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors or _tensors(next((state[name] for name in WRAPPERS if name in state), None))


def _timm_names(state: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """The one branch of `state` that is an encoder, under timm's names, without classifier and recomputed buffers."""
    own = trunk.state_dict().keys()
    best: dict[str, Tensor] = {}
    for prefix in PREFIXES:
        branch = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        branch = _merge_at_the_start({k.replace(".rpe_mlp.", ".cpb_mlp."): v for k, v in branch.items()})
        for candidate in (branch, from_transformers(branch, trunk)):
            if len(own & candidate.keys()) > len(own & best.keys()):
                best = candidate
    unused = re.compile(r"^(head|fc)\.|(^|\.)(attn_mask|relative_position_index|relative_coords_table)$")
    return {name: value for name, value in best.items() if not unused.search(name)}


def _merge_at_the_start(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official Swin merges patches at the end of stage i, timm at the start of stage i + 1, where 0 has none."""
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    stage = re.compile(r"^layers\.(\d+)\.downsample")
    return {stage.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample", name): value for name, value in state.items()}


def _fit(name: str, theirs: Tensor, ours: Tensor, trunk: nn.Module, notes: list[str]) -> Tensor:
    """`theirs` interpolated to the shape of `ours` where there is a meaningful way; as it was otherwise."""
    if name == "patch_embed.proj.weight" and theirs.ndim == 4 and len(theirs) == len(ours):
        if theirs.shape[1] != ours.shape[1]:
            how = "summed" if ours.shape[1] == 1 else "repeated and rescaled"
            notes.append(f"input channels {theirs.shape[1]} -> {ours.shape[1]}: {how}")
            theirs = _channels(theirs, ours.shape[1])
        return resample_patch_embed(theirs, list(ours.shape[-2:]))
    if name.endswith("relative_position_bias_table") and theirs.shape[1] == ours.shape[1]:
        return _square_table(theirs, ours)
    if name == "pos_embed" and theirs.shape[-1] == ours.shape[-1]:
        prefix = 0 if getattr(trunk, "no_embed_class", False) else trunk.num_prefix_tokens
        grid = _side(theirs.shape[1] - prefix)
        if grid:
            return resample_abs_pos_embed(
                theirs, new_size=list(trunk.patch_embed.grid_size), old_size=[grid, grid], num_prefix_tokens=prefix
            )
    return theirs


def _channels(weight: Tensor, channels: int) -> Tensor:
    """[D, C, P, P] -> [D, channels, P, P], so that an input repeated over the channels gives what it gave before."""
    have = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, -(-channels // have), 1, 1)[:, :channels] * (have / channels)


def _square_table(theirs: Tensor, ours: Tensor) -> Tensor:
    """[(2 window - 1)^2, heads], read as an image of heads channels; the last three of BEiT's are the class token's."""
    extra = 0 if _side(len(theirs)) else 3
    old, new = _side(len(theirs) - extra), _side(len(ours) - extra)
    if not old or not new:
        return theirs
    image = theirs[: old**2].T.reshape(1, -1, old, old)
    image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([image.flatten(2)[0].T, theirs[old**2 :]])


def _side(area: int) -> int | None:
    side = round(max(area, 0) ** 0.5)
    return side if side * side == area else None
