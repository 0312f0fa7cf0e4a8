"""Stacks of frames: what is in them, where they end, and every way frames are kept."""

import gzip
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from tacit.data import mix, open_source
from tacit.data.episodes import natural
from tacit.errors import BadRecord, DataError, MissingExtra, Unknown, UsageError
from tacit.views import Crop, Views, input_spec

FIELDS = ("image", "previous", "next")


def counting(length: int, side: int = 8) -> np.ndarray:
    """Frames that hold their own number: [length, side, side]."""
    return np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None], (length, side, side)).copy()


def stacks(source, index: int) -> list[list[int]]:
    record = source.record(index, FIELDS)
    arrays = [record[f].array() for f in FIELDS]
    assert all((a == a[:1, :1]).all() for a in arrays)
    return [a[0, 0].tolist() for a in arrays]


@pytest.fixture
def one(tmp_path):
    np.save(tmp_path / "a.npy", counting(12))
    return tmp_path


def test_a_stack_with_those_before_and_after_it(one):
    source = open_source(f"episodes:{one}")
    assert len(source) == 10
    for i in range(3, 7):
        now, before, after = stacks(source, i)
        assert now == [i, i + 1, i + 2]
        assert before == [i - 3, i - 2, i - 1]
        assert after == [i + 3, i + 4, i + 5]
    assert source.name(4) == "a.npy#4"


def test_neighbours_are_clamped_at_both_ends(one):
    source = open_source(f"episodes:{one}")
    assert stacks(source, 0) == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert stacks(source, 1) == [[1, 2, 3], [0, 1, 2], [4, 5, 6]]
    assert stacks(source, 8) == [[8, 9, 10], [5, 6, 7], [9, 10, 11]]
    assert stacks(source, 9) == [[9, 10, 11], [6, 7, 8], [9, 10, 11]]


def test_or_records_without_neighbours_are_dropped(one):
    source = open_source(f"episodes:{one}:edges=drop")
    assert len(source) == 4
    assert stacks(source, 0) == [[3, 4, 5], [0, 1, 2], [6, 7, 8]]
    assert stacks(source, 3) == [[6, 7, 8], [3, 4, 5], [9, 10, 11]]


@pytest.mark.parametrize("edges", ["clamp", "drop"])
def test_no_stack_reaches_over_the_end_of_an_episode(tmp_path, edges):
    flags = np.zeros(40, np.uint8)
    flags[[9, 11, 24]] = 1  # episodes 0-9, 10-11 (too short), 12-24, 25-39
    np.save(tmp_path / "observation_1.npy", counting(40))
    np.save(tmp_path / "terminal_1.npy", flags)
    source = open_source(f"episodes:{tmp_path}:edges={edges}")
    assert len(source) == (8 + 11 + 13 if edges == "clamp" else 2 + 5 + 7)
    for i in range(len(source)):
        frames = [f for stack in stacks(source, i) for f in stack]
        assert len({(f > 9) + (f > 11) + (f > 24) for f in frames}) == 1
    assert source.notes == ["1 of 4 episodes are too short for a stack and were left out."]


def test_every_record_holds_frames_one_after_another(tmp_path):
    np.save(tmp_path / "x.npy", counting(30))
    np.save(tmp_path / "terminal_x.npy", np.arange(30) % 10 == 9)
    source = open_source(f"episodes:{tmp_path}")
    for i in range(len(source)):
        for stack in stacks(source, i):
            assert stack == list(range(stack[0], stack[0] + 3))


def test_frames_in_folders_in_the_order_of_their_numbers(tmp_path):
    for game in ("pong", "alien"):
        for i in range(12):
            path = tmp_path / game / "first" / f"frame_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(counting(12)[i]).save(path)
    source = open_source(f"episodes:{tmp_path}")
    assert len(source) == 20
    assert source.classes == ["alien", "pong"]
    assert source.labels.tolist() == [0] * 10 + [1] * 10
    assert stacks(source, 15) == [[5, 6, 7], [2, 3, 4], [8, 9, 10]]
    assert source.name(15) == "pong/first#5"
    assert sorted(["f10", "f9", "f1"], key=natural) == ["f1", "f9", "f10"]


def gzipped(path, array) -> None:
    held = io.BytesIO()
    np.save(held, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(held.getvalue()))


def test_the_files_of_dqn_replay(tmp_path):
    for game in ("Pong", "Alien"):
        gzipped(tmp_path / game / "observation_1.gz", counting(20))
        gzipped(tmp_path / game / "terminal_1.gz", np.arange(20) % 10 == 9)
        gzipped(tmp_path / game / "action_1.gz", np.zeros(20, np.int32))
    source = open_source(f"episodes:{tmp_path}")
    assert len(source) == 2 * 2 * 8
    assert source.classes == ["Alien", "Pong"]
    assert stacks(source, 8) == [[10, 11, 12], [10, 11, 12], [13, 14, 15]]
    assert len(open_source(f"episodes:{tmp_path}:first=15")) == 2 * (8 + 3)
    again = pickle.loads(pickle.dumps(source))
    assert stacks(again, 8) == stacks(source, 8)


def test_npz_with_flags_inside_and_colour(tmp_path):
    colour = np.stack([counting(9)] * 3, axis=3)
    np.savez_compressed(tmp_path / "a.npz", observations=colour, terminals=np.arange(9) == 3)
    source = open_source(f"episodes:{tmp_path}")
    assert len(source) == 2 + 3
    assert stacks(source, 2)[0] == [4, 5, 6]
    alone = open_source(f"episodes:{tmp_path}:frames=1")
    assert alone.record(5, FIELDS)["next"].array()[0, 0].tolist() == [6, 6, 6]
    with pytest.raises(UsageError, match="frames=2: so many frames have 2 channels if grey and 6 in colour"):
        open_source(f"episodes:{tmp_path}:frames=2")


def test_a_broken_file_is_listed_and_the_others_are_read(one):
    (one / "b.gz").write_bytes(gzip.compress(b"no array at all"))
    gzipped(one / "c.gz", counting(12))
    (one / "c.gz").write_bytes((one / "c.gz").read_bytes()[:60])
    np.save(one / "d.npy", np.zeros(5))
    source = open_source(f"episodes:{one}")
    assert len(source) == 10
    reasons = dict(source.skipped)
    assert "damaged" in reasons["b.gz"]
    assert reasons["c.gz"] in ("truncated", "damaged, or no array of numbers (error)")
    assert "this array is [5]" in reasons["d.npy"]


def test_flags_that_do_not_fit_are_said(tmp_path):
    np.save(tmp_path / "observation_1.npy", counting(12))
    np.save(tmp_path / "terminal_1.npy", np.zeros(5))
    with pytest.raises(DataError, match="5 terminal flags for 12 frames"):
        open_source(f"episodes:{tmp_path}")


def test_a_name_with_wrong_options(one):
    with pytest.raises(Unknown, match="Did you mean 'edges'"):
        open_source(f"episodes:{one}:edge=drop")
    with pytest.raises(Unknown, match="There is: clamp, drop"):
        open_source(f"episodes:{one}:edges=cut")
    with pytest.raises(UsageError, match="first must be a whole number"):
        open_source(f"episodes:{one}:first=many")
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"episodes:{one / 'no'}")
    with pytest.raises(DataError, match="no episode has 30 frames; the longest has 12"):
        open_source(f"episodes:{one}:edges=drop", channels=10)


def test_the_index_follows_the_files(one):
    first = open_source(f"episodes:{one}")
    assert open_source(f"episodes:{one}").fingerprint == first.fingerprint
    np.save(one / "b.npy", counting(12))
    second = open_source(f"episodes:{one}")
    assert len(second) == 20
    assert second.fingerprint != first.fingerprint
    assert open_source(f"episodes:{one}:edges=drop").fingerprint != second.fingerprint
    np.save(one / "b.npy", counting(13))
    assert len(open_source(f"episodes:{one}")) == 21


def test_a_folder_of_images_without_the_prefix_is_what_it_was(tmp_path):
    for i in range(4):
        Image.fromarray(counting(4)[i]).save(tmp_path / f"{i}.png")
    source = open_source(tmp_path)
    assert len(source) == 4
    assert source.fields == ("image",)


def test_views_read_the_picture_they_name(one, tmp_path):
    spec = input_spec(8)
    views = [Crop(spec, "a", whole=True), Crop(spec, "b", "next", True), Crop(spec, "c", "previous", True)]
    source = open_source(f"episodes:{one}")
    for data, index in ((source, 5), (mix([source, source]), 15), (source.select(np.array([5])), 0)):
        crops = Views(data, views, 0)[(0, index)]["crops"]
        assert [c[0, 0].tolist() for c in crops] == [[5, 6, 7], [8, 9, 10], [2, 3, 4]]
    plain = open_source(counting(4))
    assert mix([source, plain]).fields == ("image",)
    with pytest.raises(DataError, match=r"no next and no previous .*episodes:FOLDER"):
        Views(plain, views, 0)


def test_frames_that_vanish_are_that_records_trouble(tmp_path):
    for i in range(4):
        Image.fromarray(counting(4)[i]).save(tmp_path / f"{i}.png")
    source = open_source(f"episodes:{tmp_path}")
    (tmp_path / "3.png").unlink()
    assert source[0]["image"].array()[0, 0].tolist() == [0, 1, 2]
    with pytest.raises(BadRecord, match="cannot be read"):
        source[1]


def test_video_without_pyav_names_its_install_line(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tacit\[video\]'"):
        open_source(f"episodes:{tmp_path}")


def test_video_files(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for frame in counting(12, 64)[:, :48]:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame * 10, format="gray")))
        out.mux(stream.encode(None))
    source = open_source(f"episodes:{tmp_path}:side=24")
    assert len(source) == 10
    picture = source.record(5, FIELDS)["next"]
    assert (picture.height, picture.width) == (24, 32)
    assert picture.array()[5, 5].tolist() == [80, 90, 100]
    (tmp_path / "b.mp4").write_bytes(b"x" * 100)
    assert dict(open_source(f"episodes:{tmp_path}").skipped)["b.mp4"].startswith("no video")
