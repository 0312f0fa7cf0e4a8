"""Feature sequences: .csd files, research pickles and folders of arrays, as people keep them."""

import os
import pickle

import h5py
import numpy as np
import pytest

from tacit.data import open_source, open_splits
from tacit.data.sequences import Options, Packing, clip
from tacit.errors import BadRecord, DataError, Unknown, UsageError
from tacit.views.sequences import measure

SEVEN = ["happy", "sad", "anger", "surprise", "disgust", "fear"]


def write_csd(path, name: str, segments: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    with h5py.File(path, "w") as file:
        for segment, (features, intervals) in segments.items():
            group = file.create_group(f"{name}/data/{segment}")
            group["features"], group["intervals"] = features, intervals
        file.create_group(f"{name}/metadata")


def spans(count: int, seconds: float) -> np.ndarray:
    edges = np.arange(count + 1) * seconds
    return np.stack([edges[:-1], edges[1:]], 1)


@pytest.fixture
def mosei(tmp_path):
    """Two videos of 4 seconds, two labelled sentences each: words, audio at 10 Hz, vision at 5 Hz."""
    rng = np.random.default_rng(0)
    words = {v: (np.array([[b"sp"], [b"Good"], [b"day"], [b"sir"]]), spans(4, 1.0)) for v in ("a", "b")}
    audio = {v: (rng.normal(size=(40, 4)), spans(40, 0.1)) for v in ("a", "b")}
    audio["a"][0][3, 1] = -np.inf
    audio["a"][0][4] = -np.inf
    vision = {"a": (rng.normal(size=(20, 3)), spans(20, 0.2))}  # of b no face was found
    labels = {
        "a": (np.array([[1.5, 1, 0, 0, 0, 0, 0.3], [-2, 0, 2, 0, 0, 0, 0]]), np.array([[0.0, 2.0], [2.0, 4.0]])),
        "b": (np.array([[0, 0, 0, 0, 0, 0, 0], [3, 3, 0, 0, 1 / 3, 0, 0]]), np.array([[0.0, 2.0], [2.0, 4.0]])),
    }
    for name, data in {"words": words, "COVAREP": audio, "FACET 4.2": vision, "All Labels": labels}.items():
        write_csd(tmp_path / f"CMU_MOSEI_{name.replace(' ', '')}.csd", name, data)
    return tmp_path


def test_csd_files_are_cut_at_the_labelled_sentences(mosei):
    source = open_source(f"sequences:{mosei}")
    assert [source.name(i) for i in range(4)] == ["a[0]", "a[1]", "b[0]", "b[1]"]
    assert source.groups.tolist() == ["a", "a", "b", "b"]
    assert (source.targets.kind, source.targets.names) == ("multi", SEVEN)
    assert source.targets.values.tolist()[0] == [1, 0, 0, 0, 0, 1]  # there, if the score is above 0
    assert source.targets.values.tolist()[3] == [1, 0, 0, 1, 0, 0]
    first, second = (source[i]["sequences"].tracks for i in (0, 1))
    assert first["text"].values.tolist() == ["good"]  # the pause before it is none
    assert second["text"].values.tolist() == ["day", "sir"]
    assert second["text"].times.tolist() == [[0, 1], [1, 2]]  # from the sentence's beginning
    assert first["audio"].values.shape == (20, 4)
    assert first["audio"].values[3, 1] == 0  # -inf
    assert first["audio"].values[3, 0] != 0
    assert first["audio"].valid.tolist() == [i != 4 for i in range(20)]
    assert first["vision"].values.shape == (10, 3)
    assert set(source[2]["sequences"].tracks) == {"text", "audio"}
    sentiment = open_source(f"sequences:{mosei}:target=sentiment")
    assert (sentiment.targets.kind, sentiment.targets.values[:, 0].tolist()) == ("numbers", [1.5, -2, 0, 3])


def test_csd_files_read_alike_in_another_process(mosei):
    source = open_source(f"sequences:{mosei}")
    source[0]  # opens the files
    again = pickle.loads(pickle.dumps(source))
    assert again[1]["sequences"].tracks["text"].values.tolist() == ["day", "sir"]


def test_csd_without_labels_and_with_several_of_a_kind(mosei):
    (mosei / "CMU_MOSEI_AllLabels.csd").unlink()
    source = open_source(f"sequences:{mosei}:vision=no")
    assert [source.name(i) for i in range(len(source))] == ["a", "b"]
    assert source.targets is None
    assert set(source[0]["sequences"].tracks) == {"text", "audio"}
    write_csd(mosei / "CMU_MOSEI_openSMILE.csd", "openSMILE", {"a": (np.ones((2, 2)), spans(2, 1.0))})
    with pytest.raises(UsageError, match=r"several files of audio: CMU_MOSEI_COVAREP.csd, CMU_MOSEI_openSMILE"):
        open_source(f"sequences:{mosei}")
    assert len(open_source(f"sequences:{mosei}:audio=CMU_MOSEI_openSMILE.csd")) == 2
    assert open_splits(f"sequences:{mosei}:audio=CMU_MOSEI_openSMILE.csd")[1] is None  # no parts
    (mosei / "CMU_MOSEI_openSMILE.csd").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no HDF5 file"):
        open_source(f"sequences:{mosei}:audio=CMU_MOSEI_openSMILE.csd,text=no,vision=no")


def research_pickle(path, aligned: bool = True) -> dict:
    """Three parts of four clips, two a video, padded before (text) and behind (audio, vision)."""
    rng, held = np.random.default_rng(0), {}
    for part in ("train", "valid", "test"):
        steps = {"text": 6, "audio": 6 if aligned else 20, "vision": 6 if aligned else 12}
        held[part] = {m: rng.normal(size=(4, steps[m], d)) for m, d in (("text", 5), ("audio", 3), ("vision", 2))}
        held[part]["text"][:, :2] = 0
        held[part]["audio"][:, -1] = 0
        held[part]["audio"][0, 3] = -np.inf
        held[part]["labels"] = np.stack([[[1.0, 1, 0, 0, 0, 0, 0]], [[-1.0, 0, 2, 0, 0, 0, 0]]] * 2)
        held[part]["id"] = np.array([[f"{part}{i // 2}", f"{i}.0", f"{i + 1}.0"] for i in range(4)])
    path.write_bytes(pickle.dumps(held))
    return held


def test_a_research_pickle_is_read_in_its_parts(tmp_path):
    held = research_pickle(tmp_path / "mosei.pkl")
    source = open_source(f"sequences:{tmp_path / 'mosei.pkl'}")
    assert len(source) == 4
    assert source.groups.tolist() == ["train0", "train0", "train1", "train1"]
    assert any("valid" in note and "left out" in note for note in source.notes)
    assert source.targets.names == SEVEN
    tracks = source[0]["sequences"].tracks
    # Aligned sequences stay so: what is padding in one and not in another stays, and is marked.
    assert {len(t.valid) for t in tracks.values()} == {6}
    assert tracks["text"].valid.tolist() == [False, False, True, True, True, True]
    assert tracks["audio"].valid.tolist() == [True, True, True, False, True, False]
    np.testing.assert_allclose(tracks["vision"].values, held["train"]["vision"][0], rtol=1e-6)
    train, test = open_splits(f"sequences:{tmp_path / 'mosei.pkl'}")
    assert (train.groups[0], test.groups[0]) == ("train0", "test0")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"train": held["train"]}))
    with pytest.raises(UsageError, match="has no part"):
        open_source(f"sequences:{tmp_path / 'x.pkl'}:part=test")


def test_unaligned_sequences_lose_their_own_padding(tmp_path):
    research_pickle(tmp_path / "u.pkl", aligned=False)
    tracks = open_source(f"sequences:{tmp_path / 'u.pkl'}:part=test")[1]["sequences"].tracks
    assert {name: len(t.valid) for name, t in tracks.items()} == {"text": 4, "audio": 19, "vision": 12}


def test_pairs_of_labels_are_iemocaps(tmp_path):
    part = {"audio": np.ones((3, 2, 2)), "labels": np.array([[[1, 0], [0, 1], [1, 0], [0, 1]]] * 3)}
    (tmp_path / "i.pkl").write_bytes(pickle.dumps({"train": part}))
    source = open_source(f"sequences:{tmp_path / 'i.pkl'}")
    assert source.targets.names == ["neutral", "happy", "sad", "angry"]
    assert source.targets.values[0].tolist() == [0, 1, 0, 1]


class Trap:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("trap", [Trap(), np.array([Trap()], dtype=object)], ids=["bare", "within an array"])
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, monkeypatch, trap):
    monkeypatch.chdir(tmp_path)
    part = {"audio": np.ones((1, 2, 2)), "id": trap}
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"train": part}))
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir"):
        open_source(f"sequences:{tmp_path / 'bad.pkl'}")
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "bad.pkl").read_bytes())
    assert (tmp_path / "made").exists()  # as it would have been


def folder(root, parts=("train", "test"), labels=True):
    rng, rows = np.random.default_rng(0), ["id,video,split,happy,fear,sentiment,remark"]
    for i in range(8):
        name = f"clip{i}"
        arrays = {"audio": rng.normal(size=(8, 3)), "vision": rng.normal(size=(4, 2)), "text": np.array(["Ab", "cd"])}
        arrays["vision"][1] = 0
        if i == 5:
            del arrays["text"]
        if i % 2:
            np.savez(root / f"{name}.npz", **arrays, audio_times=np.arange(8) / 10)
        else:
            (root / name).mkdir()
            for key, array in arrays.items():
                np.save(root / name / f"{key}.npy", array)
        rows.append(f"{name},v{i // 2},{parts[i // 4]},{i % 3},{'' if i == 2 else i % 2},{i - 4}.5,fine")
    if labels:
        (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_folder_of_arrays_with_a_table(tmp_path):
    source = open_source(f"sequences:{folder(tmp_path)}:part=all")
    order = [source.name(i) for i in range(8)]
    at = order.index
    assert source.targets.names == ["happy", "fear"]
    assert source.targets.values[at("clip2")].tolist() == [1, -1]  # an empty cell is unknown
    assert source.groups[at("clip3")] == "v1"
    assert any("remark" in note for note in source.notes)
    assert set(source[at("clip5")]["sequences"].tracks) == {"audio", "vision"}
    one = source[at("clip1")]["sequences"].tracks
    assert one["text"].values.tolist() == ["ab", "cd"]
    assert one["audio"].times[2].tolist() == pytest.approx([0.2, 0.3])
    assert one["vision"].valid.tolist() == [True, False, True, True]
    train, test = open_splits(str(tmp_path), kind="sequences")
    assert (len(train), len(test)) == (4, 4)
    assert not set(train.groups) & set(test.groups)


def test_a_video_on_both_sides_is_refused(tmp_path):
    folder(tmp_path)
    table = (tmp_path / "labels.csv").read_text().replace("clip1,v0,train", "clip1,v0,test")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match="lie in train and in test, the first is v0"):
        open_source(f"sequences:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("id,", "what,"), "no column of records"),
        (lambda t: t.replace("clip1,", "clip0,"), "clip0 has more rows than one"),
        (lambda t: t.replace("v0,train", "v0,later"), "of part 'later'"),
        (lambda t: t.replace("clip", "other"), "none of its 8 records is there"),
    ],
)
def test_tables_that_do_not_fit_are_told(tmp_path, change, said):
    folder(tmp_path)
    (tmp_path / "labels.csv").write_text(change((tmp_path / "labels.csv").read_text()))
    with pytest.raises(DataError, match=said):
        open_source(f"sequences:{tmp_path}")


def test_what_is_no_such_data_is_told(tmp_path):
    with pytest.raises(DataError, match="holds no sequences"):
        open_source(f"sequences:{tmp_path}")
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"sequences:{tmp_path / 'none'}")
    with pytest.raises(Unknown, match="option of sequences"):
        Options.parse("x:prat=train")
    np.savez(tmp_path / "a.npz", audio=np.zeros((3, 2)))
    np.savez(tmp_path / "b.npz", audio=np.ones((3, 2)), text=np.ones((2, 4)))
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    source = open_source(f"sequences:{tmp_path}")
    with pytest.raises(BadRecord, match="more than zeros"):
        source.check(0)
    source.check(1)
    with pytest.raises(BadRecord, match="no arrays"):
        source.check(2)
    with pytest.raises(BadRecord, match="3 numbers a position, and 2 are read"):
        Packing((0, 3, 0), (0, 2, 0)).pack(clip({"audio": (np.ones((3, 3)), None)}))


def test_the_training_data_says_what_inputs_there_are(tmp_path):
    source = open_source(f"sequences:{folder(tmp_path)}")
    found = measure(source, most=6, least=1)
    assert found.inputs.lengths == (2, 6, 4)
    assert found.inputs.dims == (1, 3, 2)
    assert found.inputs.words == ("ab", "cd")
    assert found.inputs.vocabulary == 4  # with padding and the unknown word
    frames = np.concatenate([source[i]["sequences"].tracks["audio"].values for i in range(4)])
    assert found.inputs.mean[:3] == pytest.approx(frames.mean(0), rel=1e-4)
    assert found.inputs.std[:3] == pytest.approx(frames.std(0), rel=1e-4)
    vision = [source[i]["sequences"].tracks["vision"] for i in range(4)]
    seen = np.concatenate([t.values[t.valid] for t in vision])
    assert len(seen) == 12  # frames without a face are not counted
    assert found.inputs.std[3:] == pytest.approx(seen.std(0), rel=1e-4)
    assert found.rates[1] == pytest.approx(10)
    row = found.inputs.packing.pack(clip({"text": (np.array(["cd", "never"]), None)}))
    assert row[0, :2].tolist() == [3, 1]
    (tmp_path / "clip9.npz").unlink(missing_ok=True)
    np.savez(tmp_path / "clip9.npz", audio=np.ones((3, 7)))
    with pytest.raises(DataError, match="7 numbers a position, and others have 3"):
        measure(open_source(f"sequences:{tmp_path}:part=all"))
