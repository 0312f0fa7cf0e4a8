"""The levels of a set: those of the whole, of what was recorded alone, and none of what cannot be read."""

import numpy as np
import pytest
import soundfile
import torch

from tacit.data import open_source
from tacit.errors import DataError
from tacit.views import kaldi_fbank, kaldi_inputs, levels

INPUTS = kaldi_inputs(frames=50, mels=16, rate=8000, mean=3.0, std=7.0)


def write(folder, name, wave):
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, wave, 8000)


def test_they_are_of_all_frames_that_were_recorded(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for number, (loud, samples) in enumerate(((0.01, 2000), (0.1, 3000), (0.5, 4120))):  # the last is as long as INPUTS
        wave = (loud * rng.uniform(-1, 1, samples)).astype(np.float32)
        write(tmp_path / "set", f"{number}.wav", wave)
        wave = soundfile.read(tmp_path / "set" / f"{number}.wav", dtype="float32")[0]
        found.append(kaldi_fbank(torch.from_numpy(wave)[None], 8000, mels=16).flatten())
    (tmp_path / "set" / "broken.wav").write_bytes(b"RIFF")
    wanted = torch.cat(found).double()
    assert levels(open_source(tmp_path / "set"), INPUTS) == pytest.approx(
        (float(wanted.mean()), float(wanted.std(correction=0))), abs=1e-4
    )


def test_of_long_recordings_it_is_the_middle_and_of_the_shortest_one_frame(tmp_path):
    wave = np.concatenate([np.zeros(8000), 0.3 * np.sin(np.arange(4120) * 0.9), np.zeros(8000)])
    write(tmp_path / "long", "a.wav", wave)
    middle = soundfile.read(tmp_path / "long" / "a.wav", dtype="float32")[0][8000:12120]
    wanted = kaldi_fbank(torch.from_numpy(middle)[None], 8000, mels=16)
    assert levels(open_source(tmp_path / "long"), INPUTS)[0] == pytest.approx(float(wanted.mean()), abs=1e-4)
    write(tmp_path / "short", "a.wav", 0.3 * np.sin(np.arange(90) * 0.9))  # less than a frame
    mean, deviation = levels(open_source(tmp_path / "short"), INPUTS)
    assert np.isfinite([mean, deviation]).all()


def test_none_that_can_be_read_is_an_error(tmp_path):
    write(tmp_path / "set", "a.wav", np.zeros(4000))
    with pytest.raises(DataError, match="levels are unknown"):
        levels(open_source(tmp_path / "set"), INPUTS)
