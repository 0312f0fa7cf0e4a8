"""Finished programs as frozen encoders: a `torch.export` program or an ONNX file, and how its inputs are prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tacit.encoders.build import assemble, example
from tacit.encoders.encoder import Encoder
from tacit.encoders.foreign import Foreign
from tacit.errors import DataError, MissingExtra, UsageError
from tacit.run import read_json
from tacit.views import Inputs, SoundInputs, inputs_from_dict

SUFFIXES = (".pt2", ".onnx")
FILES = {"torch": "encoder.pt2", "onnx": "encoder.onnx"}  # what our exports are called
NOTE = "inputs.json"


class Program(Foreign):
    """A function [B, C, H, W] -> [B, width] that nothing can be changed in. It runs on the CPU."""

    def __init__(
        self, run: Callable[[Tensor], Tensor], file: Path, inputs: Inputs | SoundInputs, about: dict[str, Any]
    ):
        made = {k: tuple(v) if isinstance(v, list) else v for k, v in about.get("kwargs", {}).items()}
        super().__init__(
            _Finished(run, file, inputs), name=about.get("name", file.name), arch=about.get("arch", ""), kwargs=made,
            norm=about.get("norm_before_mlp", "ln"), inputs=inputs,
        )  # fmt: skip
        self.of = about.get("feature", "what the program gives")

    @property
    def can(self) -> frozenset[str]:
        return frozenset()

    @property
    def feature(self) -> str:
        return self.of

    def tokens(self, x: Tensor) -> Tensor:
        raise _closed()

    def stages(self, x: Tensor) -> list[Tensor]:
        raise _closed()

    def fresh(self) -> Encoder:
        if not self.arch:
            raise UsageError(
                f"{self.name} does not say of what architecture it is, so there is nothing to draw afresh beside it."
            )
        return assemble(self.name, self.arch, self.kwargs, self.norm_before_mlp, self.inputs)


def _closed() -> UsageError:
    return UsageError("A finished program gives its feature and shows no tokens or maps. Give the encoder itself.")


class _Finished(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor], file: Path, inputs: Inputs | SoundInputs):
        super().__init__()
        self.run = [run]  # in a list, so that no module becomes a part of this one: it could not be moved or switched
        digest = hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))  # what tells two files apart
        try:
            shape = self.forward(example(inputs)).shape
        except Exception as error:  # of onnxruntime there are many kinds, with no common one
            raise DataError(f"{file} does not run on two inputs of {inputs}: {str(error)[:300]}") from error
        if len(shape) != 2 or shape[0] != 2:
            raise DataError(f"{file} gives {list(shape)} for two inputs; an encoder gives one vector for each.")
        self.num_features = int(shape[1])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x_there = x.cpu() if x.dtype == torch.int64 else x.cpu().float()  # numbers of words stay what they are
        return self.run[0](x_there).to(x.device)

    def forward_features(self, x: Tensor) -> Tensor:
        raise _closed()

    def __deepcopy__(self, memo: dict) -> _Finished:
        return self  # nothing in it changes


def read_program(file: Path, about: dict[str, Any] | None = None) -> Program:
    """A program with the note on its inputs that is in it, or in `inputs.json` beside it (the fields of `Inputs`).

    Args:
        about: what encoder.json says of it, if there is one.

    Raises:
        DataError: damaged, without such a note, or no function from images to vectors. MissingExtra.
    """
    run, note = (_onnx if file.suffix == ".onnx" else _torch)(file)
    try:
        note = json.loads(note) if note else (about or {}).get("inputs") or read_json(file.parent / NOTE)
        inputs = inputs_from_dict(note) if note else None
    except (ValueError, TypeError) as error:
        raise DataError(f"The note on the inputs of {file} cannot be read ({error}).") from error
    if inputs is None:
        raise DataError(
            f"{file} does not say how its inputs are prepared. Write {file.parent / NOTE}, for example "
            '{"size": 224, "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'
        )
    return Program(run, file, inputs, about or {}).eval()


def _torch(file: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    notes = {NOTE: ""}
    try:
        with open(file, "rb") as f:
            return torch.export.load(f, extra_files=notes).module(), notes[NOTE]
    except Exception as error:  # whatever a damaged archive makes of torch's reader
        raise DataError(f"{file} is no program of torch.export: {str(error)[:300]}") from error


def _onnx(file: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("An ONNX file", "onnxruntime", "export") from error
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime there are many kinds, with no common one
        raise DataError(f"{file} is no ONNX file: {str(error)[:300]}") from error
    name = session.get_inputs()[0].name
    note = session.get_modelmeta().custom_metadata_map.get("inputs", "")
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), note
