"""Speech models of transformers behind our protocol: inputs, padding, what is refused, and there and back."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tacit import api, encoders
from tacit.errors import DataError, MissingExtra, UsageError
from tacit.evaluation import tables
from tacit.views import WaveInputs, field_of, sound_lengths
from tests.conftest import write_speech_model

transformers = pytest.importorskip("transformers")


def waves(*lengths: int, seed: int = 0) -> torch.Tensor:
    """Noise [B, 1, 4000] of these lengths, then zeros."""
    x = torch.randn(len(lengths), 1, 4000, generator=torch.Generator().manual_seed(seed)) * 0.1 + 0.05
    for row, length in zip(x, lengths, strict=True):
        row[:, length:] = 0
    return x


def test_inputs_are_prepared_as_transformers_does():
    x, inputs = waves(4000, 2500), WaveInputs(8000, 0.5, normalise=True)
    theirs = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True, return_attention_mask=True)
    expected = theirs([x[0, 0].numpy(), x[1, 0, :2500].numpy()], sampling_rate=8000, padding=True, return_tensors="pt")
    assert torch.allclose(inputs.prepare(x)[:, 0], expected["input_values"], atol=1e-5)
    assert sound_lengths(x[:, 0]).tolist() == expected["attention_mask"].sum(1).tolist()
    plain = WaveInputs(8000, 0.5, normalise=False).prepare(waves(900, 2500))
    assert plain.shape == (2, 1, 2500)  # no more than the longest
    assert torch.equal(plain[0, 0, :900], waves(900, 2500)[0, 0, :900])
    assert inputs.samples == 4000
    assert field_of(inputs) == "audio"
    assert inputs.centre(16000, 8000) == (6000, 4000, 8000, 0)


@pytest.mark.parametrize(
    ("kind", "norm"), [("Wav2Vec2", "layer"), ("Wav2Vec2", "group"), ("Hubert", "layer"), ("WavLM", "layer")]
)
def test_neither_padding_nor_neighbours_change_a_feature(kind, norm, tmp_path):
    encoder = encoders.load(write_speech_model(tmp_path, norm, kind=kind), foreign=True)
    assert encoder.trunk.masked == (norm == "layer")
    assert encoder.width == 16
    x = waves(4000, 1500, 2600, 1500)
    with torch.no_grad():
        together = encoder(encoder.inputs.prepare(x))
        alone = torch.cat(
            [
                encoder(encoder.inputs.prepare(row[None, :, :n]))
                for row, n in zip(x, (4000, 1500, 2600, 1500), strict=True)
            ]
        )
    assert together.shape == (4, 16)
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[1], together[3], atol=1e-3)
    with_gradient = encoder(encoder.inputs.prepare(x))
    assert torch.allclose(with_gradient, together, atol=1e-6)


def test_the_feature_is_the_mean_of_the_frames_that_transformers_counts(tmp_path):
    encoder = encoders.load(write_speech_model(tmp_path), foreign=True)
    trunk, x = encoder.trunk, encoder.inputs.prepare(waves(3000))
    with torch.no_grad():
        hidden = trunk.model(input_values=x[:, 0]).last_hidden_state
        assert torch.allclose(encoder(x), hidden.mean(1), atol=1e-6)
    assert trunk.frames(torch.tensor([3000])).tolist() == [hidden.shape[1]]
    assert trunk.frames(torch.tensor([trunk.least, trunk.least + 1, 3])).tolist() == [1, 1, 1]
    assert trunk.frames(torch.tensor([trunk.least + 79, trunk.least + 80])).tolist() == [1, 2]  # a stride of 5 4 4
    with torch.no_grad():
        assert torch.isfinite(encoder(encoder.inputs.prepare(waves(3)))).all()  # too short for a frame


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_the_front_can_be_frozen_and_everything_else_learns(kind, tmp_path):
    encoder = encoders.load(write_speech_model(tmp_path, kind=kind), foreign=True).train()
    encoder.freeze_front()
    encoder(encoder.inputs.prepare(waves(4000, 1500))).square().sum().backward()
    reached = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(".feature_extractor." in name for name in reached)
    assert any(".feature_projection." in name for name in reached)
    assert any(".encoder.layers.1." in name for name in reached)


def test_what_was_saved_is_what_is_read_and_what_transformers_reads(tmp_path):
    encoder = encoders.load(write_speech_model(tmp_path / "a"), foreign=True)
    encoders.save(encoder, tmp_path / "b")
    again = encoders.load(tmp_path / "b", foreign=True)
    x = waves(4000, 1000)
    with torch.no_grad():
        assert torch.equal(encoder(encoder.inputs.prepare(x)), again(again.inputs.prepare(x)))
    assert again.inputs == encoder.inputs
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "b").state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in encoder.trunk.model.state_dict().items())
    fresh = encoders.like(encoder)
    assert fresh.inputs == encoder.inputs
    assert not torch.equal(next(iter(fresh.state_dict().values())), next(iter(encoder.state_dict().values())))


def test_folders_that_cannot_be_taken_say_why(tmp_path, monkeypatch):
    folder = write_speech_model(tmp_path)
    with pytest.raises(UsageError, match="trained on labels \\(tacit finetune\\)"):
        encoders.load(folder)
    weights = (folder / "model.safetensors").rename(folder / "kept")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        encoders.load(folder, foreign=True)
    weights.rename(folder / "model.safetensors")
    card = (folder / "preprocessor_config.json").rename(folder / "card")
    with pytest.raises(DataError, match="AutoFeatureExtractor"):
        encoders.load(folder, foreign=True)
    card.rename(folder / "preprocessor_config.json")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tacit\[export\]'"):
        encoders.load(folder, foreign=True)


def test_weights_that_are_lacking_are_not_drawn_in_silence(tmp_path):
    folder = write_speech_model(tmp_path)
    state = load_file(folder / "model.safetensors")
    older = {k: v for k, v in state.items() if k != "masked_spec_embed"}
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        older = {k.replace(new, old): v for k, v in older.items()}
    assert older.keys() - state.keys()
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    found = encoders.load(folder, foreign=True).trunk.model.state_dict()  # names of older files, as published
    assert all(torch.equal(found[k], v) for k, v in state.items() if k != "masked_spec_embed")
    save_file({k: v for k, v in state.items() if ".layers.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks \d+ of the model's weights, encoder\.layers\.1\."):
        encoders.load(folder, foreign=True)


def test_code_beside_the_weights_is_not_run(tmp_path):
    folder = write_speech_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    assert encoders.load(folder, foreign=True).name == "transformers:wav2vec2"


def test_a_speech_model_can_be_scored_and_used_as_it_is(tmp_path, tones):
    folder = write_speech_model(tmp_path / "model")
    found = api.evaluate(folder, tones, protocol="knn,label_free", workers=0, cache=False)
    assert {r["of"] for r in found["results"]} == {"run", "random-init", "raw-input"}
    assert "waveforms of up to 10 s at 8,000 Hz, each of mean 0" in tables.caption_of_one(found)
    assert "mean and deviation of bands" in {cell for row in tables.table(found) for cell in row}
    assert api.embed(folder, tones, tmp_path / "x.npy", workers=0)["width"] == 16
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()
    with pytest.raises(UsageError, match="tacit finetune ENCODER"):
        api.evaluate(folder, tones, protocol="fine_tune", workers=0)


@pytest.mark.parametrize("how", ["frames", "whole"])
def test_pieces_of_recordings_are_not_read_for_waveforms(tmp_path, how):
    write_speech_model(tmp_path / "speech")
    with pytest.raises(UsageError, match=r"takes the waveform.*Without --frames and --whole"):
        api.embed(tmp_path / "speech", tmp_path, tmp_path / "x.parquet", **{how: True})
