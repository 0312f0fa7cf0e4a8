"""For ONNX runtimes: one file with its weights inside and a free batch size."""

from __future__ import annotations

from pathlib import Path

import torch

from tacit.encoders import Encoder
from tacit.errors import MissingExtra, UsageError
from tacit.export import prepared, program
from tacit.run import atomic
from tacit.views import TextInputs

FILE = "encoder.onnx"


def write(encoder: Encoder, folder: Path) -> None:
    """`encoder` is a copy that may be changed."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter writes through it
    except ImportError as error:
        raise MissingExtra("Export to onnx", error.name or "onnx", "export") from error
    if isinstance(encoder.inputs, TextInputs):  # the fused attention's decomposition fixes the layout of a free batch
        for part in encoder.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
    try:
        made = torch.onnx.export(
            program.trace(encoder), dynamo=True, input_names=[prepared.name_of(encoder.inputs)],
            output_names=["features"], verbose=False,
        ).model_proto  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise UsageError(
            f"{encoder.name} cannot be written as ONNX: torch.onnx says {str(error).splitlines()[0][:200]!r}. "
            "Export it to torch."
        ) from error
    onnx.helper.set_model_props(made, {"inputs": program.input_note(encoder)})
    with atomic(folder / FILE) as temporary:
        onnx.save_model(made, str(temporary))


def read(folder: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("Checking an ONNX file", "onnxruntime", "export") from error
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def usage(encoder: Encoder) -> str:
    shape = ", ".join(map(str, (1, *prepared.shape_of(encoder.inputs))))
    kind = "int64" if isinstance(encoder.inputs, TextInputs) else "float32"
    name = prepared.name_of(encoder.inputs)
    return f"""import numpy, onnxruntime
session = onnxruntime.InferenceSession("{FILE}")
features = session.run(None, {{"{name}": numpy.zeros(({shape}), numpy.{kind})}})[0]"""
