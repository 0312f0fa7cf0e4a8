"""Encoders that others made: models of transformers, and folders that timm saved. They can be scored like our own."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tacit.encoders.encoder import Encoder, set_drop_path
from tacit.errors import DataError, MissingExtra, UsageError
from tacit.run import read_json
from tacit.views import Inputs

# Models whose last norm has a class token at its head, and how many tokens stand before the patches.
CLASS_TOKEN = {"vit": 1, "deit": 2, "vit_msn": 1, "dinov2": 1, "dinov2_with_registers": 1, "dinov3_vit": 1}
CARD = "preprocessor_config.json"


class Foreign(Encoder):
    """An encoder whose trunk timm did not build. It can be evaluated; there is no encoder folder of it to write."""

    def fresh(self) -> Encoder:
        """The same architecture and inputs with fresh weights."""
        raise UsageError(f"{self.name} does not say of what architecture it is.")


class Transformers(Foreign):
    """A vision model of transformers, with its own weights and code.

    The pooled feature is the class token after the last norm where there is one, otherwise the model's
    `pooler_output`, or the mean of its tokens where it has neither.
    """

    def __init__(self, model: nn.Module, inputs: Inputs):
        about = json.loads(model.config.to_json_string())
        name = f"transformers:{model.config.model_type}"
        super().__init__(_Trunk(model, inputs), name=name, arch=name, kwargs=about, norm="ln", inputs=inputs)

    @property
    def can(self) -> frozenset[str]:
        return frozenset(["tokens"])

    @property
    def feature(self) -> str:
        return "class token after the last norm" if self.trunk.has_class_token else "transformers' pooled output"

    def fresh(self) -> Encoder:
        return Transformers(transformers_library().AutoModel.from_config(self.trunk.model.config), self.inputs)


class _Trunk(nn.Module):
    """A model of transformers under the names that timm's trunks have."""

    def __init__(self, model: nn.Module, inputs: Inputs):
        super().__init__()
        config = model.config
        self.has_class_token = config.model_type in CLASS_TOKEN
        others = any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters())
        before = CLASS_TOKEN.get(config.model_type, int(others))
        self.num_prefix_tokens = before + getattr(config, "num_register_tokens", 0)
        if self.has_class_token and isinstance(getattr(model, "pooler", None), nn.Module):
            model.pooler = None  # a layer of its own above the class token, often one that was never trained
        self.model = model
        other_size = getattr(config, "image_size", inputs.size) != inputs.size
        able = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if other_size and able else {}
        training = model.training
        with torch.no_grad():
            pooled = self.eval()(torch.zeros(1, inputs.channels, inputs.size, inputs.size))
        self.num_features = int(pooled.shape[1])
        self.train(training)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the last norm, or a map [B, D, H, W]."""
        found = self.model(pixel_values=x, **self.options)
        tokens = found.last_hidden_state
        # What pools is of another name and form in every model, so its output goes along with what it was made of.
        tokens.pooled = None if self.has_class_token else getattr(found, "pooler_output", None)
        return tokens

    def forward_head(self, tokens: Tensor) -> Tensor:
        """[B, D] of what `forward_features` gave."""
        if tokens.pooled is not None:
            return tokens.pooled.flatten(1)
        if self.has_class_token:
            return tokens[:, 0]
        return tokens[:, self.num_prefix_tokens :].mean(1) if tokens.ndim == 3 else tokens.mean((2, 3))


def read_transformers(folder: Path) -> Transformers:
    """A model that `save_pretrained` wrote, with the `preprocessor_config.json` of its image processor.

    A processor that squeezes whole pictures into a square is taken for one that cuts their central square: pictures
    that are square already are prepared alike.

    Raises:
        DataError: no weights or no description of the inputs. UsageError: no vision model. MissingExtra.
    """
    library = transformers_library()
    inputs = inputs_of(folder)
    shown = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()
    try:
        model = library.AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no model that transformers can load: {str(error)[:300]}") from error
    finally:
        if shown:
            library.utils.logging.enable_progress_bar()
    if model.main_input_name != "pixel_values":
        raise UsageError(
            f"{folder} holds a {type(model).__name__}, which takes {model.main_input_name} and no pictures. Of a model "
            "with two towers save the vision model alone."
        )
    return Transformers(model, inputs).eval()


def transformers_library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("A model of transformers", "transformers", "export") from error
    return transformers


def inputs_of(folder: Path) -> Inputs:
    """What the image processor does, as ours."""
    card, config = read_json(folder / CARD), read_json(folder / "config.json")
    if card is None:
        raise DataError(
            f"{folder} does not say how its inputs are prepared (no {CARD}). Save the model's image processor there: "
            "AutoImageProcessor.from_pretrained(…).save_pretrained(folder)"
        )
    try:
        cut = bool(card.get("do_center_crop"))
        size = _side(card["crop_size"] if cut else card["size"])
        short = _side(card["size"]) if cut and card.get("do_resize", True) else size
        plain = card.get("do_normalize") is False
        channels = config.get("num_channels") or len(card["image_mean"])
        mean = (0.0,) * channels if plain else tuple(map(float, card["image_mean"]))
        std = (1.0,) * channels if plain else tuple(map(float, card["image_std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / CARD} does not say size, mean and deviation of the inputs ({error}).") from error
    factor = card.get("rescale_factor") or 1 / 255
    if card.get("do_rescale") is False or abs(factor * 255 - 1) > 1e-3 or not len(mean) == len(std) == channels:
        raise DataError(
            f"{folder / CARD} asks for values other than 0 to 1 before the mean is taken off, or not for one mean and "
            f"deviation for each of the {channels} channels; Tacit prepares no such inputs."
        )
    how = "bicubic" if card.get("resample") in (1, 3) else "bilinear"
    return Inputs(size, channels, mean, std, how, crop=min(size / short, 1.0))


def _side(size: Any) -> int:
    """The one number in 224, {"shortest_edge": 256} or {"height": 224, "width": 224}."""
    values = {int(v) for v in (size.values() if isinstance(size, dict) else [size])}
    if len(values) != 1:
        raise ValueError(f"{size} is no square")
    return values.pop()


def read_timm(folder: Path) -> Encoder:
    """A folder that timm saved: config.json with its architecture, and the weights; a classifier is left out."""
    about = read_json(folder / "config.json")
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in (about.get("model_args") or {}).items()}
    made.pop("num_classes", None)
    card = about.get("pretrained_cfg") or about
    try:
        channels, size, _ = card["input_size"]
        inputs = Inputs(
            size, channels, tuple(card["mean"]), tuple(card["std"]),
            "bicubic" if card.get("interpolation") == "bicubic" else "bilinear", card.get("crop_pct") or 0.875,
        )  # fmt: skip
        trunk = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except (
        KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError
    ) as error:  # fmt: skip
        raise DataError(f"{folder} holds no model that timm can load: {str(error)[:300]}") from error
    arch = about["architecture"]
    encoder = Encoder(trunk, name=arch, arch=arch, kwargs=made, norm="ln", inputs=inputs)
    return set_drop_path(encoder, 0.0).eval()
