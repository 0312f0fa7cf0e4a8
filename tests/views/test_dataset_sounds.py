import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tacit.data import Batches, note_rates, open_source
from tacit.errors import DataError
from tacit.views import Crop, Excerpt, Plain, Views, collate, field_of, finish, input_spec, kaldi_inputs, shown

INPUTS = kaldi_inputs(frames=24, mels=16)  # 0.255 s of sound at 16,000 Hz
VIEWS = [Excerpt(INPUTS, name="a"), Excerpt(INPUTS, name="b", roll=0.5)]


def epoch(folder, workers: int) -> list:
    source = open_source(folder)
    batches = Batches(source, batch_size=8, seed=5, total_steps=3)
    loader = DataLoader(Views(source, VIEWS, 5), batch_sampler=batches, num_workers=workers, collate_fn=collate)
    return [(b["index"], finish(b, VIEWS)) for b in loader]


def test_any_number_of_workers_gives_the_same_excerpts(tones):
    alone = epoch(tones, 0)
    for (index, views), (other, others) in zip(alone, epoch(tones, 2), strict=True):
        assert torch.equal(index, other)
        for view, again in zip(views, others, strict=True):
            assert view["image"].shape == (8, 1, 24, 16)
            assert torch.equal(view["image"], again["image"])


def test_a_view_is_the_piece_of_the_record_that_was_drawn(tones):
    source = open_source(tones)
    sample = Views(source, VIEWS, 0)[(0, 7)]
    assert sample["crops"][0].shape == (1, INPUTS.samples)
    assert sample["params"][0] != sample["params"][1]
    assert sample["label"] == 0
    recording = source[7]["audio"]
    whole = recording.crops([VIEWS[0].cut({"start": 0, "shift": 0})._replace(samples=8000)])[0]
    start = sample["params"][0]["start"]
    np.testing.assert_array_equal(sample["crops"][0][0], whole[0, start : start + INPUTS.samples])
    batch = collate([sample, sample])
    assert batch["views"][0]["image"].shape == (2, 1, INPUTS.samples)
    want = INPUTS.prepare(torch.from_numpy(sample["crops"][0])[None])
    torch.testing.assert_close(finish(batch, VIEWS)[0]["image"][:1], want)


def test_broken_sounds_are_replaced_and_reported(tones, tmp_path):
    folder = shutil.copytree(tones, tmp_path / "copy")
    broken = folder / "high" / "000.wav"
    broken.write_bytes(b"<html>")
    source = open_source(folder)
    data = Views(source, VIEWS, 0)
    for _ in range(2):
        sample = data[(0, 0)]
        assert sample["index"] != 0
        assert sample["bad"] == [(0, "high/000.wav", "not a sound (looks like HTML or XML)")]
    plain = Plain(source, INPUTS)
    batch = Plain.collate([plain[i] for i in range(3)])
    assert batch["image"].shape == (2, 1, INPUTS.samples)
    assert batch["bad"] == [(0, "not a sound (looks like HTML or XML)")]
    source.check(1)


def test_plain_records_are_the_middle_of_recordings(tones):
    source = open_source(tones)
    (want,) = source[3]["audio"].crops([INPUTS.centre(4000, 8000)])
    np.testing.assert_array_equal(Plain(source, INPUTS)[3]["image"], want)
    assert field_of(INPUTS) == "audio"
    assert field_of(input_spec(16)) == "image"


def test_methods_and_encoders_of_the_other_kind_are_refused(tones, digits):
    crop, pixels = Crop(inputs=input_spec(16, channels=1)), input_spec(16, channels=1)
    sounds, pictures = open_source(tones), open_source(digits, channels=1)
    with pytest.raises(DataError, match=r"train holds images, and the method learns from sounds.*docs/audio.md"):
        Views(pictures, VIEWS, 0)
    with pytest.raises(DataError, match=r"train holds sounds, and the method learns from images.*--modality audio"):
        Views(sounds, [crop], 0)
    with pytest.raises(DataError, match="holds images, and the encoder looks at sounds"):
        Plain(pictures, INPUTS)
    with pytest.raises(DataError, match="holds sounds, and the encoder looks at images"):
        Plain(sounds, pixels)


def test_what_becomes_of_other_rates_is_said_once(tones, tmp_path):
    import soundfile

    source = open_source(tones)
    said = "Sounds are resampled from 8,000 Hz to 16,000 Hz; of those with less, nothing is above 4,000 Hz."
    assert note_rates(source, 16000) == [said]
    assert note_rates(source, 16000) == []
    assert source.notes == [said]
    assert note_rates(open_source(tones), 8000) == []
    soundfile.write(tmp_path / "stereo.wav", np.random.default_rng(0).normal(0, 0.1, (500, 2)), 44100)
    (tmp_path / "not.wav").write_bytes(b"")
    notes = note_rates(open_source(tmp_path), 16000)
    assert notes == ["Sounds are resampled from 44,100 Hz to 16,000 Hz.", "Of several channels the mean is taken."]


def test_spectrograms_are_shown_with_time_to_the_right_and_low_notes_below():
    x = torch.zeros(1, 1, 4, 3)
    x[0, 0, 3, 0] = 1.0  # the last frame's lowest band
    x[0, 0, 1, 2] = 0.5
    pixels = shown(x, INPUTS)
    assert pixels.shape == (1, 1, 3, 4)
    assert pixels.dtype == torch.uint8
    assert pixels[0, 0, 2, 3] == 255
    assert pixels[0, 0, 0, 1] > 100
    assert pixels.sum() == int(pixels[0, 0, 2, 3]) + int(pixels[0, 0, 0, 1])
    half = shown(x / 2, INPUTS, like=x)  # beside x, as bright as it is
    assert 100 < half[0, 0, 2, 3] < 150
    flat = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    spec = input_spec(4)
    torch.testing.assert_close(shown(spec.prepare(flat), spec), (flat * 255).round().byte())
