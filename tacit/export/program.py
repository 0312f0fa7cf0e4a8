"""For torch alone: a `torch.export` program with a free batch size; no Python of ours is needed to run it."""

from __future__ import annotations

from pathlib import Path

import torch

from tacit.encoders import Encoder
from tacit.run import atomic

FILE = "encoder.pt2"


def example(encoder: Encoder) -> torch.Tensor:
    return torch.zeros(2, encoder.inputs.channels, encoder.inputs.size, encoder.inputs.size)


def trace(encoder: Encoder) -> torch.export.ExportedProgram:
    return torch.export.export(encoder, (example(encoder),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def write(encoder: Encoder, folder: Path) -> None:
    with atomic(folder / FILE) as temporary:
        with open(temporary, "wb") as f:  # a stream, for torch wants a path to end in .pt2
            torch.export.save(trace(encoder), f)


def read(folder: Path):
    with open(folder / FILE, "rb") as f:
        return torch.export.load(f).module()


def usage(encoder: Encoder) -> str:
    return f"""import torch
model = torch.export.load("{FILE}").module()
features = model(torch.zeros(2, {encoder.inputs.channels}, {encoder.inputs.size}, {encoder.inputs.size}))"""
