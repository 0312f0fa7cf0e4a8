"""For ONNX runtimes: one file with its weights inside and a free batch size."""

from __future__ import annotations

from pathlib import Path

import torch

from tacit.encoders import Encoder
from tacit.errors import MissingExtra
from tacit.export import program
from tacit.run import atomic

FILE = "encoder.onnx"


def write(encoder: Encoder, folder: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter writes through it
    except ImportError as error:
        raise MissingExtra("Export to onnx", error.name or "onnx", "export") from error
    made = torch.onnx.export(
        program.trace(encoder), dynamo=True, input_names=["image"], output_names=["features"], verbose=False
    ).model_proto
    onnx.helper.set_model_props(made, {"inputs": program.input_note(encoder)})
    with atomic(folder / FILE) as temporary:
        onnx.save_model(made, str(temporary))


def read(folder: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("Checking an ONNX file", "onnxruntime", "export") from error
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def usage(encoder: Encoder) -> str:
    shape = ", ".join(map(str, (1, encoder.inputs.channels, *encoder.inputs.shape)))
    return f"""import numpy, onnxruntime
session = onnxruntime.InferenceSession("{FILE}")
features = session.run(None, {{"image": numpy.zeros(({shape}), numpy.float32)}})[0]"""
