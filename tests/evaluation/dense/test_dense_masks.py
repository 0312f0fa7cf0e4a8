import numpy as np
import pytest
from PIL import Image

from tacit.errors import BadRecord, DataError, Unknown
from tacit.evaluation.dense import IGNORE, open_segmentation
from tacit.evaluation.dense.grids import nearest
from tacit.evaluation.dense.masks import stored_values


@pytest.mark.parametrize(("layout", "classes"), [("plain", 4), ("ade20k", 150), ("voc", 21)])
def test_the_three_layouts_are_told_apart_and_read_alike(tmp_path, write, layout, classes):
    root = write(tmp_path, train=3, test=2, layout=layout)
    train, test = open_segmentation(root)
    assert (len(train), len(test), train.classes, test.classes) == (3, 2, classes, classes)
    plain = open_segmentation(write(tmp_path / "again", train=3, test=2))[0]
    picture, mask = train[1]
    assert (picture.height, picture.width) == mask.shape == (64, 64)
    expected = plain.mask(1)
    assert np.array_equal(mask, expected - 1 if layout == "ade20k" else expected)  # there 0 is no class: IGNORE is -1


def test_ade20k_keeps_255_ignored_and_its_last_class(tmp_path):
    for folder in ("images/training", "images/validation", "annotations/training", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    for part in ("training", "validation"):
        Image.new("RGB", (4, 1)).save(tmp_path / "images" / part / "a.jpg")
        Image.fromarray(np.array([[0, 1, 150, 255]], np.uint8)).save(tmp_path / "annotations" / part / "a.png")
    train, _ = open_segmentation(tmp_path, layout="ade20k")
    assert train.mask(0).tolist() == [[IGNORE, 0, 149, IGNORE]]
    with pytest.raises(DataError, match=r"a.png holds the value 150; there are 149 classes, 1 to 149, 255 is ignored"):
        open_segmentation(tmp_path, classes=149)[0].mask(0)


def test_voc_boundaries_are_ignored_and_palettes_are_numbers(tmp_path, write):
    root = write(tmp_path, train=1, test=1, layout="voc")
    path = root / "SegmentationClass" / "train_000.png"
    with Image.open(path) as image:
        values, palette = np.array(image), image.getpalette()
    values[0] = 255
    changed = Image.fromarray(values, mode="L")
    changed.putpalette(palette)
    changed.save(path)
    mask = open_segmentation(root)[0].mask(0)
    assert (mask[0] == IGNORE).all()
    assert np.array_equal(mask[1:], values[1:])


def _plain(root, masks: dict, sizes=(4, 2)):
    for part in ("train", "test"):
        for folder in ("images", "labels"):
            (root / part / folder).mkdir(parents=True)
        for name, values in masks.items():
            Image.new("RGB", sizes).save(root / part / "images" / f"{name}.png")
            Image.fromarray(np.asarray(values)).save(root / part / "labels" / f"{name}.png")
    return root


def test_instances_become_foreground(tmp_path):
    instances = np.array([[0, 1, 255, 300], [0, 0, 7, 1200]], np.uint16)
    root = _plain(tmp_path, {"a": instances})
    train, _ = open_segmentation(root, foreground=True)
    assert train.classes == 2
    assert train.mask(0).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    kept, _ = open_segmentation(root, foreground=True, ignore=7)
    assert kept.mask(0).tolist() == [[0, 1, 1, 1], [0, 0, IGNORE, 1]]
    with pytest.raises(DataError, match=r"values up to 1200.*foreground=True"):
        open_segmentation(root)


def test_what_the_numbers_of_a_plain_set_cannot_mean_is_said(tmp_path):
    black_and_white = np.array([[0, 255, 255, 0]] * 2, np.uint8)
    with pytest.raises(DataError, match=r"0 and 255 only. Set foreground=True"):
        open_segmentation(_plain(tmp_path / "a", {"a": black_and_white}))
    with pytest.raises(DataError, match="one class"):
        open_segmentation(_plain(tmp_path / "b", {"a": np.zeros((2, 4), np.uint8)}))
    root = _plain(tmp_path / "c", {"a": np.array([[0, 1, 2, 3]] * 2, np.uint8)})
    with pytest.raises(DataError, match=r"labels/a.png holds the value 3; there are 3 classes, 0 to 2, 255 is ignored"):
        open_segmentation(root, classes=3)[0].mask(0)


def test_bad_records_say_why(tmp_path, shapes, write):
    root = write(tmp_path, train=9, test=1)
    images, masks = root / "train" / "images", root / "train" / "masks"
    (masks / "train_000.png").unlink()
    (images / "train_001.png").unlink()
    Image.new("L", (10, 12)).save(masks / "train_002.png")
    (masks / "train_003.png").write_bytes(b"")
    (masks / "train_004.png").write_bytes(b"hello")
    whole = (masks / "train_005.png").read_bytes()
    (masks / "train_005.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(masks / "train_006.png")
    (images / "train_007.png").write_bytes(b"<html>")
    np.save(masks / "train_008.npy", np.zeros((64, 64)))
    train, _ = open_segmentation(root, classes=4)
    assert dict(train.skipped) == {
        "train_000": "no mask of that stem in masks",
        "train_001": "a mask without an image in images",
        "train_008": "several files of that stem in masks: train_008.npy, train_008.png",
    }
    expected = {
        "train_002.png": "the mask is 10 x 12, the image 64 x 64",
        "train_003.png": "the mask is an empty file",
        "train_004.png": "the mask is not an image",
        "train_005.png": "the mask is truncated",
        "train_006.png": "the mask is a picture in RGB, not of class numbers",
        "train_007.png": "not an image (looks like HTML or XML)",
    }
    assert train.names == tuple(expected)
    for i, reason in enumerate(expected.values()):
        with pytest.raises(BadRecord) as error:
            train[i]
        assert str(error.value) == reason
    with pytest.raises(BadRecord, match="of float64, not class numbers"):
        stored_values(masks / "train_008.npy")


def test_folders_that_are_no_set_are_refused(tmp_path, write):
    with pytest.raises(DataError, match="not laid out as any known set"):
        open_segmentation(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        open_segmentation(tmp_path / "nothing")
    root = write(tmp_path / "set", train=1, test=1)
    with pytest.raises(DataError, match="not laid out as voc"):
        open_segmentation(root, layout="voc")
    with pytest.raises(Unknown, match="Did you mean 'plain'"):
        open_segmentation(root, layout="plane")
    (root / "train" / "masks" / "train_000.png").rename(root / "train" / "masks" / "train_000_mask.png")
    with pytest.raises(DataError, match=r"has a mask of the same stem.*train_000: no mask"):
        open_segmentation(root)


def test_masks_are_resized_by_their_nearest_centres():
    mask = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert nearest(mask, 4, 2).tolist() == [[2, 4], [2, 4], [6, 8], [6, 8]]
    assert np.array_equal(nearest(mask, 2, 4), mask)
