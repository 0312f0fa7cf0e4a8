import os
import pickle
import tarfile
import zipfile

import datasets
import numpy as np
import pytest
from PIL import Image

from tacit.data import mix, open_source, open_splits
from tacit.errors import BadRecord, DataError


def image(path, value: int = 100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)
    return path


def red(source, i) -> int:
    return int(source[i]["image"].array()[0, 0, 0])


@pytest.fixture
def photos(tmp_path):
    for i, name in enumerate(["b.png", "a.jpg", "deep/er/c.PNG", "deep/d.bmp"]):
        image(tmp_path / "photos" / name, 10 * i)
    (tmp_path / "photos" / "notes.txt").write_text("hello")
    image(tmp_path / "photos" / ".hidden" / "x.png")
    return tmp_path / "photos"


def test_a_folder_is_read_whole_in_a_fixed_order(photos):
    source = open_source(photos)
    assert [source.name(i) for i in range(len(source))] == ["a.jpg", "b.png", "deep/d.bmp", "deep/er/c.PNG"]
    assert source.labels is None
    assert red(source, 1) == 0
    assert red(pickle.loads(pickle.dumps(source)), 2) == 30


def test_class_folders_are_labels_unless_left_out(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        image(tmp_path / name)
    source = open_source(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [0, 0, 1]
    assert open_source(tmp_path, labels=None).labels is None
    image(tmp_path / "loose.png")
    assert open_source(tmp_path).labels is None


def test_the_index_is_kept_until_a_folder_changes(photos, monkeypatch):
    first = open_source(photos)
    calls = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: calls.append(p) or scandir(p))
    assert open_source(photos).fingerprint == first.fingerprint
    assert not calls
    os.utime(image(photos / "deep" / "new.png").parent, ns=(1, 1))
    assert len(open_source(photos)) == 5
    assert calls


def test_a_damaged_index_is_built_again(photos):
    open_source(photos)
    for stored in (photos.parent / "x").parent.glob("**/folder-*.arrow"):
        stored.write_bytes(b"broken")
    cache = os.environ["TACIT_CACHE"]
    for name in os.listdir(cache):
        if name.endswith(".arrow"):
            with open(os.path.join(cache, name), "wb") as f:
                f.write(b"broken")
    assert len(open_source(photos)) == 4


def test_links_are_followed_once_and_broken_ones_counted(photos):
    (photos / "again.png").symlink_to(photos / "b.png")
    (photos / "nowhere.png").symlink_to(photos / "gone.png")
    (photos / "loop").symlink_to(photos)
    source = open_source(photos)
    assert len(source) == 4
    assert source.notes == ["1 link names a file twice and was left out."]
    assert source.skipped == [("nowhere.png", "broken link")]


def test_a_file_that_vanishes_is_that_records_trouble(photos):
    source = open_source(photos)
    (photos / "b.png").unlink()
    with pytest.raises(BadRecord, match="no such file"):
        source[1]


def test_what_may_not_be_read(photos, monkeypatch):
    source = open_source(photos)

    def refuse(*_):  # what the system does, also where the tests run as root and may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(BadRecord, match="permission denied"):
        source.store.read(1)


def test_nothing_to_read_is_said_with_what_was_found(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="It is empty"):
        open_source(tmp_path / "empty")
    (tmp_path / "empty" / "film.mov").write_bytes(b"x")
    with pytest.raises(DataError, match=r"other kinds: \.mov"):
        open_source(tmp_path / "empty")
    with pytest.raises(DataError, match=r"does not exist.*holds: empty"):
        open_source(tmp_path / "emtpy")
    single = image(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"single file. Give the folder"):
        open_source(single)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_official_zip_and_its_map(photos, tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "train.zip", "w", compression) as z:
        for i, name in enumerate(["x/a.png", "x/b.png"]):
            z.write(image(tmp_path / "t.png", 50 * i), name)
    assert open_source(tmp_path / "train.zip").labels is None
    (tmp_path / "train_map.txt").write_text("x/a.png\t3\nx/b.png\t1\n")
    source = open_source(tmp_path / "train.zip")
    assert source.labels.tolist() == [3, 1]
    assert len(source.classes) == 4
    assert red(pickle.loads(pickle.dumps(source)), 1) == 50
    (tmp_path / "train_map.txt").write_text("x/a.png\tthree\n")
    with pytest.raises(DataError, match="line 1"):
        open_source(tmp_path / "train.zip")


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard:03d}.tar", "w") as t:
            for i in range(3):
                (tmp_path / "l.cls").write_text(str(i % 2))
                t.add(image(tmp_path / "p.png", 100 * shard + i), f"{i:05d}.png")
                t.add(tmp_path / "l.cls", f"{i:05d}.cls")
    for how in (tmp_path / "s-*.tar", tmp_path / "s-{000..001}.tar"):
        source = open_source(how)
        assert len(source) == 6
        assert source.labels.tolist() == [0, 1, 0] * 2
        assert [red(source, i) for i in range(6)] == [0, 1, 2, 100, 101, 102]
    assert source.name(4) == "s-001.tar/00001.png"


def test_parquet_through_datasets(tmp_path):
    rows = {"image": [str(image(tmp_path / f"{i}.png", i)) for i in range(4)], "label": [1, 0, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(tmp_path / "train.parquet")
    for data in (tmp_path / "train.parquet", made):
        source = open_source(data)
        assert source.labels.tolist() == [1, 0, 1, 0]
        assert source.classes == ["no", "yes"]
        assert [red(source, i) for i in range(4)] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="no column of images or sounds"):
        open_source(datasets.Dataset.from_dict({"text": ["a"]}))


def test_arrays_and_npy_files(tmp_path):
    array = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    np.save(tmp_path / "a.npy", array)
    for data in (array, tmp_path / "a.npy"):
        source = pickle.loads(pickle.dumps(open_source(data, channels=1)))
        np.testing.assert_array_equal(source[3]["image"].array()[:, :, 0], array[3])
    with pytest.raises(DataError, match=r"\[N, H, W\]"):
        open_source(np.zeros(5))


def test_splits_share_their_classes(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png", "test/a/1.png"):
        image(tmp_path / "set" / name)
    train, test = open_splits(tmp_path / "set")
    assert (len(train), len(test)) == (3, 2)
    assert test.labels.tolist() == [0, 2]
    assert open_splits(tmp_path / "set" / "train")[1] is None
    image(tmp_path / "set" / "test" / "d" / "1.png")
    with pytest.raises(DataError, match=r"classes that .* has not: d"):
        open_splits(tmp_path / "set" / "train", tmp_path / "set" / "test")


def test_several_sources_are_one(photos):
    both = mix([open_source(photos), open_source(np.full((2, 4, 4), 77, np.uint8))])
    assert len(both) == 6
    assert red(both, 5) == 77
    assert both.name(4) == "ndarray/array#0"
    assert both.select(np.array([5, 1])).name(1) == f"{photos}/b.png"


def test_parts_of_a_labelled_set_are_no_classes(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/dog/2.png"):
        image(tmp_path / "set" / name)
    source = open_source(tmp_path / "set")
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source.notes == [
        "The data holds test and train, and all of it is used. Give train alone to keep the rest unseen."
    ]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("train/cat/1.png", "train/dog/1.png", "test/dog/2.png"):
            archive.write(tmp_path / "set" / name, name)
    zipped = open_source(tmp_path / "set.zip")
    assert zipped.classes == ["cat", "dog"]
    assert zipped.notes == source.notes
    image(tmp_path / "set" / "loose.png")
    assert open_source(tmp_path / "set").labels is None


@pytest.mark.parametrize(("name", "comma"), [("files.csv", ","), ("files.tsv", "\t")])
def test_a_table_lists_files_and_their_labels(tmp_path, name, comma):
    for i, file in enumerate(("x/b.png", "a, with comma.png", "x/c.png")):
        image(tmp_path / file, 40 * i)
    rows = [["Label", "file_name"], ["10", "x/b.png"], ["9", '"a, with comma.png"'], ["10", "gone.png"]]
    (tmp_path / name).write_text("".join(comma.join(row) + "\n" for row in rows))
    source = open_source(tmp_path / name)
    assert source.classes == ["9", "10"]
    assert source.labels.tolist() == [1, 0, 1]
    assert [source.name(i) for i in range(2)] == ["x/b.png", "a, with comma.png"]
    assert red(source, 1) == pytest.approx(40, abs=2)
    with pytest.raises(BadRecord, match="no such file"):
        source[2]
    (tmp_path / name).write_text("path\nx/c.png\n")
    assert open_source(tmp_path / name).labels is None
    assert len(open_source(tmp_path / name)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("a,b\n1,2\n", "no column of paths .*a, b"),
        ("path,label\n", "lists no file"),
        ("path,label\na.png,1\n,2\n", "1 rows name no file, the first is row 3"),
        ("path,label\na.png,1\nb.png,\n", "1 labels are missing, the first in row 3"),
        ("path,label\na.png\n", "cannot be read as a table"),
    ],
)
def test_a_table_of_files_that_cannot_be_used_says_why(tmp_path, text, said):
    (tmp_path / "files.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        open_source(tmp_path / "files.csv")


def test_two_sources_with_the_same_names_stay_apart(tmp_path):
    for part in ("one", "two"):
        image(tmp_path / part / "a.png")
        (tmp_path / part / "b.png").symlink_to("nowhere")
    both = mix([open_source(tmp_path / "one"), open_source(tmp_path / "two")])
    assert [both.name(i) for i in range(2)] == [f"{tmp_path}/one/a.png", f"{tmp_path}/two/a.png"]
    assert [name for name, _ in both.skipped] == [f"{tmp_path}/one/b.png", f"{tmp_path}/two/b.png"]
    twice = mix([open_source(tmp_path / "one"), open_source(tmp_path / "one")])
    assert len({twice.name(i) for i in range(2)}) == 2
