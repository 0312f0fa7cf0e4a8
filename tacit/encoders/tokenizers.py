"""Discrete names for the patches of a picture: what BEiT, CAE and their kin predict in the place of pixels.

A run of `dvae` keeps one in its folder `tokenizer/`: tokenizer.json says what it is, tokenizer.safetensors holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tacit.encoders.build import SMALL
from tacit.encoders.dalle import read_released
from tacit.encoders.dvae import MEAN, STD, DVAEEncoder
from tacit.encoders.kmeans import kmeans
from tacit.encoders.storage import write_tensors
from tacit.errors import BadSettings, DataError
from tacit.heads import DVAEDecoder, convolution
from tacit.run import read_json, write_json
from tacit.views import Inputs, input_spec

FORMAT = 1
MADE = ("in_chans", "hidden", "blocks", "stride")
FILES = (".pkl", ".pt", ".pth", ".safetensors")
PATCHES_A_CODE = 16  # that k-means looks at


class Tokenizer(nn.Module):
    """`tokenizer(x)`: [B, C, H, W], prepared by its `inputs` -> codes [B, H / stride, W / stride], each of 0 to
    `outputs` - 1."""

    def __init__(self, inputs: Inputs, stride: int, vocabulary: int):
        super().__init__()
        self.inputs, self.stride, self.outputs = inputs, stride, vocabulary

    def look(self, images: Iterable[Tensor]) -> None:
        """Learn from prepared pictures [B, C, H, W] what is to be learned before it is used."""

    @property
    def decodes(self) -> bool:
        """Whether there is a way back."""
        return True

    def decode(self, codes: Tensor) -> Tensor:
        """A picture [B, C, H, W] in [0, 1] of codes [B, h, w]."""
        raise NotImplementedError


class PatchCodes(Tokenizer):
    """The number of the centre that lies nearest to a patch of pixels; centres are found by k-means, in `look`.

    Until then they are drawn from a normal distribution, which tells patches apart, if badly.
    """

    def __init__(self, inputs: Inputs, stride: int, vocabulary: int):
        super().__init__(inputs, stride, vocabulary)
        self.register_buffer("centres", torch.randn(vocabulary, inputs.channels * stride**2))

    def patches(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, h, w, C stride stride]."""
        p = self.stride
        return x.float().unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).flatten(3)

    def look(self, images: Iterable[Tensor]) -> None:
        """Raises BadSettings where pictures hold fewer different patches than there are to be codes."""
        found, count = [], 0
        for batch in images:
            found.append(self.patches(batch).flatten(0, 2))
            count += len(found[-1])
            if count >= PATCHES_A_CODE * self.outputs:
                break
        patches = torch.cat(found)
        different = len(patches.unique(dim=0))
        if different < self.outputs:
            raise BadSettings(
                [
                    f"vocabulary = {self.outputs}: k-means found {different:,} different patches in the pictures it "
                    f"looked at, and every code needs one. Set vocabulary={max(different // PATCHES_A_CODE, 2)}."
                ]
            )
        self.centres.copy_(kmeans(patches, self.outputs))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x)
        with torch.autocast(x.device.type, enabled=False):  # in bf16 near centres are told apart by chance
            near = (self.centres.square().sum(1) - 2 * patches.flatten(0, 2) @ self.centres.T).argmin(1)
        return near.view(patches.shape[:3])

    def decode(self, codes: Tensor) -> Tensor:
        x = self.centres[codes].unflatten(3, (-1, self.stride, self.stride))  # [B, h, w, C, p, p]
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (self.inputs.mean, self.inputs.std))
        return (x * std + mean).clamp(0, 1)


class DVAE(Tokenizer):
    """The most likely code of a discrete VAE (Ramesh et al. 2021, DALL-E).

    Args:
        trunk, codes: the encoder, and the 1x1 convolution that turns its map into logits [B, vocabulary, h, w].
        decoder: where it is there, codes can be turned back into pictures.
    """

    def __init__(self, trunk: DVAEEncoder, codes: nn.Conv2d, decoder: DVAEDecoder | None, inputs: Inputs):
        super().__init__(inputs, trunk.made["stride"], codes.out_channels)
        self.trunk, self.codes, self.decoder = trunk, codes, decoder

    def logits(self, x: Tensor) -> Tensor:
        return self.codes(self.trunk.forward_features(x)).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).argmax(1)

    @property
    def decodes(self) -> bool:
        return self.decoder is not None

    def decode(self, codes: Tensor) -> Tensor:
        picked = nn.functional.one_hot(codes, self.outputs).permute(0, 3, 1, 2).float()
        return (self.decoder.pixels(picked) * STD + MEAN).clamp(0, 1)


def dvae_inputs(size: int, channels: int, interpolation: str = "bilinear") -> Inputs:
    """0.8 x + 0.1 of pixels in [0, 1] (DALL-E)."""
    return input_spec(size, channels, (MEAN,) * channels, (STD,) * channels, interpolation)


def dvae_parts(trunk: DVAEEncoder, vocabulary: int) -> tuple[nn.Conv2d, DVAEDecoder]:
    """What belongs to a trunk: the convolution to codes, and the decoder that mirrors it."""
    made = trunk.made
    how = {"hidden": made["hidden"], "blocks": made["blocks"], "stride": made["stride"]}
    return convolution(trunk.num_features, vocabulary, 1), DVAEDecoder(vocabulary, made["in_chans"], **how)


def dvae_stride(name: str) -> int | None:
    """Pixels of a code's side of the encoder of that name; None if it is that of no discrete VAE."""
    arch, made = SMALL.get(name, (name, {}))
    return made.get("stride", 8) if arch == "dall_e_dvae" else None


def save_tokenizer(tokenizer: DVAE, folder: Path) -> None:
    """Write tokenizer.safetensors and tokenizer.json, each whole or not at all."""
    write_tensors(folder / "tokenizer.safetensors", tokenizer.state_dict())
    about = {"format": FORMAT, "vocabulary": tokenizer.outputs, "trunk": tokenizer.trunk.made}
    write_json(folder / "tokenizer.json", about | {"inputs": tokenizer.inputs.to_dict()})


def build_tokenizer(what: str, *, size: int, grid: int, channels: int, vocabulary: int) -> Tokenizer:
    """A tokeniser that names grid x grid patches of pictures of `size` pixels.

    Args:
        what: "kmeans" for one that `look` is still to fit, of `vocabulary` codes; a run, or a run's `tokenizer/`; or a
            file with the weights of DALL-E's encoder.

    Raises:
        BadSettings: nothing there, or another grid or number of channels. DataError: a damaged one.
    """
    if what == "kmeans":
        made: Tokenizer = PatchCodes(input_spec(size, channels, interpolation="lanczos"), size // grid, vocabulary)
    elif (folder := _folder(what)) is not None:
        made = _load(folder)
    elif Path(what).is_file():
        made = _released(Path(what), size)
    else:
        raise BadSettings(tokenizer_problems(what, size=size, grid=grid))
    if found := _misfits(what, made.stride, made.inputs.channels, size=size, grid=grid, channels=channels):
        raise BadSettings(found)
    made.inputs = Inputs(size, channels, made.inputs.mean, made.inputs.std, "lanczos")
    return made


def tokenizer_problems(what: str, *, size: int, grid: int, channels: int | None = None) -> list[str]:
    """Why there is no such tokeniser, or none that names grid x grid patches of `size` pixels; empty when there is."""
    if what == "kmeans":
        return [] if size % grid == 0 else [f"token_size = {size}: {_multiple(grid, size)}"]
    if (folder := _folder(what)) is not None:
        about = _about(folder)
        return _misfits(
            what, about["trunk"]["stride"], about["trunk"]["in_chans"], size=size, grid=grid, channels=channels
        )
    if not Path(what).exists():
        return [
            f"tokenizer = {what}: does not exist. Give a run of dvae, the file of DALL-E's encoder, or kmeans, which "
            "needs none."
        ]
    if Path(what).is_dir():
        return [
            f"tokenizer = {what}: holds no tokenizer/tokenizer.json. Train one with: "
            f"tacit pretrain dvae --data … --out {what}"
        ]
    if Path(what).suffix not in FILES:
        return [f"tokenizer = {what}: must be a folder, or a file that ends in {', '.join(FILES)}."]
    return []


def _misfits(what: str, stride: int, has: int, *, size: int, grid: int, channels: int | None) -> list[str]:
    found = []
    if size != grid * stride:
        found.append(
            f"token_size = {size}: the codes of {what} are of {stride} x {stride} pixels, {size / stride:g} to a side, "
            f"and there are {grid} patches to a side. Set token_size={grid * stride}."
        )
    if channels is not None and has != channels:
        found.append(f"channels = {channels}: {what} reads pictures of {has}. Set channels={has}.")
    return found


def _multiple(grid: int, size: int) -> str:
    below, above = size // grid * grid, (size // grid + 1) * grid
    return (
        f"each of the {grid} patches to a side gets a code, and {size} = {size // grid} x {grid} + {size % grid}. "
        f"Set token_size={f'{below} or ' if below else ''}{above}."
    )


def _folder(what: str) -> Path | None:
    return next((f for f in (Path(what) / "tokenizer", Path(what)) if (f / "tokenizer.json").is_file()), None)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = read_json(folder / "tokenizer.json")
        if about["format"] > FORMAT:
            raise DataError(f"{folder} was written by a later version of Tacit. Update with: pip install -U tacit")
        return about | {"trunk": {name: int(about["trunk"][name]) for name in MADE}}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'tokenizer.json'} is damaged ({error}). Copy the folder again.") from error


def _load(folder: Path) -> DVAE:
    about = _about(folder)
    try:
        trunk = DVAEEncoder(**about["trunk"])
        made = DVAE(trunk, *dvae_parts(trunk, int(about["vocabulary"])), Inputs.from_dict(about["inputs"]))
        made.load_state_dict(load_file(folder / "tokenizer.safetensors"))
    except (KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole tokeniser: {str(error)[:300]}. Copy the folder again.") from error
    return made


def _released(path: Path, size: int) -> DVAE:
    made, state = read_released(path)
    vocabulary = made.pop("vocabulary")
    trunk = DVAEEncoder(**made)
    codes = convolution(trunk.num_features, vocabulary, 1)
    found = DVAE(trunk, codes, None, dvae_inputs(size, made["in_chans"]))
    try:
        found.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{path} does not hold DALL-E's encoder: {str(error)[:300]}") from error
    return found
