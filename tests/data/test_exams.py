"""Exams: how people keep them, what is in a slice, how often each is drawn, and what is refused by name."""

import pickle

import numpy as np
import pytest

from tacit.data import mix, open_source
from tacit.data.batches import epoch_order
from tacit.data.exams import Options, open_exams
from tacit.data.volumes import measured, scaled
from tacit.errors import BadRecord, DataError, MissingExtra, Unknown, UsageError
from tacit.views import Blocks, Corrupted, Crop, Tilted, Views, input_spec


def volume(slices: int = 5, side: int = 12, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    """Slices that rise in brightness with their number, with some noise."""
    rng = np.random.default_rng(seed)
    rise = np.linspace(20, 200, slices)[:, None, None]
    return (rise + rng.uniform(0, 40, (slices, side, side))).astype(dtype)


def mrnet(root, exams: int = 6, planes=("axial", "coronal", "sagittal")):
    """MRNet's layout: two thirds of the exams in train, the others in valid; 4 + i slices in exam i."""
    for i in range(exams):
        part = "train" if i < exams * 2 // 3 else "valid"
        for k, plane in enumerate(planes):
            (root / part / plane).mkdir(parents=True, exist_ok=True)
            np.save(root / part / plane / f"{i:04d}.npy", volume(4 + i, 12, seed=10 * i + k))
    return root


def test_the_layout_of_mrnet_comes_back_as_it_was_written(tmp_path):
    root = mrnet(tmp_path)
    source = open_source(f"exams:{root}:plane=sagittal,part=all")
    assert len(source) == sum(4 + i for i in range(6))
    assert source.store.column("exam").tolist() == [f"{i:04d}" for i in range(6)]
    assert source.store.column("part").tolist() == ["train"] * 4 + ["valid"] * 2
    assert source.name(4) == "train/sagittal/0001.npy#0"
    whole = np.load(root / "train/sagittal/0001.npy")
    low, high = np.percentile(whole, (0.5, 99.5))
    picture = source[4]["image"]
    assert (picture.height, picture.width) == (12, 12)
    expected = ((whole[0].astype(np.float64) - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(picture.array(), np.repeat(expected[:, :, None], 3, 2), atol=1e-6)
    assert source.groups.tolist() == [f"{i:04d}" for i in range(6) for _ in range(4 + i)]


def test_what_is_for_testing_is_left_out_unless_asked_for(tmp_path):
    root = mrnet(tmp_path)
    source = open_source(f"exams:{root}:plane=axial")
    assert set(source.groups) == {"0000", "0001", "0002", "0003"}
    assert any("valid left out" in note for note in source.notes)
    everything = open_source(f"exams:{root}:plane=axial,part=all")
    assert any("what was seen unlabelled" in note for note in everything.notes)
    assert set(open_source(f"exams:{root}:plane=axial,part=valid").groups) == {"0004", "0005"}
    assert len(open_source(f"exams:{root / 'train'}:plane=axial")) == len(source)
    with pytest.raises(UsageError, match="has no part test; it has train, valid"):
        open_source(f"exams:{root}:plane=axial,part=test")


def test_planes_are_named_where_there_are_several(tmp_path):
    root = mrnet(tmp_path)
    with pytest.raises(UsageError, match=r"different planes \(axial, coronal, sagittal\).*plane=axial"):
        open_source(f"exams:{root}")
    every = open_source(f"exams:{root}:plane=all")
    assert len(every) == 3 * len(open_source(f"exams:{root}:plane=axial"))
    assert np.array_equal(every.sided, every.store.of_slices("plane") == "sagittal")
    sagittal = mrnet(tmp_path / "one", planes=("sagittal",))
    assert len(open_source(f"exams:{sagittal}")) == 22


def test_each_exam_has_the_same_share_of_an_epoch(tmp_path):
    for i, slices in enumerate((2, 10, 28)):
        np.save(tmp_path / f"e{i}.npy", volume(slices))
    source = open_source(f"exams:{tmp_path}")
    order = epoch_order(source, 0, 0)
    exam = source.groups[order]
    assert [int((exam == f"e{i}").sum()) for i in range(3)] in ([13, 14, 13], [13, 13, 14], [14, 13, 13])
    assert len(set(order[exam == "e2"].tolist())) == (exam == "e2").sum()  # none twice while there are others
    assert np.array_equal(order, epoch_order(source, 0, 0))
    assert not np.array_equal(order, epoch_order(source, 0, 1))
    counts = np.bincount(np.concatenate([epoch_order(source, 0, e) for e in range(200)]), minlength=40)
    assert counts[2:12].min() > 0.8 * counts[2:12].mean()  # of an exam, each slice alike
    assert np.abs(counts[12:].mean() * 28 / counts.sum() - 1 / 3) < 0.02


def test_an_exam_of_several_planes_counts_once(tmp_path):
    np.save(tmp_path / "a.npy", volume(6))
    for plane in ("axial", "coronal"):
        (tmp_path / "b").mkdir(exist_ok=True)
        np.save(tmp_path / "b" / f"{plane}.npy", volume(6))
    source = open_source(f"exams:{tmp_path}:plane=all")
    assert source.weights == (1.0, 0.5, 0.5)
    both = mix([source, open_source(np.zeros((18, 8, 8), np.uint8))])
    assert both.weights == (9.0, 4.5, 4.5, 18)
    assert both.lengths == (6, 6, 6, 18)
    assert both.sided.sum() == 0
    assert both.groups is None  # the pictures have none
    twice = mix([source, source], [1, 3])
    assert twice.weights == (0.5, 0.25, 0.25, 1.5, 0.75, 0.75)
    assert len(set(twice.groups.tolist())) == 4


def test_neighbours_are_clamped(tmp_path):
    np.save(tmp_path / "a.npy", volume(3))
    store = open_source(f"exams:{tmp_path}").store
    first, second, last = (store.read(i) for i in range(3))
    assert np.array_equal(store.read(0, "previous"), first)
    assert np.array_equal(store.read(0, "next"), second)
    assert np.array_equal(store.read(2, "next"), last)
    assert np.array_equal(store.read(2, "previous"), second)


def test_so_many_exams_always_the_same(tmp_path):
    for i in range(9):
        np.save(tmp_path / f"e{i}.npy", volume(3, seed=i))
    few, more = (set(open_source(f"exams:{tmp_path}:max_exams={n}").groups.tolist()) for n in (3, 5))
    assert len(few) == 3
    assert few < more
    assert len(set(open_source(f"exams:{tmp_path}:max_exams=99").groups.tolist())) == 9


def test_records_are_read_again_in_another_process(tmp_path):
    source = open_source(f"exams:{mrnet(tmp_path)}:plane=coronal")
    before = source[7]["image"].array()
    again = pickle.loads(pickle.dumps(source))
    assert not again.store._open
    assert np.array_equal(again[7]["image"].array(), before)
    assert len(pickle.dumps(source.store)) < 3000


def test_few_series_are_held_open(tmp_path):
    for i in range(12):
        np.save(tmp_path / f"e{i:02d}.npy", volume(3))
    store = open_source(f"exams:{tmp_path}").store
    for i in range(36):
        store.read(i)
    assert len(store._open) == 8
    (tmp_path / "e00.npy").unlink()
    with pytest.raises(BadRecord, match="cannot be read"):
        store.read(0)


def test_the_index_follows_the_files(tmp_path):
    np.save(tmp_path / "a.npy", volume(3))
    first = open_source(f"exams:{tmp_path}")
    assert open_source(f"exams:{tmp_path}").stamp() == first.stamp()
    np.save(tmp_path / "b.npy", volume(4))
    second = open_source(f"exams:{tmp_path}")
    assert len(second) == 7
    assert second.fingerprint != first.fingerprint
    np.save(tmp_path / "b.npy", volume(6))
    assert len(open_source(f"exams:{tmp_path}")) == 9


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (volume(1), "one slice only"),
        (np.full((4, 8, 8), 7, np.uint8), "the same value everywhere (7)"),
        (np.zeros((3, 4, 8, 8), np.uint8), "4 dimensions, [3, 4, 8, 8]; a volume has 3"),
        (np.zeros((8, 8), np.uint8), "2 dimensions"),
        (np.where(np.arange(300).reshape(3, 10, 10) == 5, np.nan, 1.0), "NaN or infinite"),
        (np.where(np.arange(300).reshape(3, 10, 10) == 5, np.inf, 1.0), "NaN or infinite"),
        (np.array([{}, 1], dtype=object), "pickled objects, which are not loaded"),
        (volume(3).astype("S4"), "no numbers"),
        (np.moveaxis(volume(3), 0, 2), "slices seem to be last in [12, 12, 3]"),
    ],
)
def test_a_volume_that_is_none_is_left_out_by_name(tmp_path, array, said):
    np.save(tmp_path / "good.npy", volume(3))
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    source = open_source(f"exams:{tmp_path}")
    assert len(source) == 3
    ((name, reason),) = source.skipped
    assert name == "bad.npy"
    assert said in reason
    (tmp_path / "good.npy").unlink()
    with pytest.raises(DataError, match=r"holds no exam that can be read\. bad\.npy"):
        open_source(f"exams:{tmp_path}")


def test_damaged_files_empty_folders_and_repeated_exams(tmp_path):
    with pytest.raises(DataError, match=r"holds no exam\. A series of slices is"):
        open_source(f"exams:{tmp_path}")
    np.save(tmp_path / "good.npy", volume(3))
    np.save(tmp_path / "cut.npy", volume(9))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:400])
    (tmp_path / "text.npy").write_text("no array")
    for folder in ("x", "x/axial"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "x" / "axial.npy", volume(3))
    np.save(tmp_path / "x" / "axial" / "axial.npy", volume(3))
    source = open_source(f"exams:{tmp_path}")
    assert set(source.groups) == {"good"}
    reasons = dict(source.skipped)
    assert "damaged" in reasons["cut.npy"]
    assert "x/axial.npy" in reasons
    assert "2 axial series of the exam x" in reasons["x/axial/axial.npy"]


def test_an_exam_on_both_sides_is_an_error(tmp_path):
    root = mrnet(tmp_path)
    np.save(root / "valid/axial/0001.npy", volume(4))
    with pytest.raises(DataError, match=r"1 exams lie in two parts, the first is 0001 \(train and valid\)"):
        open_source(f"exams:{root}:plane=axial")


def test_options_are_checked(tmp_path):
    with pytest.raises(Unknown, match="Did you mean 'sagittal'"):
        open_source(f"exams:{tmp_path}:plane=sagital")
    with pytest.raises(Unknown, match="Did you mean 'plane'"):
        open_source(f"exams:{tmp_path}:planes=axial")
    with pytest.raises(Unknown, match="There is: train, valid, test, all"):
        open_source(f"exams:{tmp_path}:part=dev")
    with pytest.raises(UsageError, match="max_exams must be a whole number"):
        open_source(f"exams:{tmp_path}:max_exams=few")
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"exams:{tmp_path / 'no'}")
    assert Options.parse("a:plane=axial,max_exams=3")[1] == Options("axial", None, 3)


def test_a_few_bright_pixels_still_have_a_range():
    slices = np.zeros((4, 40, 40), np.uint16)
    slices[1, 3, 4] = 1000
    found = measured(slices)
    assert (found.low, found.high) == (0, 1000)
    wave = 100 * np.sin(np.arange(4 * 30 * 30)).reshape(4, 30, 30)
    found = measured(wave)
    unit = scaled(wave, found.low, found.high)
    assert unit.min() == 0
    assert unit.max() == 1
    assert found.mean == pytest.approx(unit.mean(), rel=1e-6)
    assert found.square == pytest.approx(np.square(unit).mean(), rel=1e-6)
    assert ((unit == 0).mean(), (unit == 1).mean()) == (pytest.approx(0.005, abs=1e-3), pytest.approx(0.005, abs=1e-3))


def test_statistics_of_the_whole_are_those_of_its_slices(tmp_path):
    source = open_source(f"exams:{mrnet(tmp_path)}:plane=axial,part=all")
    every = np.concatenate([source.store.read(i).ravel() for i in range(len(source))])
    assert f"mean is {every.mean():.3f} and their deviation {every.std():.3f}" in source.notes[-1]


def test_a_sagittal_slice_is_never_mirrored_and_every_view_knows_its_exam(tmp_path):
    root, spec = mrnet(tmp_path), input_spec(8)
    views = [
        Crop(spec, "a", flip=1.0),
        Corrupted(Tilted(Crop(spec, "b", flip=1.0)), Blocks(max_block := 1, 0.6), apart=True),
    ]
    assert max_block == 1
    sagittal, axial = (Views(open_source(f"exams:{root}:plane={p}"), views, 0) for p in ("sagittal", "axial"))
    for i in range(6):
        assert [p["flip"] for p in sagittal[(0, i)]["params"]] == [False, False]
        assert [p["flip"] for p in axial[(0, i)]["params"]] == [True, True]
        plain, grouped = axial[(0, i)]["params"]
        assert "group" not in plain
        assert grouped["group"] == (0 if i < 4 else 1)
    alone = Views(open_source(volume(5)), views, 0)
    assert [alone[(0, i)]["params"][1]["group"] for i in range(5)] == [0, 1, 2, 3, 4]


def nifti(path, array: np.ndarray, spacing=(1.0, 1.0, 1.0), affine=None) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def test_nifti_of_thick_slices_says_its_plane(tmp_path):
    body = volume(6, 12).transpose(1, 2, 0).astype(np.int16)  # [x, y, z]: axial
    nifti(tmp_path / "a.nii.gz", body, (0.5, 0.5, 4.0))
    source = open_source(f"exams:{tmp_path}")
    assert source.store.column("plane").tolist() == ["axial"]
    assert len(source) == 6
    low, high = np.percentile(body, (0.5, 99.5))
    # Rows from the front, columns from the right: both axes fall.
    expected = ((body[::-1, ::-1, 2].T - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(source.store.read(2), expected, atol=1e-6)
    with pytest.raises(DataError, match="holds 1 series, and none is sagittal"):
        open_source(f"exams:{tmp_path}:plane=sagittal")
    (tmp_path / "sagittal").mkdir()
    nifti(tmp_path / "sagittal" / "b.nii", body, (0.5, 0.5, 4.0))
    nifti(tmp_path / "sagittal" / "c.nii", body.transpose(2, 0, 1), (4.0, 0.5, 0.5))
    source = open_source(f"exams:{tmp_path}:plane=all")
    assert dict(source.skipped)["sagittal/b.nii"] == "among sagittal series, and its slices are axial"
    assert source.store.column("plane").tolist() == ["axial", "sagittal"]


def test_nifti_stored_the_other_way_round_reads_the_same(tmp_path):
    body = volume(6, 12).transpose(1, 2, 0).astype(np.int16)
    nifti(tmp_path / "a.nii", body, (0.5, 0.5, 4.0))
    turned = np.array([[0, -0.5, 0, 0], [0.5, 0, 0, 0], [0, 0, -4.0, 0], [0, 0, 0, 1.0]])  # j is -x, i is y, k is -z
    nifti(tmp_path / "b.nii", body[::-1, :, ::-1].transpose(1, 0, 2), affine=turned)
    store = open_source(f"exams:{tmp_path}").store
    for i in range(6):
        assert np.array_equal(store.read(i), store.read(6 + i))


def test_nifti_of_cubes_is_cut_as_asked(tmp_path):
    body = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    nifti(tmp_path / "a.nii.gz", body)
    with pytest.raises(DataError, match="say which, as in plane=sagittal"):
        open_source(f"exams:{tmp_path}")
    shapes = {p: open_source(f"exams:{tmp_path}:plane={p}") for p in ("sagittal", "coronal", "axial")}
    assert {p: (len(s), *s.store.read(0).shape) for p, s in shapes.items()} == {
        "sagittal": (5, 7, 6), "coronal": (6, 7, 5), "axial": (7, 6, 5),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [
        ((8, 8, 4), (0.5, 2.0, 6.0), "pixels of 0.5 x 2 mm, which are not square"),
        ((8, 8, 4, 3), (0.5, 0.5, 4.0), "4 dimensions, [8, 8, 4, 3]; a volume has 3"),
        ((8, 8, 1), (0.5, 0.5, 4.0), "one slice only"),
    ],
)
def test_nifti_that_is_no_exam(tmp_path, shape, spacing, said):
    nifti(tmp_path / "good.nii", volume(6).transpose(1, 2, 0), (0.5, 0.5, 4.0))
    nifti(tmp_path / "bad.nii", np.random.default_rng(0).normal(size=shape).astype(np.float32), spacing)
    assert said in dict(open_source(f"exams:{tmp_path}").skipped)["bad.nii"]


def test_nifti_with_spacing_that_is_none_or_values_that_are_none(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    good = volume(6).transpose(1, 2, 0).astype(np.float32)
    nifti(tmp_path / "good.nii", good, (0.5, 0.5, 4.0))
    made = nibabel.Nifti1Image(good, None)
    made.header.set_sform(None, 0)
    made.header.set_qform(None, 0)
    nibabel.save(made, tmp_path / "nan.nii")
    raw = bytearray((tmp_path / "nan.nii").read_bytes())
    raw[80:84] = np.array([np.nan], "<f4").tobytes()  # nibabel mends what it saves
    (tmp_path / "nan.nii").write_bytes(bytes(raw))
    holes = good.copy()
    holes[2, 3, 1] = np.nan
    nifti(tmp_path / "holes.nii", holes, (0.5, 0.5, 4.0))
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "text.nii").write_text("nothing of the kind")
    source = open_source(f"exams:{tmp_path}")
    assert set(source.groups) == {"good"}
    reasons = dict(source.skipped)
    assert "voxels of nan x" in reasons["nan.nii"]
    assert reasons["holes.nii"] == "NaN or infinite values"
    assert {"cut.nii.gz", "text.nii"} <= set(reasons)


def dicom(folder, count: int = 5, *, plane: str = "sagittal", study: str = "1.2.3", series: str = "1.2.3.4", **changes):
    """A series of `count` slices 4 mm apart; `changes[i]` of the keyword `slice_i` are set on slice i."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    axes = {"sagittal": [0, 1, 0, 0, 0, -1], "coronal": [1, 0, 0, 0, 0, -1], "axial": [1, 0, 0, 0, 1, 0]}[plane]
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    body = volume(count, 12, dtype=np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        d = FileDataset(str(folder / f"{i}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        d.PatientID, d.StudyInstanceUID, d.SeriesInstanceUID = "Jane", study, series
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = 12, 12, 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.PixelSpacing, d.InstanceNumber, d.ImageOrientationPatient = [0.5, 0.5], i + 1, axes
        place = [0.0, 0.0, 0.0]
        place[along] = 4.0 * i
        d.ImagePositionPatient, d.PixelData = place, body[i].tobytes()
        for name, value in changes.get(f"slice_{i}", {}).items():
            if value is None:
                delattr(d, name)
            else:
                setattr(d, name, value)
        d.save_as(folder / f"{count - i}.dcm", enforce_file_format=True)  # names say nothing of the order
    assert pydicom is not None
    return body


def test_a_dicom_series_in_the_order_of_its_places(tmp_path):
    body = dicom(tmp_path / "exam7")
    source = open_source(f"exams:{tmp_path}")
    assert source.store.column("plane").tolist() == ["sagittal"]
    assert source.store.column("exam").tolist() == ["exam7"]
    low, high = np.percentile(body, (0.5, 99.5))
    for i in range(5):  # towards the right, where DICOM counts to the left
        expected = ((body[4 - i].astype(np.float64) - low) / (high - low)).clip(0, 1)
        np.testing.assert_allclose(source.store.read(i), expected, atol=1e-6)
    assert "Jane" not in str(source.store.index.table.to_pylist())
    assert len(set(source.groups.tolist())) == 1
    assert source.sided.all()


def test_series_of_one_study_are_one_exam(tmp_path):
    dicom(tmp_path / "e1" / "s1", study="1.1", series="1.1.1")
    dicom(tmp_path / "e1" / "s2", plane="axial", study="1.1", series="1.1.2")
    store, _ = open_exams(tmp_path, Options("all"))
    assert store.column("exam").tolist() == ["e1", "e1"]
    assert sorted(store.column("plane").tolist()) == ["axial", "sagittal"]
    dicom(tmp_path / "e1" / "s3", plane="axial", study="1.1", series="1.1.3")
    store, _ = open_exams(tmp_path, Options("all"))
    assert store.column("plane").tolist() == ["sagittal"]
    assert "2 axial series of the exam e1" in dict(store.index.facts["skipped"])["e1/s3"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slice_2": {"ImagePositionPatient": [4.0, 0, 0]}}, "two slices at one place"),
        ({"slice_4": {"ImagePositionPatient": [28.0, 0, 0]}}, "a slice is missing between numbers 5 and 4"),
        ({"slice_4": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}}, "several orientations"),
        ({"slice_1": {"Rows": 6, "Columns": 24}}, "slices of 2 sizes"),
        ({f"slice_{i}": {"PixelSpacing": [0.5, 1.5]} for i in range(5)}, "not square"),
        ({f"slice_{i}": {"ImagePositionPatient": None, "InstanceNumber": 2 * i + 3 * (i == 4)} for i in range(5)},
         "a slice is missing"),
        ({f"slice_{i}": {"ImagePositionPatient": None, "InstanceNumber": max(i, 1)} for i in range(5)},
         "two slices at one place (numbers 1 and 1)"),
        ({f"slice_{i}": {"ImagePositionPatient": None, "InstanceNumber": None} for i in range(5)},
         "without places and numbers"),
        ({"slice_0": {"NumberOfFrames": 3}}, "several frames in a file"),
        ({"slice_0": {"PixelData": b"12"}}, "damaged"),
    ],
)  # fmt: skip
def test_a_dicom_series_that_is_not_whole(tmp_path, changes, said):
    dicom(tmp_path / "good", study="1.9", series="1.9.1")
    dicom(tmp_path / "bad", **changes)
    source = open_source(f"exams:{tmp_path}")
    assert said in dict(source.skipped)["bad"]
    assert source.store.column("exam").tolist() == ["good"]


def test_dark_on_bright_is_turned_and_slopes_are_applied(tmp_path):
    dicom(tmp_path / "a", study="1.1", series="1.1.1")
    how = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -7}
    dicom(tmp_path / "b", study="1.2", series="1.2.1", **{f"slice_{i}": how for i in range(5)})
    store = open_source(f"exams:{tmp_path}").store
    np.testing.assert_allclose(store.read(5), 1 - store.read(0), atol=1e-5)


@pytest.mark.parametrize(("file", "package"), [("a.nii.gz", "nibabel"), ("a.dcm", "pydicom")])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, file, package):
    import sys

    (tmp_path / file).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*pip install 'tacit\[volumes\]'"):
        open_source(f"exams:{tmp_path}")
