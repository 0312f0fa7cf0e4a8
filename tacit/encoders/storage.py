"""Encoders on disk: model.safetensors with timm's own names, and encoder.json that says what it is and what it eats."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import tacit
from tacit.encoders.build import SMALL, assemble, build
from tacit.encoders.encoder import Encoder
from tacit.encoders.foreign import Foreign, read_timm, read_transformers
from tacit.encoders.names import from_transformers
from tacit.encoders.positions import sincos_positions_
from tacit.encoders.programs import FILES, SUFFIXES, read_program
from tacit.encoders.resolution import at_size
from tacit.encoders.speech import Speech, is_speech, read_speech
from tacit.encoders.xavier import truncated_patches_, xavier_
from tacit.errors import DataError, Unknown, UsageError
from tacit.run import atomic, read_json, write_json
from tacit.views import inputs_from_dict

FORMAT = 1
STARTS = {
    "xavier": xavier_,
    "xavier_qkv": partial(xavier_, split_qkv=True),
    "truncated_patches": truncated_patches_,
    "sincos_row": partial(sincos_positions_, first="row"),
    "sincos_column": partial(sincos_positions_, first="column"),
}


def save(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Write model.safetensors and encoder.json, each whole or not at all; of a speech model of transformers the files
    that transformers reads, too.

    Raises:
        UsageError: any other encoder that timm did not build.
    """
    if isinstance(encoder, Speech):
        write_tensors(Path(folder) / "model.safetensors", encoder.trunk.model.state_dict())
        for name, about in encoder.cards().items():
            write_json(Path(folder) / name, about)
        return
    if isinstance(encoder, Foreign):
        raise UsageError(f"{encoder.name} was not built by timm, and an encoder folder cannot describe it.")
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", encoder.trunk.state_dict())
    write_json(folder / "encoder.json", describe(encoder))


def write_tensors(path: Path, state: dict[str, Tensor], facts: dict[str, str] | None = None) -> None:
    """One safetensors file, whole or not at all, with `facts` in its heading."""
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic(path) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt", **(facts or {})})


def describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tacit": tacit.__version__,
        "name": encoder.name,
        "arch": encoder.arch,
        "kwargs": encoder.kwargs,
        "norm_before_mlp": encoder.norm_before_mlp,
        "start": list(encoder.start),
        "feature": encoder.feature,
        "width": encoder.width,
        "inputs": encoder.inputs.to_dict(),
    }


def load(
    what: str | os.PathLike, *, foreign: bool = False, size: int | None = None, window: int | None = None
) -> Encoder:
    """An encoder in evaluation mode, from whatever holds one.

    Args:
        what: a run folder, an encoder folder, a folder exported to timm or transformers, one that timm saved, a timm
            name (with its published weights), or any encoder's name and `:random` (with fresh ones).
        foreign: take what can only be looked at, too: a vision model that transformers saved, with its image
            processor, or a speech model (which can be trained on labels as well); an export to torch or onnx; any
            .pt2 or .onnx file with a note on its inputs.
        size, window: made anew for inputs of that side, and a Swin's windows of that many patches; see `at_size`.

    Raises:
        DataError: the folder holds no encoder, or a damaged one. Unknown: neither a folder nor a name.
    """
    if size is not None or window is not None:
        return at_size(load(what), size, window)
    path = Path(what)
    folder = next((f for f in (path / "encoder", path) if (f / "encoder.json").is_file()), None)
    if folder is not None:
        return _read(folder, foreign)
    if path.suffix in SUFFIXES and path.is_file():
        if not foreign:
            raise UsageError(f"{path} is a finished program, no encoder to go on with; it can only be evaluated.")
        return read_program(path)
    kind = _config(path)
    if "architecture" in kind:
        return read_timm(path)
    if "model_type" in kind:
        if is_speech(kind):
            if not foreign:
                raise UsageError(
                    f"{path} holds a speech model of transformers. It can be scored (tacit evaluate), used (tacit "
                    "embed) and trained on labels (tacit finetune)."
                )
            return read_speech(path)
        if not foreign:
            raise UsageError(
                f"{path} holds a model of transformers. It can be evaluated on whole pictures; for all else "
                "start an encoder of Tacit from its weights (tacit pretrain --init)."
            )
        return read_transformers(path)
    if path.exists():
        raise DataError(
            f"{path} holds no encoder (no encoder.json). A run writes one when it first saves; give a run folder, an "
            "encoder folder or a timm name."
        )
    name, _, how = str(what).partition(":")
    if how not in ("", "random") or (name not in SMALL and not timm.is_model(name)):
        raise Unknown("run folder or encoder", str(what), [*SMALL, *timm.list_models()], "A path must exist.")
    return _named(name, pretrained=not how).eval()


def holds_speech(what: str | os.PathLike) -> bool:
    """Whether it is a folder of a speech model that transformers saved; `load` takes it as foreign."""
    return is_speech(_config(Path(what)))


def _config(path: Path) -> dict[str, Any]:
    """What timm or transformers say of a folder."""
    try:
        found = read_json(path / "config.json")
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path / 'config.json'} is damaged ({error}). Copy the folder again.") from error
    return found if isinstance(found, dict) else {}


def _named(name: str, *, pretrained: bool) -> Encoder:
    arch, changes = SMALL.get(name, (name, {}))
    published = timm.get_pretrained_cfg(arch)
    if pretrained and (changes or not published.has_weights):
        ours = "is our own and " if name in SMALL else ""
        raise UsageError(f"{name} {ours}has no published weights. Give a run folder, or {name}:random.")
    if not changes:
        encoder = build(name, size=published.input_size[-1], pretrained=pretrained)
        encoder.inputs = replace(
            encoder.inputs,
            mean=tuple(published.mean),
            std=tuple(published.std),
            interpolation="bicubic" if published.interpolation == "bicubic" else "bilinear",
            crop=published.crop_pct,
        )
        return encoder
    return build(name, size=32 if name.endswith("_mini") else published.input_size[-1])


def like(encoder: Encoder) -> Encoder:
    """An encoder of the same architecture and inputs with fresh weights. UsageError: a program of an unknown one."""
    if isinstance(encoder, Foreign):
        return encoder.fresh()
    made = assemble(encoder.name, encoder.arch, encoder.kwargs, encoder.norm_before_mlp, encoder.inputs)
    for how in encoder.start:
        STARTS[how](made)
    return made


def read_description(folder: Path) -> dict[str, Any]:
    """encoder.json, checked."""
    path = folder / "encoder.json"
    try:
        about = read_json(path)
        version = about["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}). Copy the folder again.") from error
    if version > FORMAT:
        raise DataError(
            f"{path} was written by Tacit {about.get('tacit')} in format {version}; this version, {tacit.__version__}, "
            f"reads up to format {FORMAT}. Update with: pip install -U tacit"
        )
    return about


def _read(folder: Path, foreign: bool) -> Encoder:
    about = read_description(folder)
    exported = about.get("exported")
    if exported in FILES:
        if foreign:
            return read_program(folder / FILES[exported], about)
        raise UsageError(
            f"{folder} is an export to {exported}: a finished program, no encoder to go on with. "
            "Give the run folder, or an export to timm or transformers."
        )
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in about["kwargs"].items()}
    inputs = inputs_from_dict(about["inputs"])
    encoder = assemble(about["name"], about["arch"], kwargs, about["norm_before_mlp"], inputs)
    encoder.start = tuple(how for how in about.get("start", ()) if how in STARTS)
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
        if exported == "transformers":
            state = from_transformers(state, encoder.trunk)
        encoder.trunk.load_state_dict(state)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} does not hold this encoder: {str(error)[:300]}") from error
    return encoder.eval()
