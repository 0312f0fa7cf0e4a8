"""Inputs of sound: what a segment is, what the encoder gets, and that it travels."""

import json

import pytest
import torch

from tacit.data.recording import Segment
from tacit.errors import UsageError
from tacit.views import Inputs, SoundInputs, inputs_from_dict, kaldi_inputs, mel_db_inputs
from tacit.views.filterbank import kaldi_fbank, mel_db


@pytest.mark.parametrize(
    ("inputs", "samples"),
    [
        (kaldi_inputs(592), 400 + 591 * 160),
        (kaldi_inputs(96, mels=64, rate=8000), 200 + 95 * 80),
        (mel_db_inputs(601), 6 * 16_000),
        (mel_db_inputs(1001), 10 * 16_000),
    ],
)
def test_a_segment_holds_just_the_rows(inputs, samples):
    assert inputs.samples == samples
    x = inputs.prepare(torch.zeros(2, 1, samples))
    assert x.shape == (2, 1, *inputs.shape) == (2, 1, inputs.frames, inputs.mels)
    assert inputs.channels == 1
    shorter = samples - round(inputs.rate * inputs.hop)
    front = mel_db if inputs.front == "mel_db" else kaldi_fbank
    how = {"mels": inputs.mels, "length": inputs.window, "low": inputs.low, "high": inputs.high}
    assert front(torch.zeros(1, samples), inputs.rate, **how).shape[1] == inputs.frames
    assert front(torch.zeros(1, shorter), inputs.rate, **how).shape[1] == inputs.frames - 1


def test_longer_sound_is_cut_and_shorter_filled_with_the_mean():
    inputs = kaldi_inputs(50)
    wave = torch.sin(torch.arange(20_000) * 0.3)[None, None]
    x = inputs.prepare(wave)
    assert torch.equal(inputs.prepare(wave[..., : inputs.samples]), x)
    short = inputs.prepare(wave[..., : inputs.samples - 1600])
    assert torch.equal(short[:, :, :40], x[:, :, :40])
    assert (short[:, :, 40:] == 0).all()


def test_values_are_scaled_as_published():
    wave = torch.sin(torch.arange(16_000) * 0.3)[None, None]
    x = kaldi_inputs(98).prepare(wave)
    assert torch.allclose(x[:, 0], (kaldi_fbank(wave[:, 0], 16_000) + 4.2677393) / (2 * 4.5689974), atol=1e-5)
    y = mel_db_inputs(101).prepare(wave)
    assert torch.allclose(y[:, 0], 2 * (mel_db(wave[:, 0], 16_000) + 79.6482) / (50.6842 + 79.6482) - 1, atol=1e-5)


def test_the_centre_of_a_recording_of_another_rate():
    inputs = mel_db_inputs(101)  # a second at 16 kHz
    assert inputs.centre(3 * 8000, 8000) == Segment(16_000, 16_000, 16_000)
    assert inputs.centre(3 * 44_100, 44_100) == Segment(16_000, 16_000, 16_000)
    assert inputs.centre(100, 8000) == Segment(0, 16_000, 16_000)
    assert inputs.seconds == 1.0


def test_inputs_of_all_kinds_survive_a_file():
    for inputs in (kaldi_inputs(592), mel_db_inputs(601), Inputs(32)):
        assert inputs_from_dict(json.loads(json.dumps(inputs.to_dict()))) == inputs
    assert kaldi_inputs(592).to_dict()["kind"] == "sound"
    assert "kind" not in Inputs(32).to_dict()
    assert Inputs(32).shape == (32, 32)


def test_what_is_not_known_is_said():
    with pytest.raises(UsageError, match="choose one of kaldi, mel_db"):
        SoundInputs.from_dict(kaldi_inputs(592).to_dict() | {"front": "mfcc"})
    with pytest.raises(UsageError, match="kind 'smell'"):
        inputs_from_dict({"kind": "smell"})
