import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_clips import write_clips, write_film
from tacit.data import mix, note_rates, open_source, open_splits
from tacit.errors import DataError, Unknown, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight clips of 32 x 32, of which some are a .wav alone, and some have no sound or no text."""
    folder = tmp_path_factory.mktemp("made")
    write_clips(
        folder, 8, shapes=2, motions=2, size=32, seconds=(0.6, 0.9), no_sound=0.3, no_text=0.3, no_video=0.2, seed=3
    )
    return folder


def have(source) -> list[tuple[bool, ...]]:
    fields = ("video", "audio", "text")
    return [tuple(source.record(i, fields)[f] is not None for f in fields) for i in range(len(source))]


def test_a_folder_and_its_table_hold_the_same_clips(made):
    with open(made / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [(bool(r["video"]), bool(r["audio"]), bool(r["text"])) for r in rows]
    assert {x for row in wanted for x in row} == {True, False}
    folder, table = open_source(f"clips:{made}"), open_source(made / "clips.csv", kind="video")
    assert have(folder) == have(table) == wanted
    assert folder.fields == ("video", "audio", "text")
    lacking = sum(not audio for _, audio, _ in wanted)
    assert f"{lacking} of 8 clips have no sound." in folder.notes
    assert folder.labels is None
    assert table.classes == ["disc left", "disc right", "square left", "square right"]
    assert [table.classes[k] for k in table.labels] == [r["label"] for r in rows]
    record = table.record([video for video, _, _ in wanted].index(True), ("video",))
    assert record["seconds"] == pytest.approx(record["video"].seconds)
    for i in range(8):
        folder.check(i)


def test_rates_are_told_of_the_clips_that_have_sound(made):
    source = open_source(f"clips:{made}")
    assert not all(audio for _, audio, _ in have(source))
    assert note_rates(source, 8000) == ["Sounds are resampled from 16,000 Hz to 8,000 Hz."]


def test_labels_groups_selections_and_mixtures(made):
    table = open_source(f"clips:{made / 'clips.csv'}", labels=["shape"], group="motion")
    assert table.classes == ["disc", "square"]
    assert set(table.groups) == {"right", "left"}
    part = table.select(np.array([5, 2]))
    assert have(part) == [have(table)[5], have(table)[2]]
    assert part[0]["name"] == table.name(5)
    sounds = open_source(made, kind="audio")  # there is a .wav, so that sounds are meant, and films are not
    assert 0 < len(sounds) < 8
    joined = mix([part, open_source(f"clips:{made}")])
    assert have(joined)[2:] == have(table)
    assert joined.record(0, ("text",))["seconds"] == part.record(0, ())["seconds"]


def test_the_sound_tracks_of_films_are_sounds(made, tmp_path):
    for k, label in enumerate("aab"):
        (tmp_path / label).mkdir(exist_ok=True)
        wave = None if k == 1 else np.random.default_rng(k).normal(0, 0.1, 8000).astype(np.float32)
        write_film(tmp_path / label / f"{k}.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, wave, 16_000)
    films = open_source(tmp_path, kind="video")
    assert films.classes == ["a", "b"]
    sounds = open_source(tmp_path, kind="audio")
    assert sounds.fields == ("audio",)
    assert sounds.classes == ["a", "b"]
    assert len(sounds) == 2
    assert sounds[0]["audio"].rate == 16_000
    assert sounds.notes == ["1 of 3 clips have no sound."]
    with pytest.raises(DataError, match=r"None of the 3 clips of .* has text"):
        open_source(f"clips:{tmp_path}", kind="text")


def test_folders_of_frames_with_sound_and_words(tmp_path):
    import soundfile

    def frames(folder):
        folder.mkdir(parents=True)
        for k in range(6):
            Image.fromarray(np.full((16, 16, 3), 20 * k, np.uint8)).save(folder / f"{k}.png")

    noise = np.random.default_rng(0).normal(0, 0.1, 4000)
    frames(tmp_path / "one" / "frames")  # beside it
    soundfile.write(tmp_path / "one" / "sound.wav", noise, 8000)
    (tmp_path / "one" / "words.txt").write_text("a first one")
    frames(tmp_path / "two")  # inside
    soundfile.write(tmp_path / "two" / "x.wav", noise, 8000)
    frames(tmp_path / "three")  # by name
    (tmp_path / "three.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\na third\n")
    source = open_source(f"clips:{tmp_path}:rate=12")
    assert [source.name(i) for i in range(len(source))] == ["one", "three", "two"]
    assert have(source) == [(True, True, True), (True, False, True), (True, True, False)]
    assert source.record(0, ("video",))["video"].extent == (6, 12.0, 16, 16)
    assert source.record(1, ())["seconds"] == 0.5
    with pytest.raises(DataError, match=r"frames without a rate \(clips:PATH:rate=25"):
        open_source(f"clips:{tmp_path}")
    with pytest.raises(Unknown, match="option of clips 'fps'"):
        open_source(f"clips:{tmp_path}:fps=12")
    with pytest.raises(UsageError, match="rate must be frames a second"):
        open_source(f"clips:{tmp_path}:rate=-1")


def test_pieces_of_long_files_and_rows_that_cannot_be_read(made, tmp_path):
    write_film(tmp_path / "long.mp4", np.zeros((40, 32, 32, 3), np.uint8), 10, None, 0)
    table = tmp_path / "t.csv"
    table.write_text(
        "video,caption,start,end,label\nlong.mp4,the start,0,1.5,x\nlong.mp4,,0:00:01.5,4,y\nlong.mp4,late,9,10,x\n"
        "gone.mp4,none,,,y\nlong.mp4,bad,soon,2,x\n"
    )
    source = open_source(f"clips:{table}", labels=["label"])
    assert [source.record(i, ())["seconds"] for i in range(2)] == [1.5, 2.5]
    assert len(source) == 2
    assert source.labels.tolist() == [0, 1]
    assert source.record(0, ("text",))["text"].sentences[0].text == "the start"
    assert source.record(1, ("text",))["text"] is None
    assert {reason.split(":")[0] for _, reason in source.skipped} == {"ends before 9 s", "no such file", "row 6"}
    table.write_text("video,caption\nnowhere/a.mp4,x\n")
    with pytest.raises(DataError, match=r"none of the 1 files it names is there, the first is nowhere/a\.mp4"):
        open_source(table, kind="video")
    table.write_text("who,what\na,b\n")
    with pytest.raises(DataError, match="no column of films"):
        open_source(table, kind="video")


def test_an_index_is_used_again_until_a_file_changes(made, tmp_path):
    write_clips(tmp_path / "a", 2, size=32, seconds=(0.5, 0.6))
    first = open_source(f"clips:{tmp_path / 'a'}")
    again = open_source(f"clips:{tmp_path / 'a'}")
    assert again.fingerprint == first.fingerprint
    assert again.stamp() == first.stamp()
    (tmp_path / "a" / "00000.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\n\n")
    other = open_source(f"clips:{tmp_path / 'a'}")
    assert other.record(0, ("text",))["text"] is None
    assert "1 transcript is left out" in " ".join(other.notes)
    assert other.fingerprint != first.fingerprint


def test_what_holds_no_film_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="It is empty"):
        open_source(f"clips:{tmp_path}")
    (tmp_path / "a.mp4").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"none of 1 clips can be read.*not a video \(looks like HTML"):
        open_source(f"clips:{tmp_path}")
    with pytest.raises(DataError, match="Films are read by clips:PATH"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="single file"):
        open_source(tmp_path / "a.mp4", kind="video")
    with pytest.raises(DataError, match="holds no films"):
        open_source("hub:name", kind="video")


def test_train_and_test_of_clips(made, tmp_path):
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            write_film(tmp_path / part / label / "x.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, None, 0)
    train, test = open_splits(f"clips:{tmp_path}")
    assert train.classes == test.classes == ["a", "b"]
    assert test.labels.tolist() == [0, 1]
