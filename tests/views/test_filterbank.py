"""Front ends of sound against torchaudio 2.11's numbers (compliance.kaldi.fbank; MelSpectrogram and AmplitudeToDB)."""

import math

import pytest
import torch

from tacit.errors import UsageError
from tacit.views import filterbank
from tacit.views.filterbank import kaldi_fbank, mel_db


def busy(rate: int) -> torch.Tensor:
    """A second of a chirp, a tone, a roar and an offset, [1, rate]: something at every frequency."""
    i = torch.arange(rate, dtype=torch.float64)
    t = i / rate
    chirp = torch.sin(2 * math.pi * (50 * t + (rate / 2 - 100) / 2 * t * t))
    return (0.3 * chirp + 0.2 * torch.sin(2 * math.pi * 440 * t) + 0.1 * torch.sin(0.37 * i * i) + 0.05).float()[None]


def tone(hertz: float, samples: int, rate: int = 16_000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(samples, dtype=torch.float64) / rate).float()[None]


@pytest.mark.parametrize(
    ("rate", "mels", "window", "snip", "frames", "values", "mean", "spread"),
    [
        (16_000, 128, "hanning", True, 98, (-3.65349, 3.36684, -5.03121, 0.47131, 1.6026), -1.37753, 3.660769),
        (32_000, 128, "hanning", True, 98, (-3.17951, -1.83763, 1.81502, -0.30815, -3.76892), -0.126207, 3.556465),
        (8_000, 64, "hanning", True, 98, (-3.62922, -6.45219, -1.48785, 7.21457, -1.09005), -1.694119, 3.592217),
        (16_000, 128, "povey", True, 98, (-3.43449, 3.43685, -5.0372, 0.53613, 1.70481), -1.247639, 3.621969),
        (16_000, 80, "povey", False, 100, (-1.61563, -2.69143, -1.75017, 2.31276, -1.90116), -0.535985, 3.304964),
    ],
)
def test_kaldis_filterbank(rate, mels, window, snip, frames, values, mean, spread):
    x = kaldi_fbank(busy(rate), rate, mels=mels, window=window, snip_edges=snip)[0]
    assert x.shape == (frames, mels)
    found = [float(x[place]) for place in ((0, 0), (10, 40), (50, 17), (97, 63), (60, 22))]
    assert found == pytest.approx(values, abs=1e-4)
    assert (float(x.mean()), float(x.std())) == pytest.approx((mean, spread), abs=1e-4)


@pytest.mark.parametrize(
    ("wave", "values", "mean", "spread"),
    [
        (busy(16_000), (0.64574, 0.3981, 0.32936, 0.46089, 0.37212), 0.416656, 0.109147),
        (tone(1000, 16_000), (0.47994, -0.26608, -0.26608, 0.19576, -0.26608), -0.191011, 0.252519),
        (torch.zeros(1, 16_000), (-1.31231,) * 5, -1.312306, 0.0),
    ],
)
def test_mel_power_in_db(wave, values, mean, spread):
    x = (mel_db(wave, 16_000)[0] + 14.482) / 65.1662  # as ATST scales it
    assert x.shape == (101, 64)
    assert [float(x[p]) for p in ((0, 0), (10, 40), (50, 17), (100, 63), (60, 22))] == pytest.approx(values, abs=1e-4)
    assert (float(x.mean()), float(x.std())) == pytest.approx((mean, spread), abs=1e-4)


def test_frames_are_those_that_lie_inside():
    """6 s give 598 frames of 25 ms each 10 ms, 10 s 998, at any rate; with mirrored ends as many as there are 10 ms."""
    for rate in (16_000, 32_000):
        assert kaldi_fbank(torch.zeros(1, 6 * rate), rate).shape == (1, 598, 128)
        assert kaldi_fbank(torch.zeros(1, 10 * rate), rate).shape == (1, 998, 128)
    assert kaldi_fbank(torch.zeros(1, 6 * 16_000), 16_000, snip_edges=False).shape == (1, 600, 128)
    assert mel_db(torch.zeros(1, 6 * 16_000), 16_000).shape == (1, 601, 64)
    assert mel_db(torch.zeros(1, 10 * 16_000), 16_000).shape == (1, 1001, 64)


def test_a_constant_is_silence():
    """Each frame loses its mean: rows are alike and at the floor, the logarithm of float32's epsilon."""
    x = kaldi_fbank(torch.full((1, 8000), 0.5), 16_000)
    assert torch.equal(x, torch.full_like(x, math.log(2**-23)))


def test_a_tone_lies_in_its_band():
    x = kaldi_fbank(tone(1000, 16_000), 16_000, mels=40)[0]
    mel = 1127 * math.log(1 + 1000 / 700)
    low, high = (1127 * math.log(1 + f / 700) for f in (20, 8000))
    assert set(x.argmax(1).tolist()) == {round((mel - low) / (high - low) * 41) - 1}


def test_quiet_is_told_from_each_excerpts_own_loudest():
    loud, quiet = tone(1000, 8000), 1e-3 * tone(300, 8000)
    together = mel_db(torch.cat([loud, quiet]), 16_000)
    assert torch.equal(together[1:], mel_db(quiet, 16_000))
    assert (together.amax((1, 2)) - together.amin((1, 2))).tolist() == pytest.approx([80, 80], abs=1e-4)
    assert float(mel_db(loud, 16_000, top_db=None).min()) < float(together[0].min())


def test_batches_are_rows():
    x = torch.cat([busy(16_000), tone(700, 16_000)])
    for front in (kaldi_fbank, mel_db):
        assert torch.allclose(front(x, 16_000), torch.cat([front(row[None], 16_000) for row in x]), atol=1e-5)


def test_some_recordings_and_some_bands_at_a_time_are_all_at_once(monkeypatch):
    x = torch.cat([busy(16_000), tone(700, 16_000), busy(16_000).flip(1)])
    for front in (kaldi_fbank, mel_db):
        some = []
        for held in (1, 2**30):
            monkeypatch.setattr(filterbank, "HELD", held)
            some.append(front(x, 16_000))
        torch.testing.assert_close(*some, atol=1e-5, rtol=0)


def test_without_a_compiler_it_is_the_same(monkeypatch):
    x = torch.cat([busy(16_000), tone(700, 16_000)])
    compiled = [front(x, 16_000) for front in (kaldi_fbank, mel_db)]
    monkeypatch.setattr(filterbank, "has_compiler", lambda: False)
    for front, made in zip((kaldi_fbank, mel_db), compiled, strict=True):
        torch.testing.assert_close(front(x, 16_000), made, atol=1e-5, rtol=1e-5)


def test_a_wave_is_left_as_it_was():
    """Frames side by side, of which nothing is taken first, are the wave itself."""
    x = busy(16_000)
    kaldi_fbank(x, 16_000, shift=0.025, remove_dc=False, preemphasis=0.0)
    assert torch.equal(x, busy(16_000))


@pytest.mark.parametrize("mels", [1, 16, 23, 128, 400])
def test_parts_of_a_bank_are_the_bank(mels):
    """Of 400 bands the lowest are so narrow that they read no bin."""
    how = mels, 512, 16_000, 20.0, 0.0
    spectrum = torch.randn(2, 3, 257, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    whole = spectrum.abs().square() @ torch.from_numpy(filterbank._kaldi_bank(*how)).float()
    bank = filterbank._filters(filterbank._kaldi_bank, "cpu", *how)
    found = filterbank._energies(torch.empty(2, 3, 400), lambda frames: spectrum[: len(frames)], bank)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-5)


def test_constants_are_made_once_and_serve_any_context():
    both = filterbank._kept, filterbank._filters
    for one in both:
        one.cache_clear()
    with torch.inference_mode():
        kaldi_fbank(busy(16_000), 16_000)
    kaldi_fbank(busy(16_000), 16_000)
    assert [one.cache_info().misses for one in both] == [1, 1]
    kept = filterbank._kept(filterbank._window, "cpu", 400, "hanning")
    parts = filterbank._filters(filterbank._kaldi_bank, "cpu", 128, 512, 16_000, 20.0, 0.0)
    assert [one.cache_info().misses for one in both] == [1, 1]
    assert not any(x.is_inference() for x in (kept, *(part for *_, part in parts)))


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="choose one of hanning, povey"):
        kaldi_fbank(busy(16_000), 16_000, window="hann")
    with pytest.raises(UsageError, match=r"399 samples hold no frame of 0\.025 s at 16,000 Hz, which is 400"):
        kaldi_fbank(torch.zeros(1, 399), 16_000)
    with pytest.raises(UsageError, match="at most 4000"):
        mel_db(torch.zeros(1, 8000), 8000)
    with pytest.raises(UsageError, match="not more than half a frame, 512"):
        mel_db(torch.zeros(1, 512), 16_000)
    with pytest.raises(UsageError, match="too few for centred"):
        kaldi_fbank(torch.zeros(1, 90), 16_000, snip_edges=False)
