"""Speech models of transformers that take the waveform (wav2vec 2.0, HuBERT, WavLM, XLS-R, …), from a local folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from tacit.encoders.encoder import Encoder
from tacit.encoders.foreign import CARD, Foreign, transformers_library
from tacit.errors import DataError, UsageError
from tacit.run import read_json
from tacit.views import WaveInputs, sound_lengths

SECONDS = 10.0  # of a recording that are heard at most
ROWS = 8  # that go through together where no gradient is wanted: transformers' first layers are wide


class Speech(Foreign):
    """A speech model behind our protocol: waveforms [B, 1, n] as `WaveInputs` prepares them -> [B, width].

    The feature is the mean over the valid frames of the last layer. Nothing in it depends on the other recordings of
    the batch: a model that was trained with an attention mask gets one, and one that was not (its first layer
    normalises over time, padding included) runs on recordings of equal length together.
    """

    def __init__(self, model: nn.Module, inputs: WaveInputs, masked: bool):
        about = json.loads(model.config.to_json_string())
        name = f"transformers:{model.config.model_type}"
        super().__init__(_Trunk(model, masked), name=name, arch=name, kwargs=about, norm="ln", inputs=inputs)

    @property
    def can(self) -> frozenset[str]:
        return frozenset()

    @property
    def feature(self) -> str:
        return "mean of the valid frames of the last layer" + ("" if self.trunk.masked else ", without attention mask")

    def fresh(self) -> Encoder:
        model = transformers_library().AutoModel.from_config(self.trunk.model.config)
        return Speech(model, self.inputs, self.trunk.masked)

    def freeze_front(self) -> None:
        """Let no training reach the convolutions that make frames of samples."""
        front = self.trunk.model.feature_extractor
        front.requires_grad_(False)
        front._requires_grad = False  # else transformers asks for gradients with respect to the sound

    def cards(self) -> dict[str, dict[str, Any]]:
        """What lies beside the weights in a folder that `read_speech` reads, by file name."""
        card = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_value": 0.0,
            "sampling_rate": self.inputs.rate, "do_normalize": self.inputs.normalise,
            "return_attention_mask": self.trunk.masked, "seconds": self.inputs.seconds,
        }  # fmt: skip
        return {"config.json": self.kwargs, CARD: card}


class _Trunk(nn.Module):
    def __init__(self, model: nn.Module, masked: bool):
        super().__init__()
        self.model, self.masked, self.num_features = model, masked, model.config.hidden_size
        self.layers = tuple(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
        self.least = 1  # samples that make one frame
        for kernel, stride in reversed(self.layers):
            self.least = (self.least - 1) * stride + kernel

    def frames(self, lengths: Tensor) -> Tensor:
        """Frames of so many samples [B], at least one."""
        for kernel, stride in self.layers:
            lengths = (lengths - kernel) // stride + 1
        return lengths.clamp_min(1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, n] -> [B, D]."""
        x = x[:, 0]
        lengths = sound_lengths(x)
        x = F.pad(x, (0, max(self.least - x.shape[1], 0)))
        if torch.is_grad_enabled():
            return self._pooled(x, lengths)
        return torch.cat([self._pooled(*part) for part in zip(x.split(ROWS), lengths.split(ROWS), strict=True)])

    def _pooled(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.masked:
            mask = torch.arange(x.shape[1], device=x.device) < lengths.clamp_min(self.least)[:, None]
            y = self.model(input_values=x, attention_mask=mask.long()).last_hidden_state
            frames = self.frames(lengths)[:, None]
            inside = torch.arange(y.shape[1], device=x.device) < frames
            return (y.float() * inside[..., None]).sum(1) / frames
        parts, order = [], []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            y = self.model(input_values=x[rows, : max(length, self.least)]).last_hidden_state
            parts.append(y.float().mean(1))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def forward_features(self, x: Tensor) -> Tensor:
        raise UsageError("Of a speech model of transformers the pooled feature alone is taken. Leave feature out.")


def is_speech(config: dict[str, Any]) -> bool:
    """Whether a model's config.json is of one that hears waveforms by convolutions."""
    return "conv_kernel" in config and "conv_stride" in config and isinstance(config["conv_kernel"], list)


def read_speech(folder: Path) -> Speech:
    """A model that `save_pretrained` wrote, with the `preprocessor_config.json` of its feature extractor.

    Weights are read from safetensors alone, and no code that lies beside them is run.

    Raises:
        DataError: no weights, not all, or no description of the inputs. UsageError: no encoder of waveforms, or one
            with an adapter above it. MissingExtra: transformers is not installed.
    """
    library = transformers_library()
    inputs, masked = _inputs_of(folder)
    shown = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()
    try:
        model, loaded = library.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no model that transformers can load from model.safetensors: {str(error)[:300]} A folder "
            "with pytorch_model.bin alone: load it where you trust it and save_pretrained(folder) again."
        ) from error
    finally:
        if shown:
            library.utils.logging.enable_progress_bar()
    # Only pre-training hides spans behind this vector, and fine-tuned models come without it.
    if missing := sorted(name for name in loaded["missing_keys"] if not name.endswith("masked_spec_embed")):
        raise DataError(
            f"{folder / 'model.safetensors'} lacks {len(missing)} of the model's weights, {missing[0]} first; they "
            "would be random. Save the whole model again."
        )
    if model.main_input_name != "input_values":
        raise UsageError(
            f"{folder} holds a {type(model).__name__}, which takes {model.main_input_name} and no waveform. "
            "Give wav2vec2, HuBERT, WavLM, XLS-R or another that takes input_values."
        )
    if getattr(model.config, "add_adapter", False):
        raise UsageError(f"{folder} has an adapter above its encoder (add_adapter). Save the model without it.")
    model.config.apply_spec_augment = False  # a setting of pre-training, which refuses sounds of a few frames
    return Speech(model, inputs, masked).eval()


def _inputs_of(folder: Path) -> tuple[WaveInputs, bool]:
    """What the feature extractor does, as ours, and whether the model is given an attention mask."""
    card = read_json(folder / CARD)
    if card is None:
        raise DataError(
            f"{folder} does not say how its inputs are prepared (no {CARD}). Save the model's feature extractor "
            "there: AutoFeatureExtractor.from_pretrained(…).save_pretrained(folder)"
        )
    try:
        rate, seconds = int(card["sampling_rate"]), float(card.get("seconds", SECONDS))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / CARD} does not say the sampling_rate of the inputs ({error}).") from error
    group = read_json(folder / "config.json").get("feat_extract_norm") == "group"
    masked = bool(card.get("return_attention_mask", not group))
    return WaveInputs(rate, seconds, bool(card.get("do_normalize", True))), masked
