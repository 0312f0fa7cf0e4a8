"""Films, sounds and transcripts as feature sequences: shapes, times, and the folder that `sequences:` reads."""

import csv
import os

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.made_clips import write_film, write_words
from tacit import api, encoders
from tacit.data import Recording, open_source
from tacit.data.film import Film, FilmCut
from tacit.data.transcript import Sentence, Transcript
from tacit.errors import BadRecord, DataError, UsageError
from tacit.evaluation import clip_features
from tacit.evaluation.clip_features import frame_times, read_clips, sound_of, words_and_times
from tacit.views import kaldi_fbank, kaldi_inputs
from tacit.views.sequences import measure

RATE = 16_000
GREYS = (20, 60, 100, 140, 180, 220)  # of the second halves of seconds: what a frame shows tells when it was


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


@pytest.fixture
def films(tmp_path):
    """talk: 3 s of film, sound and words; mute: no sound, no words; heard.wav: no pictures."""
    folder = tmp_path / "films"
    folder.mkdir()
    frames = np.repeat(np.array(GREYS, np.uint8), 5)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    write_film(folder / "talk.mp4", frames, 10, noise(3), RATE)
    write_words(folder / "talk.srt", [(0.0, 1.0, "Hello there, Tom!"), (2.0, 3.0, "it's fine")])
    write_film(folder / "mute.mp4", frames[:17], 10, None, RATE)
    soundfile.write(folder / "heard.wav", noise(1), RATE)
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(1)
    return encoders.load("vit_mini:random")


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as held:
        return {name: held[name] for name in held.files}


def test_the_three_have_their_shapes_and_begin_together(films, tmp_path, encoder):
    said = api.embed(encoder, f"clips:{films}", tmp_path / "out", sequences=True, fps=2, workers=0)
    assert said["modalities"] == {"text": 1, "audio": 2, "vision": 2}
    assert (said["rows"], said["kept"], said["fps"], said["width"]) == (3, 0, 2, encoder.width)
    talk = arrays(tmp_path / "out" / "talk.npz")
    assert talk["vision"].shape == (6, encoder.width)
    np.testing.assert_allclose(talk["vision_times"], [[k / 2, k / 2 + 0.5] for k in range(6)])
    assert talk["audio"].shape[1] == 40
    assert len(talk["audio"]) == pytest.approx(298, abs=8)  # AAC is as long as its own frames
    np.testing.assert_allclose(talk["audio_times"][:2], [[0, 0.025], [0.01, 0.035]])
    assert talk["text"].tolist() == ["hello", "there", "tom", "it's", "fine"]
    np.testing.assert_allclose(talk["text_times"][[0, 2, 3, 4]], [[0, 1 / 3], [2 / 3, 1], [2, 2.5], [2.5, 3]])
    assert set(arrays(tmp_path / "out" / "mute.npz")) == {"vision", "vision_times", "made_of"}
    assert set(arrays(tmp_path / "out" / "heard.npz")) == {"audio", "audio_times", "made_of"}


def test_a_frame_is_that_of_its_time(films, encoder):
    """Of each half second the grey that is shown in it, as the encoder's own preparation gives it."""
    source = open_source(f"clips:{films}", kind="video")
    index = [source.name(i) for i in range(len(source))].index("talk.mp4")
    ((_, found),) = read_clips(encoder, source, [index], 2.0, [])
    film = Film(films / "talk.mp4")
    cut = encoder.inputs.centre(32, 32)
    shown = film.crops([FilmCut([0.25 + k / 2 for k in range(6)], *cut[:6])])[0]
    assert shown.mean((1, 2, 3)) == pytest.approx(np.array(GREYS), abs=4)
    with torch.no_grad():
        wanted = encoder(encoder.inputs.prepare(torch.from_numpy(shown).permute(0, 3, 1, 2)))
    np.testing.assert_allclose(found["vision"], wanted.numpy(), atol=1e-5)


def test_batches_and_workers_change_nothing(films, monkeypatch, encoder):
    source = open_source(f"clips:{films}", kind="video")
    whole = dict(read_clips(encoder, source, range(3), 5.0, []))
    monkeypatch.setattr(clip_features, "BATCH", 4)
    monkeypatch.setattr(clip_features, "SOUND", 7)
    done = []
    parts = dict(read_clips(encoder, source, range(3), 5.0, [], workers=2, progress=done.append))
    assert whole.keys() == parts.keys() == {0, 1, 2}
    for index, wanted in whole.items():
        assert wanted.keys() == parts[index].keys()
        for name, values in wanted.items():
            if name == "text":
                assert values.tolist() == parts[index][name].tolist()
            else:
                np.testing.assert_allclose(parts[index][name], values, atol=1e-4)
    assert done[-1] == 3
    assert done == sorted(done)


def test_a_film_is_decoded_once_however_long(films):
    film = Film(films / "talk.mp4")
    times = frame_times(film.seconds, 10).mean(1)
    frames = list(film.each(FilmCut(times, 0, 0, 32, 32, (32, 32))))
    assert film.decoded == len(frames) == 30
    part = Film(films / "talk.mp4", start=1.0, end=2.0)
    assert [f.mean() for f in part.each(FilmCut([0.25, 0.75], 0, 0, 32, 32, (8, 8)))] == pytest.approx(
        GREYS[2:4], abs=4
    )


@pytest.mark.parametrize(
    ("seconds", "fps", "count"), [(3, 5, 15), (2.98, 5, 15), (2.9, 5, 14), (0.01, 5, 1), (1.5, 1, 1)]
)
def test_times_of_frames_lie_in_the_film(seconds, fps, count):
    times = frame_times(seconds, fps)
    assert times.shape == (count, 2)
    assert (times[:, 0] < times[:, 1]).all()
    assert times.max() <= seconds
    np.testing.assert_array_equal(times[1:, 0], times[:-1, 1])


def test_sound_is_kaldis_log_mels_at_sixteen_kilohertz_in_parts_as_in_one(monkeypatch):
    x = noise(2)
    wanted = kaldi_fbank(torch.from_numpy(x)[None], RATE, mels=40)[0]
    monkeypatch.setattr(clip_features, "SOUND", 31)
    found = sound_of(Recording(x, RATE))
    np.testing.assert_allclose(found["audio"], wanted.numpy(), atol=1e-4)
    assert found["audio"].shape == (198, 40)
    assert len(sound_of(Recording(noise(1, 8000), 8000))["audio"]) == 98
    assert sound_of(Recording(x[:399], RATE)) == sound_of(Recording(np.zeros(RATE, np.float32), RATE)) == {}


def test_words_keep_their_order_and_lose_what_lies_outside():
    sentences = [Sentence(4.0, 6.0, "never mind"), Sentence(0.0, 2.0, "one two"), Sentence(3.0, 3.5, "Three.")]
    found = words_and_times(Transcript(sentences, 1.0, 5.0, 4.0))  # times are from 1 s on
    assert found["text"].tolist() == ["two", "three", "never"]
    np.testing.assert_allclose(found["text_times"], [[0, 1], [2, 2.5], [3, 4]])
    untimed = words_and_times(Transcript("one two\nthree"))
    assert untimed["text"].tolist() == ["one", "two", "three"]
    assert set(untimed) == {"text"}
    assert words_and_times(Transcript("...")) == words_and_times(None) == {}


def test_what_is_there_is_kept_and_what_changed_is_made_again(films, tmp_path, encoder, monkeypatch):
    out = tmp_path / "out"
    how = {"sequences": True, "workers": 0}
    api.embed(encoder, films, out, **how)
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.glob("*.npz")}
    monkeypatch.setattr(clip_features, "DataLoader", lambda *a, **k: pytest.fail("read again"))
    assert api.embed(encoder, films, out, **how)["kept"] == 3
    monkeypatch.undo()
    soundfile.write(films / "heard.wav", noise(1.5), RATE)
    (out / "talk.npz").write_bytes((out / "talk.npz").read_bytes()[:100])
    assert api.embed(encoder, films, out, **how)["kept"] == 1
    after = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.glob("*.npz")}
    assert {name for name in before if before[name] != after[name]} == {"heard.npz", "talk.npz"}
    assert len(arrays(out / "heard.npz")["audio"]) == 148
    assert not list(out.glob(".*.part"))


def test_other_settings_and_other_folders_are_refused(films, tmp_path, encoder):
    out = tmp_path / "out"
    api.embed(encoder, films, out, sequences=True, fps=2, workers=0)
    with pytest.raises(UsageError, match=r"other settings \(fps; by vit_mini at 2"):
        api.embed(encoder, films, out, sequences=True, fps=3, workers=0)
    with pytest.raises(UsageError, match=r"other settings \(encoder"):
        api.embed("vit_mini:random", films, out, sequences=True, fps=2, workers=0)
    with pytest.raises(UsageError, match="holds files"):
        api.embed(encoder, films, films, sequences=True, workers=0)
    with pytest.raises(UsageError, match="above 0"):
        api.embed(encoder, films, tmp_path / "other", sequences=True, fps=0)
    with pytest.raises(UsageError, match="--fps 5: is for --sequences"):
        api.embed(encoder, films, tmp_path / "other.npy", fps=5)
    with pytest.raises(UsageError, match="writes a folder"):
        api.embed(encoder, films, tmp_path / "other.npy", sequences=True)
    sounds = encoders.build("vit_mini", inputs=kaldi_inputs(frames=32, mels=16, rate=8000), patch=8)
    with pytest.raises(UsageError, match="needs an encoder of images; vit_mini is one of sounds"):
        api.embed(sounds, films, tmp_path / "other", sequences=True)
    assert not (tmp_path / "other").exists()


def test_random_weights_are_the_same_ones_again(films, tmp_path):
    how = {"sequences": True, "workers": 0, "fps": 1}
    api.embed("vit_mini:random", films, tmp_path / "out", **how)
    state = torch.get_rng_state()
    assert api.embed("vit_mini:random", films, tmp_path / "out", **how)["kept"] == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_without_an_encoder_there_are_sound_and_words(films, tmp_path):
    said = api.embed("none", films, tmp_path / "out", sequences=True, workers=0)
    assert said["modalities"] == {"text": 1, "audio": 2, "vision": 0}
    assert [name for name, _ in said["bad_files"]] == ["mute.mp4"]
    assert not (tmp_path / "out" / "mute.npz").exists()


def test_what_cannot_be_read_is_listed_and_nothing_of_it_written(films, tmp_path, encoder):
    data = (films / "talk.mp4").read_bytes()
    (films / "broken.mp4").write_bytes(data[: len(data) // 2])
    said = api.embed(encoder, films, tmp_path / "out", sequences=True, workers=0)
    assert [name for name, _ in said["bad_files"]] == ["broken.mp4"]
    assert not (tmp_path / "out" / "broken.npz").exists()
    for film in films.glob("*.mp4"):
        film.unlink()
    (films / "heard.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError):
        api.embed(encoder, films, tmp_path / "none", sequences=True, workers=0)


def write_table(path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_a_tables_labels_groups_and_parts_come_along(films, tmp_path, encoder):
    names = ("video", "start", "end", "label", "happy_score", "speaker", "split")
    cells = ("talk.mp4 0 1 sad 0.5 s1 dev", "talk.mp4 1 3 calm;sad 0 s1 dev", "mute.mp4 - - - - - train")
    rows = [dict(zip(names, row.replace("-", "").split(" "), strict=True)) for row in cells]
    write_table(films / "clips.csv", [{**row, "remark": "none"} for row in rows])
    out = tmp_path / "out"
    said = api.embed(encoder, f"clips:{films / 'clips.csv'}", out, sequences=True, workers=0)
    assert any("remark" in note for note in said["notes"])
    source = open_source(f"sequences:{out}:part=all")
    names = [source.name(i) for i in range(len(source))]
    assert names == ["mute", "talk#0-1", "talk#1-3"]
    assert source.targets.names == ["calm", "sad", "happy_score"]
    np.testing.assert_array_equal(source.targets.values, [[-1, -1, -1], [0, 1, 1], [1, 1, 0]])
    assert source.groups.tolist() == ["mute.mp4", "s1", "s1"]
    assert len(open_source(f"sequences:{out}:part=valid")) == 2
    assert arrays(out / "talk#0-1.npz")["text"].tolist() == ["hello", "there", "tom"]
    later = arrays(out / "talk#1-3.npz")
    assert later["text_times"][0].tolist() == [1, 1.5]
    assert len(later["vision"]) == 10
    (out / "labels.csv").write_text("id,video,sentiment\ntalk#0-1,mine,1\n")
    assert any("changed by hand" in note for note in api.embed(
        encoder, f"clips:{films / 'clips.csv'}", out, sequences=True, workers=0)["notes"])  # fmt: skip
    assert "mine" in (out / "labels.csv").read_text()


def test_records_are_named_apart_and_stay_inside_the_folder(films, tmp_path, encoder):
    os.rename(films / "heard.wav", films / "talk.wav")
    table = tmp_path / "lists" / "clips.csv"
    table.parent.mkdir()
    rows = ["../films/talk.mp4", "../films/talk.mp4", str(films / "mute.mp4"), "../films/talk.wav"]
    write_table(table, [{"video": "" if r.endswith("wav") else r, "audio": r if r.endswith("wav") else "",
                         "text": t} for r, t in zip(rows, ("one", "two", "three", "four"), strict=True)])  # fmt: skip
    out = tmp_path / "deep" / "out"
    assert api.embed(encoder, f"clips:{table}", out, sequences=True, workers=0)["rows"] == 4
    inside = sorted(str(p.relative_to(out)) for p in (tmp_path / "deep").rglob("*.npz"))
    assert len(inside) == 4
    texts = {arrays(out / name)["text"].tolist()[0] for name in inside}
    assert texts == {"one", "two", "three", "four"}


def test_class_folders_become_columns_and_parts_stay_parts(films, tmp_path, encoder):
    for part, name, label in (("train", "talk", "sad"), ("train", "mute", "calm"), ("test", "mute", "sad")):
        (tmp_path / "set" / part / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / part / label / f"{name}.mp4").write_bytes((films / f"{name}.mp4").read_bytes())
    api.embed(encoder, tmp_path / "set", tmp_path / "out", sequences=True, workers=0)
    train = open_source(f"sequences:{tmp_path / 'out'}")
    assert train.targets.names == ["calm", "sad"]
    assert train.name(0) == os.path.join("train", "calm", "mute")
    np.testing.assert_array_equal(train.targets.values, [[1, 0], [0, 1]])
    assert len(open_source(f"sequences:{tmp_path / 'out'}:part=test")) == 1


def test_sequences_are_what_the_method_reads(films, tmp_path, encoder):
    out = tmp_path / "out"
    api.embed(encoder, films, out, sequences=True, workers=0)
    found = measure(open_source(f"sequences:{out}"), least=1)
    assert found.inputs.dims == (1, 40, encoder.width)
    assert set(found.inputs.words) == {"hello", "there", "tom", "it's", "fine"}
    assert found.rates[1:] == pytest.approx((100, 5))
    run = api.pretrain(
        "emotion_xmodal", f"sequences:{out}", tmp_path / "run", preset="small", set=["size=20"], steps=1,
        batch_size=3, workers=0, quiet=True,
    )  # fmt: skip
    assert np.isfinite(run.summary["loss"])


def test_a_record_is_refused_that_holds_nothing(films, encoder):
    (films / "mute.mp4").unlink()
    (films / "talk.mp4").unlink()
    (films / "talk.srt").unlink()
    soundfile.write(films / "heard.wav", np.zeros(RATE), RATE)
    bad = []
    assert list(read_clips(encoder, open_source(films, kind="video"), [0], 5.0, bad)) == []
    assert bad[0][0] == "heard.wav"
    with pytest.raises(BadRecord):
        Transcript("")
