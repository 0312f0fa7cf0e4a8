import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.data.recording import Recording
from tacit.data.transcript import Sentence, Transcript
from tacit.errors import BadRecord, DataError
from tacit.evaluation.features import plain, raw
from tacit.evaluation.windows import read_windows, windowed, windowed_features
from tacit.views import FilmInputs, Inputs, TextInputs, WaveInputs, kaldi_inputs

FILM = FilmInputs(2, 8, 2.0)
WAVE = WaveInputs(1000, 1.0, normalise=False, fixed=True)
TEXT = TextInputs(("one", "two", "three"), 2, 3)


class Reel:
    """Four seconds whose grey is 50 in each second more than in the one before."""

    extent = (8, 2.0, 8, 8)

    def crops(self, cuts):
        return [np.stack([np.full((8, 8, 3), 50 * int(t), np.uint8) for t in cut.times]) for cut in cuts]


class Records:
    fields, title, fingerprint = ("video", "audio", "text"), "clips", "f"
    labels, groups, sided = np.array([0, 1, 0]), None, None

    def __len__(self):
        return 3

    def name(self, index):
        return f"{index}.mp4"

    def record(self, index, fields):
        (field,) = fields
        if index == 1:
            return {field: None}
        if index == 2 and field == "video":
            raise BadRecord("truncated")
        wave = np.repeat(np.array([0.1, 0.2, 0.3, 0.4], np.float32), 1000)
        said = [Sentence(0.0, 1.9, "two three"), Sentence(1.9, 4.0, "one two, two")]
        return {field: {"video": Reel(), "audio": Recording(wave, 1000), "text": Transcript(said)}[field]}


def test_pieces_are_spread_over_the_record_and_what_lacks_it_is_left_out():
    bad = []
    rows = list(read_windows(lambda x: x.flatten(1).mean(1, keepdim=True), Records(), FILM, 4, bad))
    assert [number for number, _ in rows] == [0]
    grey = (rows[0][1][:, 0] + 1) / 2 * 255
    torch.testing.assert_close(grey, torch.tensor([0.0, 50.0, 100.0, 150.0]))
    assert bad == [("2.mp4", "truncated")]
    rows = list(read_windows(lambda x: x.mean(2), Records(), WAVE, 2, []))
    assert [number for number, _ in rows] == [0, 2]
    torch.testing.assert_close(rows[1][1], torch.tensor([[0.1], [0.4]]))


def test_features_are_means_over_pieces():
    torch.manual_seed(0)
    encoder = encoders.build("vatt_video_mini", inputs=FILM, patch=(1, 4, 4), depth=1).eval()
    found = windowed_features(encoder, Records(), windows=2)
    films = torch.tensor([[0.0], [150.0]])[:, :, None, None, None].expand(2, 3, 2, 8, 8).to(torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(found.x[0], encoder(FILM.prepare(films)).mean(0))
    assert found.index.tolist() == [0]
    assert found.y.tolist() == [0]
    plainly = windowed_features(encoder, Records(), windows=2, raw=True)
    torch.testing.assert_close(plainly.x, plain(FILM)(FILM.prepare(films)).mean(0)[None])


def test_raw_films_are_means_and_deviations_over_time_and_raw_words_are_counted():
    x = torch.stack([torch.full((3, 8, 8), -1.0), torch.full((3, 8, 8), 0.5)], 1)[None]  # [1, 3, 2, 8, 8]
    found = plain(FILM)(x)
    assert found.shape == (1, 2 * 3 * 64)
    assert found.unique().tolist() == [-0.25, 0.75]
    assert raw(Records(), TEXT).x.tolist() == [[1.0, 3.0, 1.0]] * 2
    large = FilmInputs(2, 64, 2.0)
    assert plain(large)(torch.zeros(1, 3, 2, 64, 64)).shape == (1, 6 * 32 * 32)


def test_the_raw_input_of_a_waveform_is_its_log_mel_statistics():
    x = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0)) / 10
    wave = WaveInputs(8000, 1.0, normalise=False, fixed=True)
    bands = wave.log_mel.prepare(x)[:, 0]
    torch.testing.assert_close(plain(wave)(x), torch.cat([bands.mean(1), bands.std(1, correction=0)], 1))


def test_who_looks_at_pieces():
    class Of:
        def __init__(self, inputs):
            self.inputs = inputs

    assert all(windowed(Of(inputs)) for inputs in (FILM, WAVE, TEXT))
    assert not any(
        windowed(Of(inputs)) for inputs in (Inputs(8, 3), kaldi_inputs(8), WaveInputs(1000, 1.0, normalise=True))
    )


def test_nothing_to_read_is_said():
    class Empty(Records):
        def record(self, index, fields):
            return {fields[0]: None}

    with pytest.raises(DataError, match="None of the 3 records of clips has video"):
        list(read_windows(lambda x: x, Empty(), FILM, 4, []))
