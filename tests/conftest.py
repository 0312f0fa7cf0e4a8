"""What tests share: two threads at most, no index in the home folder, and small real data."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def write_digits(folder: Path, count: int, size: int = 16) -> Path:
    """The first `count` of scikit-learn's digits as PNG files in class folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(count):
        pixels = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((size, size))
        target = folder / str(digits.target[i]) / f"{i:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(target)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """200 digits in ten class folders."""
    return write_digits(tmp_path_factory.mktemp("digits") / "train", 200)


def write_tones(folder: Path, count: int, rate: int = 8000, seconds: float = 0.5) -> Path:
    """Sweeps as WAV files in the class folders `low` and `high`: around 300 Hz and around 2,500 Hz."""
    import soundfile

    t = np.arange(int(rate * seconds)) / rate
    for i in range(count):
        name, start = ("low", 200) if i % 2 else ("high", 2000)
        path = folder / name / f"{i:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).normal(0, 0.01, len(t))
        soundfile.write(path, 0.4 * np.sin(2 * np.pi * (start + 10 * i + 200 * t) * t) + noise, rate)
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """40 sweeps of half a second at 8,000 Hz in two class folders."""
    return write_tones(tmp_path_factory.mktemp("tones") / "train", 40)


def write_speech_model(folder: Path, norm: str = "layer", rate: int = 8000, kind: str = "Wav2Vec2") -> Path:
    """Two narrow layers with random weights, and their feature extractor, as transformers saves them."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8, 8),
        conv_kernel=(10, 4, 4), conv_stride=(5, 4, 4), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", layerdrop=0.0,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    mask = norm == "layer"
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=mask).save_pretrained(folder)
    return folder
