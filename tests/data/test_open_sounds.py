import json
import pickle
import shutil
import tarfile
import zipfile

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from tacit.data import Recording, Segment, mix, open_source, open_splits, recording
from tacit.errors import BadRecord, DataError, MissingExtra, Unknown


def sound(path, level: float = 0.5, rate: int = 8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(np.arange(800) * 0.2), rate)
    return path


def loudness(source, i) -> float:
    (x,) = source[i]["audio"].crops([Segment(0, 800, 8000)])
    return round(float(np.abs(x).max()), 1)


@pytest.fixture
def clips(tmp_path):
    for i, name in enumerate(["dog/b.wav", "dog/a.flac", "cat/deep/c.OGG", "cat/d.wav"]):
        sound(tmp_path / "clips" / name, 0.2 * (i + 1))
    (tmp_path / "clips" / "notes.txt").write_text("hello")
    return tmp_path / "clips"


def test_a_folder_of_sounds(clips):
    source = open_source(clips)
    assert source.fields == ("audio",)
    assert [source.name(i) for i in range(4)] == ["cat/d.wav", "cat/deep/c.OGG", "dog/a.flac", "dog/b.wav"]
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert isinstance(source[0]["audio"], Recording)
    assert source[3]["label"] == 1
    assert [loudness(pickle.loads(pickle.dumps(source)), i) for i in range(4)] == [0.8, 0.6, 0.4, 0.2]
    part = source.select(np.array([2, 3]))
    assert part.fields == ("audio",)
    assert loudness(part, 0) == 0.4


def test_a_file_that_vanishes_is_that_records_trouble(clips):
    source = open_source(clips)
    (clips / "cat" / "d.wav").unlink()
    with pytest.raises(BadRecord, match="no such file"):
        source[0]


def test_of_two_kinds_those_are_taken_that_are_asked_for_or_more(clips):
    for i in range(3):
        Image.new("L", (4, 4)).save(clips / "dog" / f"{i}.png")
    source = open_source(clips)
    assert source.fields == ("audio",)
    assert source.notes == ["The data holds 3 images beside 4 sounds; the sounds are used."]
    pictures = open_source(clips, kind="image")
    assert pictures.fields == ("image",)
    assert len(pictures) == 3
    assert pictures.notes[0] == "The data holds 4 sounds beside 3 images; the images are used."
    assert len(open_source(clips, kind="audio")) == len(open_source(clips)) == 4
    (clips / "dog" / "0.png").unlink()
    (clips / "dog" / "1.png").unlink()
    assert open_source(clips).notes == ["The data holds 1 image beside 4 sounds; the sounds are used."]
    with pytest.raises(Unknown, match="kind of record 'smell'"):
        open_source(clips, kind="smell")


def test_sounds_that_were_not_asked_for_are_given_all_the_same(clips):
    assert open_source(clips, kind="image").fields == ("audio",)  # who asked says what is wrong with them


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip(clips, tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w", compression) as archive:
        for path in sorted(clips.rglob("*.*")):
            archive.write(path, path.relative_to(clips))
        archive.writestr("dog/cover.jpg", b"")
    source = open_source(tmp_path / "clips.zip")
    assert source.fields == ("audio",)
    assert source.classes == ["cat", "dog"]
    assert sorted(loudness(source, i) for i in range(4)) == [0.2, 0.4, 0.6, 0.8]
    assert source.notes == ["The data holds 1 image beside 4 sounds; the sounds are used."]


def test_webdataset_shards(tmp_path):
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        for i in range(3):
            tar.add(sound(tmp_path / f"{i}.flac", 0.2 * (i + 1)), f"{i}.flac")
            (tmp_path / f"{i}.cls").write_text(str(i % 2))
            tar.add(tmp_path / f"{i}.cls", f"{i}.cls")
    source = open_source(tmp_path / "s-0.tar")
    assert source.fields == ("audio",)
    assert source.labels.tolist() == [0, 1, 0]
    assert [loudness(source, i) for i in range(3)] == [0.2, 0.4, 0.6]


@pytest.mark.parametrize("column", ["path", "filename", "wav", "audio_filepath"])
def test_a_table_of_files(clips, column):
    (clips / "list.csv").write_text(f"{column},class\ndog/b.wav,loud\ncat/d.wav,soft\n")
    source = open_source(clips / "list.csv")
    assert source.fields == ("audio",)
    assert source.classes == ["loud", "soft"]
    assert [loudness(source, i) for i in range(2)] == [0.2, 0.8]


@pytest.mark.parametrize("place", ["audio", "clips", "../audio"])
def test_files_may_lie_in_a_folder_beside_their_table(tones, tmp_path, place):
    (tmp_path / "meta").mkdir()
    shutil.copytree(tones / "low", tmp_path / "meta" / place)
    names = sorted(path.name for path in (tones / "low").iterdir())
    (tmp_path / "meta" / "all.csv").write_text("\n".join(["filename,fold", *(f"{name},1" for name in names)]))
    source = open_source(tmp_path / "meta" / "all.csv", group="fold")
    assert source[0]["audio"].samples > 0
    (note,) = source.notes
    assert note == f"The files that all.csv names are in {(tmp_path / 'meta' / place).resolve()}."
    assert open_source(tmp_path / "meta" / "all.csv").notes == source.notes  # also from the stored index
    shutil.copy(tones / "low" / names[0], tmp_path / "meta")
    assert open_source(tmp_path / "meta" / "all.csv").notes == []


def test_a_table_whose_files_have_no_endings(clips):
    (clips / "dog" / "b.wav").rename(clips / "dog" / "b")
    (clips / "list.jsonl").write_text('{"wav": "dog/b", "digit": "3"}\n{"wav": "dog/a.flac", "digit": "4"}\n')
    assert loudness(open_source(clips / "list.jsonl"), 0) == 0.2
    (clips / "list.jsonl").write_text('{"wav": "dog/b"}\n')
    assert loudness(open_source(clips / "list.jsonl"), 0) == 0.2
    (clips / "list.jsonl").write_text('{"image": "dog/b"}\n')
    assert open_source(clips / "list.jsonl").fields == ("image",)


def manifest(path, rows):
    path.write_text(json.dumps({"data": [{"wav": wav, "labels": labels} for wav, labels in rows]}))
    return path


def test_audiosets_manifest_gives_several_labels_a_record(clips):
    rows = [("dog/b.wav", "/m/bark,/m/dog"), (str(clips / "dog/a.flac"), "/m/dog"), ("cat/d.wav", "")]
    source = open_source(manifest(clips / "train.json", rows))
    assert source.labels is None
    assert source.targets.kind == "multi"
    assert source.targets.names == ["/m/bark", "/m/dog"]
    assert source.targets.values.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert [loudness(source, i) for i in range(3)] == [0.2, 0.4, 0.8]
    assert source[0].keys() == {"audio", "name"}
    again = open_source(clips / "train.json")  # as it was kept
    assert again.targets.values.tolist() == source.targets.values.tolist()
    assert open_source(clips / "train.json", labels=None).targets is None
    by_name = open_source(clips / "train.json", labels=["labels"])
    assert by_name.targets.values.tolist() == source.targets.values.tolist()


def test_a_manifest_with_one_label_each_gives_classes_and_a_test_set_follows_the_training_set(clips):
    single = open_source(manifest(clips / "one.json", [("dog/b.wav", "/m/dog"), ("cat/d.wav", "/m/cat")]))
    assert single.classes == ["/m/cat", "/m/dog"]
    several = manifest(clips / "two.json", [("dog/b.wav", "/m/dog,/m/cat"), ("cat/d.wav", "/m/owl")])
    train, test = open_splits(several, clips / "one.json")
    assert train.targets.names == test.targets.names == ["/m/cat", "/m/dog", "/m/owl"]
    assert test.targets.values.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert test.labels is None


@pytest.mark.parametrize("typed", [True, False])
def test_parquet_with_datasets_audio(clips, tmp_path, typed):
    cells = [
        {"bytes": (clips / "dog/b.wav").read_bytes(), "path": None},
        {"bytes": None, "path": str(clips / "dog/a.flac")},
        {"bytes": None, "path": None},
    ]
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"audio": struct, "label": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"audio": cells, "label": [0, 1, 0]}, features=features)
    if typed:
        made = made.cast_column("audio", datasets.Audio(decode=False))
    made.to_parquet(tmp_path / "train.parquet")
    for data in (tmp_path / "train.parquet", made):
        source = open_source(data)
        assert source.fields == ("audio",)
        assert source.labels.tolist() == [0, 1, 0]
        assert [loudness(source, i) for i in range(2)] == [0.2, 0.4]
        with pytest.raises(BadRecord, match="no sound in this row"):
            source[2]


def test_a_table_with_both_kinds_holds_images_unless_sounds_are_asked_for():
    both = {"image": [None], "audio": [None]}
    features = datasets.Features({"image": datasets.Image(), "audio": datasets.Audio(decode=False)})
    made = datasets.Dataset.from_dict(both, features=features)
    assert open_source(made).fields == ("image",)
    assert open_source(made, kind="audio").fields == ("audio",)


def test_mixtures_are_of_one_kind(clips, tmp_path):
    other = sound(tmp_path / "more" / "x.wav", 0.9)
    both = mix([open_source(clips), open_source(other.parent)])
    assert both.fields == ("audio",)
    assert loudness(both, 4) == 0.9
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "x.png").rename(tmp_path / "pictures" / "x.png")
    with pytest.raises(DataError, match=r"different kinds cannot be mixed.*clips: sounds.*pictures: images"):
        mix([open_source(clips), open_source(tmp_path / "pictures")])


def test_what_cannot_be_read_for_want_of_a_package_is_said_at_once(clips, monkeypatch):
    def missing():
        raise MissingExtra("Reading", "av", "audio")

    monkeypatch.setattr(recording, "pyav", missing)
    assert len(open_source(clips)) == 4
    sound(clips / "cat" / "e.wav").rename(clips / "cat" / "e.m4a")
    with pytest.raises(MissingExtra, match=r"pip install 'tacit\[audio\]'"):
        open_source(clips)


def test_nothing_to_hear_is_said_with_what_would_do(tmp_path):
    with pytest.raises(DataError, match=r"no image and no sound. It is empty. Images are: .*sounds are: .*\.wav"):
        open_source(tmp_path)
