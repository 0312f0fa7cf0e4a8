"""For timm: a folder that `timm.create_model("local-dir:…")` loads, whose weights also serve as `checkpoint_path`."""

from __future__ import annotations

from pathlib import Path

import timm
from timm.models import model_entrypoint

from tacit.encoders import Encoder, set_norm_eps, step, write_tensors
from tacit.errors import UsageError
from tacit.run import read_json, write_json


def write(encoder: Encoder, folder: Path) -> None:
    if encoder.norm_before_mlp != "ln":
        raise UsageError("timm has no BatchNorm before the MLPs; export this encoder to torch or onnx.")
    if encoder.kwargs.get("small_stem"):
        raise UsageError(f"timm has no stem for small inputs as {encoder.name}'s; export it to torch or onnx.")
    if not model_entrypoint(encoder.arch).__module__.startswith("timm."):
        raise UsageError(f"timm has no {encoder.name}; export it to torch or onnx.")
    if encoder.kwargs.get("dynamic_img_size") and encoder.inputs.size % step(encoder):
        raise UsageError(
            f"timm takes whole patches only, and {encoder.inputs.size} pixels are no multiple of {step(encoder)}. "
            "Export this encoder to torch or onnx."
        )
    write_tensors(folder / "model.safetensors", encoder.trunk.state_dict())
    write_json(
        folder / "config.json",
        {
            "architecture": encoder.arch.partition(".")[0],  # without timm's tag of the published weights
            "num_classes": 0,
            "num_features": encoder.width,
            "model_args": _arguments(encoder),
            "norm_eps": encoder.kwargs.get("norm_eps"),  # which timm has no argument for
            "pretrained_cfg": _weights_card(encoder),
        },
    )


def _weights_card(encoder: Encoder) -> dict:
    """What timm wants to know of weights: how inputs are prepared, and which layers to adapt for other inputs."""
    i, published = encoder.inputs, encoder.trunk.pretrained_cfg
    return {
        "num_classes": 0,
        "input_size": [i.channels, i.size, i.size],
        "fixed_input_size": published.get("fixed_input_size", False),
        "mean": list(i.mean),
        "std": list(i.std),
        "interpolation": i.interpolation,
        "crop_pct": i.crop,
        "first_conv": published.get("first_conv") if i.channels == 3 else None,  # timm adapts from three channels
        "classifier": published.get("classifier"),
    }


def read(folder: Path):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if eps := read_json(folder / "config.json")["norm_eps"]:
        set_norm_eps(model, eps)
    return model


def usage(encoder: Encoder) -> str:
    i = encoder.inputs
    arguments = "".join(f", {name}={value!r}" for name, value in _arguments(encoder).items())
    features = f"features = encoder(torch.zeros(1, {i.channels}, {i.size}, {i.size}))"
    if eps := encoder.kwargs.get("norm_eps"):
        features = f"""for norm in encoder.modules():  # which timm makes with 1e-5
    if isinstance(norm, torch.nn.LayerNorm):
        norm.eps = {eps}
{features}"""
    return f"""import timm, torch
encoder = timm.create_model("local-dir:.", pretrained=True).eval()
{features}
```

Or from the weights alone:

```python
encoder = timm.create_model({encoder.arch!r}, checkpoint_path="model.safetensors", num_classes=0{arguments}).eval()
{features}"""


def _arguments(encoder: Encoder) -> dict:
    """Those that timm's model takes."""
    return {name: value for name, value in encoder.kwargs.items() if name != "norm_eps"}
