"""Frozen encoders as teachers of every token, not of the picture alone (Zhang et al. 2022, CAE v2)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tacit.encoders.build import SMALL
from tacit.encoders.foreign import inputs_of, transformers_library
from tacit.encoders.storage import load
from tacit.errors import BadSettings, DataError
from tacit.run import read_json
from tacit.views import Inputs, input_spec


class TokenFeatures(nn.Module):
    """Images [B, C, H, W], prepared by its `inputs` -> features [B, 1 + N, D]: the class token's, then the patches'.

    Of CLIP they are those that the text is compared with: after the last norm and the projection, which CLIP itself
    applies to the class token alone.
    """

    decodes = False

    def __init__(self, model: nn.Module, of: Callable[[nn.Module, Tensor], Tensor], inputs: Inputs):
        super().__init__()
        self.model, self.of, self.inputs = model, of, inputs
        with torch.no_grad():
            found = self(torch.zeros(1, inputs.channels, inputs.size, inputs.size))
        self.outputs, self.patches = found.shape[2], found.shape[1] - 1

    def look(self, images: Iterable[Tensor]) -> None:
        """Nothing is to be learned."""

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self.model, x).float()


def _of_vit(trunk: VisionTransformer, x: Tensor) -> Tensor:
    tokens = trunk.forward_features(x)
    prefix = trunk.num_prefix_tokens  # registers are of no patch
    return trunk.head(torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1))


def _of_clip(model: nn.Module, x: Tensor) -> Tensor:
    tower = model.vision_model
    return model.visual_projection(tower.post_layernorm(tower(pixel_values=x).last_hidden_state))


def token_features(what: str, *, size: int, grid: int, channels: int) -> TokenFeatures:
    """The frozen encoder `what` for pictures of `size` pixels and grid x grid patches, in evaluation mode.

    Args:
        what: a timm name of a ViT, with its published weights; or a folder: of a run, of a CLIP that transformers
            saved (its vision model with projection, or the whole of it), of a ViT that timm saved.

    Raises:
        BadSettings: no ViT with a class token, or one of another size, grid or number of channels. DataError.
    """
    found = _transformers(Path(what)) if _is_clip(Path(what)) else _timm(what)
    inputs = found.inputs
    if (inputs.size, inputs.channels) != (size, channels) or found.patches != grid**2:
        raise BadSettings(
            [
                f"tokenizer = {what}: sees {inputs.size} pixels, {inputs.channels} channels and {found.patches} "
                f"patches; token_size = {size}, channels = {channels} and the encoder's {grid} x {grid} patches must "
                f"be the same. Set token_size={inputs.size}, or another patch or size."
            ]
        )
    return found.eval()


def feature_problems(what: str) -> list[str]:
    """Why there is no such encoder; empty when there may be."""
    if Path(what).is_dir() or what in SMALL or timm.is_model(what):
        return []
    return [f"tokenizer = {what}: is neither a folder nor a timm name. Features are those of a frozen encoder."]


def _is_clip(folder: Path) -> bool:
    about = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    return isinstance(about, dict) and about.get("model_type") in ("clip", "clip_vision_model")


def _transformers(folder: Path) -> TokenFeatures:
    library, inputs = transformers_library(), inputs_of(folder)
    try:
        model = library.CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no CLIP that transformers can load: {str(error)[:300]}") from error
    return TokenFeatures(model.eval(), _of_clip, inputs)


def _timm(what: str) -> TokenFeatures:
    path = Path(what)
    about = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    try:
        if "architecture" in about:
            trunk = timm.create_model(f"local-dir:{path}", pretrained=True)
        elif path.is_dir():
            encoder = load(what)
            return TokenFeatures(_vit(what, encoder.trunk), _of_vit, encoder.inputs)
        else:
            trunk = timm.create_model(what, pretrained=True)
    except (OSError, RuntimeError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(
            f"The weights of {what} cannot be had ({type(error).__name__}: {str(error)[:200]}). Check the connection, "
            "or give a folder that holds them."
        ) from error
    card = trunk.pretrained_cfg
    how = "bicubic" if card.get("interpolation") == "bicubic" else "bilinear"
    size, channels = card["input_size"][1], card["input_size"][0]
    inputs = input_spec(size, channels, tuple(card["mean"]), tuple(card["std"]), how)
    return TokenFeatures(_vit(what, trunk).eval(), _of_vit, inputs)


def _vit(what: str, trunk: nn.Module) -> VisionTransformer:
    if not isinstance(trunk, VisionTransformer) or trunk.cls_token is None:
        raise BadSettings([f"tokenizer = {what}: is no ViT with a class token, whose features are to be told."])
    return trunk
