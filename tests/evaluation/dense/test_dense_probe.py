from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tacit import encoders
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.evaluation.dense import PRESETS, Linear, PatchKnn, confusion, counts, miou, open_segmentation, segment
from tacit.evaluation.dense.grids import grids


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return encoders.build("swin_mini", size=32).eval()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=32).eval()


def by_chance(test) -> float:
    """mIoU of saying background everywhere."""
    masks = [test.mask(i) for i in range(len(test))]
    return float(miou(sum(confusion(np.zeros_like(m), m, 4) for m in masks)))


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("linear", Linear(size=64, levels="all", iterations=15, strengths=(1e-2, 1e-3))),
        ("patch_knn", PatchKnn(size=64, levels="all", k=5, bank=2000)),
    ],
)
def test_frozen_features_of_coloured_shapes_are_segmented_far_above_chance(shapes, swin, protocol, settings):
    train, test = open_segmentation(shapes)
    found = segment(swin, train, test, protocol=protocol, settings=settings)
    score = {s.metric: s for s in found.scores}
    assert score["miou"].value > by_chance(test) + 0.4
    assert score["miou"].low <= score["miou"].value <= score["miou"].high
    assert found.matrices.shape == (12, 4, 4)
    assert found.matrices.sum() == 12 * 64 * 64
    assert found.names == list(test.names)
    assert score["miou"].value == pytest.approx(float(miou(found.matrices.sum(0))))
    assert np.nanmean(found.class_iou) == pytest.approx(score["miou"].value)
    assert score["miou"].settings["size"] == 64
    assert all(np.array_equal(s.records, counts(found.matrices)) for s in found.scores)
    again = segment(swin, train, test, protocol=protocol, settings=settings)
    assert np.array_equal(found.matrices, again.matrices)


def test_fine_tuning_returns_the_same_things(shapes, vit, tmp_path):
    train, test = open_segmentation(shapes)
    s = replace(PRESETS["small"], steps=12, batch_size=4, crop=32, short=32, long=64, channels=16, aux_channels=8)
    told = []
    found = segment(
        vit,
        train,
        test,
        protocol="upernet",
        settings=s,
        progress=lambda *a: told.append(a),
        precision="32",
        checkpoint=tmp_path / "c.ckpt",
    )
    assert found.matrices.shape == (12, 4, 4)
    assert [x.metric for x in found.scores] == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert told[-1] == (12, 12)
    assert found.scores[0].settings["precision"] == "32"
    assert list(tmp_path.iterdir()) == []  # nothing stays of a training that is through


def test_masks_are_scored_at_their_own_size(tmp_path, write, vit):
    root = write(tmp_path, train=4, test=1, side=48)
    mask = np.zeros((30, 70), np.uint8)
    mask[:, :9] = 255
    Image.new("RGB", (70, 30)).save(root / "test" / "images" / "test_000.png")
    Image.fromarray(mask).save(root / "test" / "masks" / "test_000.png")
    train, test = open_segmentation(root, classes=4)
    for protocol in ("linear", "patch_knn"):
        assert segment(vit, train, test, protocol=protocol).matrices.sum() == 30 * 61


def test_bad_records_are_left_out_and_named(tmp_path, write, vit):
    root = write(tmp_path, train=5, test=4)
    (root / "train" / "images" / "train_001.png").write_bytes(b"")
    (root / "test" / "masks" / "test_000.png").unlink()
    Image.new("L", (9, 9)).save(root / "test" / "masks" / "test_002.png")
    train, test = open_segmentation(root)
    s = replace(PRESETS["small"], steps=3, batch_size=4, crop=32, short=32, long=64, channels=16, aux_channels=8)
    for protocol, settings in (("patch_knn", PatchKnn()), ("upernet", s)):
        found = segment(vit, train, test, protocol=protocol, settings=settings)
        assert found.names == ["test_001.png", "test_003.png"]
        assert dict(found.bad) == {
            "test_000": "no mask of that stem in masks",
            "train_001.png": "the image is an empty file",
            "test_002.png": "the mask is 9 x 9, the image 64 x 64",
        }


def test_features_do_not_depend_on_batches_or_workers(shapes, vit):
    train, _ = open_segmentation(shapes)
    one, other = grids(vit, train, size=32, batch_size=16), grids(vit, train, size=32, batch_size=5, workers=1)
    torch.testing.assert_close(one.x, other.x, atol=1e-5, rtol=1e-4)
    assert torch.equal(one.y, other.y)
    assert one.x.shape == (16, 128, 8, 8)
    assert one.y.shape == (16, 32, 32)


def test_what_cannot_be_segmented_is_said(shapes, vit):
    train, test = open_segmentation(shapes)
    with pytest.raises(Unknown, match="Did you mean 'linear'"):
        segment(vit, train, test, protocol="liner")
    with pytest.raises(UsageError, match="linear takes settings of Linear, not PatchKnn"):
        segment(vit, train, test, settings=PatchKnn())
    with pytest.raises(BadSettings, match="levels = 'first': must be one of last, all"):
        segment(vit, train, test, settings=Linear(levels="first"))
    with pytest.raises(UsageError, match=r"size = 30: vit_mini takes multiples of 4. Set size=28"):
        segment(vit, train, test, settings=Linear(size=30))
    with pytest.raises(UsageError, match="4 classes and 3 channels, the test masks 5 and 3"):
        segment(vit, train, replace(test, classes=5))
    with pytest.raises(DataError, match=r"holds the value 3; there are 3 classes"):
        segment(vit, replace(train, classes=3), replace(test, classes=3))
    grey = encoders.build("vit_mini", size=32, channels=1)
    with pytest.raises(UsageError, match="takes 1 channels and the images were opened with 3"):
        segment(grey, train, test)
    with torch.no_grad():
        broken = encoders.build("vit_mini", size=32)
        broken.trunk.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"features of train_000.png are not numbers"):
        segment(broken, train, test)


def test_one_channel_is_at_home(shapes):
    torch.manual_seed(0)
    grey = encoders.build("vit_mini", size=32, channels=1)
    train, test = open_segmentation(shapes, channels=1)
    s = replace(PRESETS["small"], steps=2, batch_size=2, crop=32, short=32, long=64, channels=16, aux_channels=8)
    for protocol, settings in (("linear", Linear(iterations=5)), ("upernet", s)):
        assert len(segment(grey, train, test, protocol=protocol, settings=settings).names) == 12
