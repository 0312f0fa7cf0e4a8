"""For timm: a folder that `timm.create_model("local-dir:…")` loads, whose weights also serve as `checkpoint_path`."""

from __future__ import annotations

from pathlib import Path

import timm

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.run import write_json


def write(encoder: Encoder, folder: Path) -> None:
    if encoder.norm_before_mlp != "ln":
        raise UsageError("timm has no BatchNorm before the MLPs; export this encoder to torch or onnx.")
    encoders.save(encoder, folder)
    i = encoder.inputs
    write_json(
        folder / "config.json",
        {
            "architecture": encoder.arch,
            "num_classes": 0,
            "num_features": encoder.width,
            "model_args": encoder.kwargs,
            "pretrained_cfg": {
                "architecture": encoder.arch,
                "num_classes": 0,
                "input_size": [i.channels, i.size, i.size],
                "fixed_input_size": True,
                "mean": list(i.mean),
                "std": list(i.std),
                "interpolation": i.interpolation,
                "crop_pct": i.crop,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        },
    )


def read(folder: Path):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()


def usage(encoder: Encoder) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in encoder.kwargs.items())
    return f"""import timm, torch
model = timm.create_model("local-dir:.", pretrained=True, num_classes=0).eval()
# or, from the weights alone:
model = timm.create_model({encoder.arch!r}, checkpoint_path="model.safetensors", num_classes=0{arguments}).eval()
features = model(torch.zeros(1, {encoder.inputs.channels}, {encoder.inputs.size}, {encoder.inputs.size}))"""
