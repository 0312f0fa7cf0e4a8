"""The encoder of DALL-E's discrete VAE as OpenAI released it, read without running anything that the file asks for."""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tacit.errors import DataError


class _Shell:
    """Takes the place of every module that the released file, a pickled model, names: attributes and no behaviour."""


# The released file names these; nothing of them is needed but what they hold.
SHELLS = (
    "dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
)  # fmt: skip


def read_released(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `DVAEEncoder` takes, with "vocabulary", and tensors under the names of `tokenizers.DVAE`.

    Args:
        path: encoder.pkl as released, or its state dict as .pt, .pth or .safetensors.

    Raises:
        DataError: the file cannot be read safely, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([(_Shell, name) for name in SHELLS]):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read safely as DALL-E's encoder ({type(error).__name__}: {str(error)[:120]}). If you "
            "trust it, load it yourself and save its state dict: torch.save(model.state_dict(), 'encoder.pt')"
        ) from error
    state = dict(_tensors(found)) if isinstance(found, _Shell) else found
    if not isinstance(state, dict) or not {"blocks.input.w", "blocks.output.conv.w"} <= state.keys():
        held = ", ".join(itertools.islice(map(str, state), 3)) if isinstance(state, dict) else type(state).__name__
        raise DataError(f"{path} does not hold DALL-E's encoder: there is no blocks.input.w (but {held}).")
    places = {m.groups() for n in state if (m := re.match(r"blocks\.group_(\d+)\.block_(\d+)\.", n))}
    made = {
        "in_chans": state["blocks.input.w"].shape[1],
        "hidden": state["blocks.input.w"].shape[0],
        "blocks": max((int(block) for _, block in places), default=0),
        "stride": 2 ** (len({group for group, _ in places}) - 1),
        "vocabulary": state["blocks.output.conv.w"].shape[0],
    }
    return made, {_ours(name): value.float() for name, value in state.items()}


def _ours(name: str) -> str:
    name = re.sub(r"\.(w|b)$", lambda m: {"w": ".weight", "b": ".bias"}[m[1]], name)
    return re.sub(r"^blocks\.output\.conv\.", "codes.", name) if "output" in name else f"trunk.{name}"


def _tensors(shell: _Shell, prefix: str = ""):
    """(name, tensor) of every parameter, as a module's `named_parameters`."""
    for name, value in vars(shell).get("_parameters", {}).items():
        if value is not None:
            yield prefix + name, value.detach()
    for name, inner in vars(shell).get("_modules", {}).items():
        if isinstance(inner, _Shell):
            yield from _tensors(inner, f"{prefix}{name}.")
