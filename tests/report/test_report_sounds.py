import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from tacit import encoders
from tacit.data import Recording, open_source
from tacit.engine.samples import save_sample_views
from tacit.report import clips, features, report
from tacit.report import maps as maps_room
from tacit.report.clips import clip
from tacit.report.contents import HOW_SPECTROGRAMS, _pictures
from tacit.report.features import neighbours_section
from tacit.report.pictures import Thumbnails
from tacit.report.sample import Sample
from tacit.run import Run
from tacit.views import Excerpt, Views, kaldi_inputs

INPUTS = kaldi_inputs(frames=48, mels=16, rate=8000)  # 0.495 s


def inside(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.partition(",")[2]))


def picture(uri: str) -> np.ndarray:
    return np.asarray(Image.open(inside(uri)))


def excerpt(path, inputs=INPUTS) -> np.ndarray:
    """What the encoder hears of a file, without the silence that a short one is filled up with."""
    recording = Recording(path)
    (wave,) = recording.crops([inputs.centre(*recording.extent)])
    return wave[0, : -(-recording.samples * inputs.rate // recording.rate)]


def close(found: np.ndarray, wave: np.ndarray) -> bool:
    """The same but for what MP3 loses: no sample is added, moved, or made louder."""
    return found.shape == wave.shape and np.square(found - wave).mean() < 0.02 * np.square(wave).mean()


def by_chance(source, inputs=INPUTS) -> Sample:
    """Any features will do, where it is asked what is shown of neighbours."""
    n = len(source)
    x = np.random.default_rng(0).normal(size=(n, 8)).astype("f4")
    thumbnails = Thumbnails(source, np.arange(n), inputs)
    return Sample(x, [source.name(i) for i in range(n)], source.labels, source.classes, thumbnails, n, 0)


class Tiles(HTMLParser):
    """Attributes of the pictures and of the players of a page, and all of its text."""

    def __init__(self, markup: str):
        super().__init__()
        self.img, self.audio, self.text = [], [], ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        if tag in ("img", "audio"):
            getattr(self, tag).append(dict(attrs))

    def handle_data(self, data):
        self.text += data


def test_sample_views_are_spectrograms(tones, tmp_path):
    views = [Excerpt(INPUTS, name="a"), Excerpt(INPUTS, name="b")]
    save_sample_views(tmp_path / "views.npz", Views(open_source(tones), views, 0), views)
    with np.load(tmp_path / "views.npz") as stored:
        assert stored["views"].shape == (2, 8, 16, 48, 1)
        assert stored["names"].tolist() == ["a", "b"]
        assert str(stored["kind"]) == "audio"
        high, low = stored["views"][0, 0, :, :, 0], stored["views"][0, 0, ::-1, :, 0]
    assert high[:8].mean() > low[:8].mean() + 20  # a sweep of 2,000 Hz and more lies in the upper half
    (tmp_path / "settings.yaml").write_text("method: asit\n")
    page = str(_pictures(Run(tmp_path), "views", 96))
    assert HOW_SPECTROGRAMS in page
    assert 'class="views sounds"' in page


def test_thumbnails_of_sounds_show_no_more_than_there_is(tones):
    source = open_source(tones)
    long = kaldi_inputs(frames=480, mels=16, rate=8000)  # ten times as long as the recordings
    for inputs in (INPUTS, long):
        found = picture(Thumbnails(source, np.arange(40), inputs)(0, 32))
        assert found.shape == (32, 32)
        assert found[:16].mean() > found[16:].mean() + 20
        assert found[:16, 20:].mean() > 40  # silence at the end would be dark


def test_neighbours_can_be_listened_to(tones):
    source = open_source(tones)
    found = Tiles(neighbours_section({"run": by_chance(source)}, seed=0).markup)
    assert len(found.audio) == len(found.img) == 8 * 9
    for image, player in zip(found.img, found.audio, strict=True):
        name = image["alt"].partition(" (")[0]
        assert player["title"] == image["alt"]
        assert player["aria-label"] == f"Sound of {name} ({name.partition('/')[0]})"
        assert player["preload"] == "none"
        assert "controls" in player
        sound, rate = soundfile.read(inside(player["src"]), dtype="float32")
        assert rate == 8000
        assert close(sound, excerpt(tones / name))
    assert "the middle 0.495 s or all of a shorter one, one channel at 8,000 Hz" in found.text
    assert "shortened" not in found.text


def test_the_page_lets_sounds_play_and_nothing_else(tones, tmp_path, monkeypatch):
    monkeypatch.setattr(maps_room, "find_spec", lambda name: None)  # UMAP takes seconds to import
    data, run = tmp_path / "data", tmp_path / "run"
    hostile = '"><script>alert(1)</script>.wav'
    (data / "high").mkdir(parents=True)
    for i, file in enumerate(sorted(tones.glob("high/*"))[:4]):
        shutil.copy(file, data / "high" / file.name if i else data / hostile.replace("/", "_"))
    (data / "high" / "silent.wav").write_bytes(b"")
    run.mkdir()
    (run / "settings.yaml").write_text(yaml.safe_dump({"method": "asit", "data": [str(data)], "settings": {}}))
    torch.manual_seed(0)
    encoders.save(encoders.build("vit_mini", inputs=INPUTS, patch=8), run / "encoder")
    text = report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    found = Tiles(text)
    assert len(found.audio) == 4 * 4  # the unreadable one is nobody's neighbour
    assert all(player["src"].startswith("data:audio/mpeg;base64,") for player in found.audio)
    assert any(player["title"].startswith('"><script>') for player in found.audio)
    assert "<script" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#x27;", "'")
    assert [rule for rule in policy.split("; ") if "data:" in rule] == ["img-src data:", "media-src data:"]


def test_pictures_have_no_players():
    pictures = open_source(np.zeros((12, 16, 16, 3), np.uint8))
    found = Tiles(neighbours_section({"run": by_chance(pictures, inputs=None)}, seed=0).markup)
    assert len(found.img) == 8 * 9
    assert not found.audio
    assert "heard" not in found.text


def test_all_clips_of_a_page_are_bounded_and_short_ones_say_so(tones, monkeypatch):
    sample = by_chance(open_source(tones))
    for runs, most in ((1, 150_000), (3, 150_000), (1, 1_000_000)):
        monkeypatch.setattr(features, "MOST_SOUND", most)
        found = Tiles(neighbours_section({f"run {r}": sample for r in range(runs)}, seed=0).markup)
        shortened = [player for player in found.audio if ": the middle 0." in player["title"]]
        assert sum(len(player["src"]) for player in found.audio) <= most
        assert bool(shortened) == ("are shortened to their middle" in found.text) == (most == 150_000)
    assert len(found.audio) == 72


def test_a_record_is_read_once_for_all_its_tiles(tones, monkeypatch):
    sample = by_chance(open_source(tones))
    sample.x[:] = 1  # collapsed: the first records are everyone's neighbours
    read = []
    first = Recording.__init__
    monkeypatch.setattr(Recording, "__init__", lambda self, data: read.append(str(data)) or first(self, data))
    found = Tiles(neighbours_section({"run": sample}, seed=0).markup)
    assert len(found.audio) == 72
    assert len(read) == len(set(read)) == len({player["title"] for player in found.audio}) < 20


@pytest.mark.parametrize("rate", [8000, 11_025])
def test_of_long_recordings_only_the_piece_is_decoded_and_short_ones_have_no_silence_added(rate, tmp_path, monkeypatch):
    t = np.arange(40 * rate) / rate
    for name, seconds in (("long.wav", 40), ("short.wav", 0.2)):
        n = int(seconds * rate)
        soundfile.write(tmp_path / name, 0.3 * np.sin(2 * np.pi * (300 + 20 * t[:n]) * t[:n]), rate)
    source = open_source(tmp_path)
    thumbnails = Thumbnails(source, np.arange(2), INPUTS)
    decoded = []
    read = Recording._read
    monkeypatch.setattr(
        Recording, "_read", lambda self, start, stop: decoded.append(stop - start) or read(self, start, stop)
    )
    for row in range(2):
        _, heard = thumbnails.with_clip(row, 16, 100_000)
        sound, _ = soundfile.read(inside(heard.uri), dtype="float32")
        assert heard.seconds == heard.whole == len(sound) / 8000
        assert len(sound) == (INPUTS.samples if source.name(row) == "long.wav" else 1600)
        assert close(sound, excerpt(tmp_path / source.name(row)))
        assert len(decoded) == 2  # by the page and by `excerpt`
        assert max(decoded) < rate
        decoded.clear()


def test_clips_without_mp3_are_exact_and_louder_than_full_scale_does_not_wrap(monkeypatch):
    wave = np.sin(np.arange(9000) / 20).astype("f4") / 3
    assert clip(wave, 8000, 100_000).uri.startswith("data:audio/mpeg;base64,")
    other = clip(wave, 10_000, 100_000)  # a rate that MP3 has not
    monkeypatch.setattr(clips.soundfile(), "available_formats", lambda: {"WAV": "WAV (Microsoft)"})
    for found, rate in ((other, 10_000), (clip(wave, 8000, 100_000), 8000)):
        assert found.uri.startswith("data:audio/wav;base64,")
        sound, kept = soundfile.read(inside(found.uri), dtype="float32")
        assert kept == rate
        assert np.abs(sound - wave).max() <= 2**-15
    loud, _ = soundfile.read(inside(clip(wave * 6, 8000, 100_000).uri), dtype="float32")
    assert np.abs(loud - np.clip(wave * 6, -1, 1)).max() <= 2**-14


@pytest.mark.parametrize("rate", sorted(clips.MP3_RATES))
def test_a_clip_is_the_middle_as_far_as_there_is_room(rate):
    wave = np.random.default_rng(0).normal(0, 0.1, 3 * rate).astype("f4")
    wave *= np.abs(np.arange(-1.5, 1.5, 1 / rate)[: len(wave)]) < 0.5  # sound in the second second alone
    found = clip(wave, rate, 10**6)
    assert (found.seconds, found.whole) == (3, 3)
    less = clip(wave, rate, len(found.uri) - 1)
    assert (less.seconds, less.whole) == (pytest.approx(1.5, abs=1e-4), 3)
    assert len(less.uri) < len(found.uri)
    sound, _ = soundfile.read(inside(less.uri), dtype="float32")
    assert len(sound) == len(wave) // 2
    loud = [np.sqrt(np.square(part).mean()) for part in np.array_split(sound, 6)]
    assert min(loud[1:5]) > 10 * max(loud[0], loud[5])


def test_clips_last_no_longer_than_is_said(monkeypatch):
    monkeypatch.setattr(clips, "MOST_SECONDS", 0.5)
    found = clip(np.zeros(8000, np.float32), 8000, 10**6)
    assert (found.seconds, found.whole) == (0.5, 1)
    for n in (1, 10, 700):
        assert len(soundfile.read(inside(clip(np.full(n, 0.1, np.float32), 8000, 10**6).uri))[0]) == n
