"""Encoders of several modalities with the head in whose space they meet, on disk: what retrieval is done with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tacit.data.kinds import MODALITIES
from tacit.encoders.encoder import Encoder
from tacit.encoders.storage import load, save, write_tensors
from tacit.errors import DataError
from tacit.heads import common_space
from tacit.run import read_json, write_json

FORMAT = 1


class JointSpace(nn.Module):
    """Encoders {modality: Encoder} and their head, in evaluation mode.

    `embed("text", x, "video")` [B, D]: of prepared inputs, in the space where text meets video, not normalised: the
    paper averages the windows of a clip first and normalises then. `pairs`: the (modality, other) that were trained.
    """

    def __init__(self, encoders: Mapping[str, Encoder], head: nn.Module, pairs: list[tuple[str, str]]):
        super().__init__()
        self.encoders, self.head, self.pairs = nn.ModuleDict(encoders), head, pairs

    def embed(self, of: str, x: Tensor, other: str) -> Tensor:
        return self.meet(of, self.encoders[of](x), other)

    def meet(self, of: str, features: Tensor, other: str) -> Tensor:
        """The same of what the encoder made of inputs, [B, width]."""
        return self.head({of: features})[of, other]


def save_joint(
    run: Path, encoders: Mapping[str, Encoder], head: nn.Module, how: Mapping[str, object],
    pairs: list[tuple[str, str]],
) -> None:  # fmt: skip
    """`run/encoder` of the first of `MODALITIES` there is, `run/encoders/NAME` of the others, `run/joint` of the head.

    Args:
        how: arguments of `common_space` but for the widths.
    """
    folders = {}
    for of in (of for of in MODALITIES if of in encoders):
        folders[of] = f"encoders/{of}" if folders else "encoder"
        save(encoders[of], run / folders[of])
    write_tensors(run / "joint" / "head.safetensors", head.state_dict())
    widths = {of: encoders[of].width for of in folders}
    about = {"format": FORMAT, "encoders": folders, "widths": widths, "head": dict(how), "pairs": pairs}
    write_json(run / "joint" / "joint.json", about)


def load_joint(run: str | os.PathLike) -> JointSpace:
    """What `save_joint` left in a run folder. Raises `DataError` where there is nothing, or something damaged."""
    run = Path(run)
    path = run / "joint" / "joint.json"
    try:
        about = read_json(path)
        if about is None:
            above = next((p for p in list(run.absolute().parents)[:2] if (p / "joint" / "joint.json").is_file()), None)
            help = f"Give the run itself: {above}" if above else "A run of vatt writes one when it saves."
            raise DataError(f"{run} holds no joint space (no joint/joint.json). {help}")
        head = common_space(widths=about["widths"], **about["head"])
        head.load_state_dict(load_file(run / "joint" / "head.safetensors"))
        folders, pairs = about["encoders"], [tuple(pair) for pair in about["pairs"]]
    except (json.JSONDecodeError, OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{run / 'joint'} is damaged ({type(error).__name__}: {error}). Copy the run again.") from error
    return JointSpace({of: load(run / folder) for of, folder in folders.items()}, head, pairs).eval()
