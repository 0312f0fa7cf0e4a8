"""For torch alone: a `torch.export` program with a free batch size; no Python of ours is needed to run it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.export import prepared
from tacit.run import atomic
from tacit.views import Inputs, TextInputs

FILE = "encoder.pt2"


def trace(encoder: Encoder) -> torch.export.ExportedProgram:
    example = encoders.example(encoder.inputs)
    with torch.no_grad():
        encoder(example)  # what a trunk keeps of its first call must not be what tracing leaves there
    try:
        return torch.export.export(encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{encoder.name} cannot be written as a program with a free batch size: torch.export says "
            f"{str(error).splitlines()[0][:200]!r}."
            + (" Export it to timm." if isinstance(encoder.inputs, Inputs) else "")
        ) from error


def input_note(encoder: Encoder) -> str:
    """How inputs are prepared, to travel inside a file."""
    return json.dumps(encoder.inputs.to_dict())


def write(encoder: Encoder, folder: Path) -> None:
    # A stream, for torch wants a path to end in .pt2.
    with atomic(folder / FILE) as temporary, open(temporary, "wb") as f:
        torch.export.save(trace(encoder), f, extra_files={"inputs.json": input_note(encoder)})


def read(folder: Path):
    with open(folder / FILE, "rb") as f:
        return torch.export.load(f).module()


def usage(encoder: Encoder) -> str:
    shape = ", ".join(map(str, (1, *prepared.shape_of(encoder.inputs))))
    kind = ", dtype=torch.int64" if isinstance(encoder.inputs, TextInputs) else ""
    return f"""import torch
encoder = torch.export.load("{FILE}").module()
features = encoder(torch.zeros({shape}{kind}))"""
