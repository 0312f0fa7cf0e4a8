"""Encoders on disk: model.safetensors with timm's own names, and encoder.json that says what it is and what it eats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import swin_transformer, vision_transformer
from timm.models._manipulate import adapt_input_conv
from torch import Tensor

import tacit
from tacit.encoders.build import SMALL, build
from tacit.encoders.encoder import Encoder
from tacit.errors import DataError, Unknown
from tacit.run import atomic, read_json, write_json
from tacit.views import Inputs

# Where checkpoints of others keep the encoder, the most telling first. MoBY's hold both branches: `encoder.` is online.
PREFIXES = ("module.encoder.", "encoder.", "trunk.", "module.backbone.", "backbone.", "module.", "")
WRAPPERS = ("model", "state_dict", "teacher", "student", "model_ema")


def save(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Write model.safetensors and encoder.json, each whole or not at all."""
    folder = Path(folder)
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.trunk.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
    write_json(folder / "encoder.json", describe(encoder))


def describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "format": 1,
        "tacit": tacit.__version__,
        "name": encoder.name,
        "arch": encoder.arch,
        "kwargs": encoder.kwargs,
        "norm_before_mlp": encoder.norm_before_mlp,
        "width": encoder.width,
        "inputs": encoder.inputs.to_dict(),
    }


def load(what: str | os.PathLike) -> Encoder:
    """An encoder from a run folder, an encoder folder, or a timm name (its published weights; `NAME:random` for none).

    Raises:
        DataError: the folder holds no encoder, or a damaged one. Unknown: neither a folder nor a name.
    """
    path = Path(what)
    folder = next((f for f in (path / "encoder", path) if (f / "encoder.json").is_file()), None)
    if folder is not None:
        return _read(folder)
    if path.exists():
        raise DataError(
            f"{path} holds no encoder (no encoder.json). A run writes one when it first saves; give a run folder, an "
            "encoder folder or a timm name."
        )
    name, _, how = str(what).partition(":")
    if name not in SMALL and not timm.is_model(name):
        raise Unknown("run folder or encoder", str(what), [*SMALL, *timm.list_models()], "A path must exist.")
    arch, changes = SMALL.get(name, (name, {}))
    config = timm.get_pretrained_cfg(arch)
    size = 32 if changes else config.input_size[-1]
    return build(name, size=size, pretrained=how != "random")


def _read(folder: Path) -> Encoder:
    about = read_json(folder / "encoder.json")
    encoder = _from_description(about)
    try:
        encoder.trunk.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}/model.safetensors does not hold this encoder: {str(error)[:300]}") from error
    return encoder.eval()


def like(encoder: Encoder) -> Encoder:
    """An encoder of the same architecture and inputs with fresh weights."""
    return _from_description(describe(encoder))


def _from_description(about: dict[str, Any]) -> Encoder:
    inputs = Inputs.from_dict(about["inputs"])
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in about["kwargs"].items()}
    renamed = {"patch": kwargs.pop("patch_size", None), "window": kwargs.pop("window_size", None)}
    ours = SMALL.get(about["name"], ("", {}))[1]
    extra = {k: v for k, v in kwargs.items() if k not in ("img_size", "in_chans") and k not in ours}
    encoder = build(
        about["name"], size=inputs.size, channels=inputs.channels, norm_before_mlp=about["norm_before_mlp"],
        **renamed, **extra,
    )  # fmt: skip
    encoder.inputs = inputs
    return encoder


class Initialised(NamedTuple):
    """What `initialise` did, by parameter name."""

    loaded: list[str]
    resized: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for title, names in (("resized", self.resized), ("kept fresh", self.missing), ("not used", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {title} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})")
        return "; ".join(parts)


def initialise(encoder: Encoder, path: str | os.PathLike) -> Initialised:
    """Start `encoder` from the weights at `path`: a run or encoder folder, a .safetensors, or a .pth read safely.

    Prefixes and wrappers of known checkpoints are looked through; of official MoBY checkpoints the online encoder is
    taken. Position embeddings, relative-position tables and patch embeddings are resized, and input channels adapted.

    Raises:
        DataError: nothing of the file fits the encoder.
    """
    path = Path(path)
    state = _unwrap(_load_state(path))
    own = encoder.trunk.state_dict()
    state = max(
        ({k[len(p) :]: v for k, v in state.items() if k.startswith(p)} for p in PREFIXES),
        key=lambda s: len(own.keys() & s.keys()),
    )
    before = {name: value.shape for name, value in state.items()}
    state = _fit(state, encoder)
    good = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    if len(good) < len(own) / 2:
        some = next(iter(before), "nothing")
        raise DataError(
            f"{path} does not fit {encoder.name}: {len(good)} of {len(own)} tensors match by name and shape (it holds "
            f"for example {some!r} {list(before.get(some, ()))}). Choose the --encoder it was made with."
        )
    encoder.trunk.load_state_dict(good, strict=False)
    return Initialised(
        loaded=list(good),
        resized=[name for name in good if name in before and before[name] != good[name].shape],
        missing=[name for name in own if name not in good],
        unexpected=[name for name in state if name not in good and not name.startswith("head")],
    )


def _load_state(path: Path) -> dict[str, Any]:
    for folder in (path / "encoder", path):
        if (folder / "model.safetensors").is_file():
            path = folder / "model.safetensors"
            break
    if not path.is_file():
        raise DataError(f"{path} does not exist or holds no weights; give a run folder, a .safetensors or a .pth.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and pickle errors share no base
        raise DataError(
            f"{path} cannot be read safely as weights ({type(error).__name__}: {str(error)[:200]}). If you trust it, "
            "load it yourself and save its state dict as .safetensors."
        ) from error


def _unwrap(state: dict[str, Any]) -> dict[str, Tensor]:
    while not any(isinstance(v, Tensor) for v in state.values()):
        inner = next((state[name] for name in WRAPPERS if isinstance(state.get(name), dict)), None)
        if inner is None:
            break
        state = inner
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _fit(state: dict[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Names and shapes of others turned into this trunk's, by timm's own rules for the two families."""
    weight = state.get("patch_embed.proj.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 != encoder.inputs.channels:
        state["patch_embed.proj.weight"] = adapt_input_conv(encoder.inputs.channels, weight)
    if isinstance(encoder.trunk, swin_transformer.SwinTransformer):
        # timm's filter takes what has a class head for its own format; official files have one, and ours never do.
        headless = {k: v for k, v in state.items() if not k.startswith("head.")}
        return swin_transformer.checkpoint_filter_fn(headless, encoder.trunk)
    if isinstance(encoder.trunk, vision_transformer.VisionTransformer):
        return vision_transformer.checkpoint_filter_fn(state, encoder.trunk)
    return state
