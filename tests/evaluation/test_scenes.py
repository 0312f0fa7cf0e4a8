"""`segment` and `detect` asked for like every other protocol."""

from __future__ import annotations

import json

import pytest
import torch

import tacit
from tacit import encoders
from tacit.errors import DataError, UsageError
from tests.evaluation.dense.conftest import write_shapes
from tests.evaluation.detection.conftest import write_shapes as write_boxes


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("swin_mini", size=32)


def test_a_folder_of_masks_is_segmented_beside_random_weights(encoder, tmp_path):
    folder = write_shapes(tmp_path, train=12, test=6, side=32)
    result = tacit.evaluate(encoder, folder, protocol="segment,segment:head=patch_knn")
    rows = {(r["protocol"], r["metric"], r["of"]): r for r in result["results"]}
    assert {p for p, _, _ in rows} == {"segment", "segment:head=patch_knn"}
    assert {of for _, _, of in rows} == {"run", "random-init"}
    row = rows["segment", "miou", "run"]
    assert row["low"] <= row["value"] <= row["high"]
    assert row["n"] == 6
    assert row["settings"]["head"] == "linear"
    assert set(row["settings"]["per_class"]) <= {f"class {i}" for i in range(4)}
    assert result["split"] == "test set"
    other = tacit.evaluate(encoder, write_shapes(tmp_path / "more", 8, 4, side=32), protocol="segment", baselines=False)
    assert other["split_hash"] != result["split_hash"]


@pytest.mark.parametrize("head", ["linear", "patch_knn", "upernet:steps=1:size=32"])
def test_few_labelled_images_are_drawn_anew(head, encoder, tmp_path):
    folder = write_shapes(tmp_path, train=12, test=4, side=32)
    specs = [f"segment:head={head}:shots={k}:draws=2" for k in (1, 2)]
    result = tacit.evaluate(encoder, folder, protocol=",".join(specs), baselines=False)
    rows = {r["protocol"]: r for r in result["results"] if r["metric"] == "miou"}
    assert set(rows) == set(specs)
    for spec, k in zip(specs, (1, 2), strict=True):
        assert rows[spec]["low"] <= rows[spec]["value"] <= rows[spec]["high"]
        assert rows[spec]["settings"]["labelled"] <= 4 * k
    with pytest.raises(DataError, match="99-shot needs 99 training records"):
        tacit.evaluate(encoder, folder, protocol="segment:shots=99", baselines=False)


def test_a_fine_tuned_head_may_look_at_several_sizes_and_mirror_images(encoder, tmp_path):
    folder = write_shapes(tmp_path, train=4, test=2, side=32)
    spec = "segment:head=upernet:steps=2:size=32"
    result = tacit.evaluate(encoder, folder, protocol=f"{spec},{spec}:multi_scale=yes", baselines=False)
    one, many = (r["settings"] for r in result["results"] if r["metric"] == "miou")
    assert (list(one["test_ratios"]), one["test_flip"]) == ([1.0], False)
    assert (list(many["test_ratios"]), many["test_flip"]) == ([0.5, 0.75, 1.0, 1.25, 1.5, 1.75], True)


def test_a_set_with_boxes_is_detected(encoder, tmp_path):
    pytest.importorskip("pycocotools")
    train, test = (write_boxes(tmp_path / name, count, size=48) for name, count in (("a", 4), ("b", 2)))
    result = tacit.evaluate(encoder, train, test, protocol="detect:epochs=1:batch_size=2", baselines=False)
    (row,) = result["results"]
    assert (row["metric"], row["n"]) == ("box_ap", 2)
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert row["settings"]["model"] == "mask_rcnn"


def test_boxes_that_are_none_are_left_out_and_listed(encoder, tmp_path):
    pytest.importorskip("pycocotools")
    train, test = (write_boxes(tmp_path / name, 4, size=48) for name in "ab")
    about = json.loads(train.read_text())
    for row, box in zip(about["annotations"], ([3, 3, 0, 5], [], [float("nan"), 1, 2, 3]), strict=False):
        row["bbox"] = box
    train.write_text(json.dumps(about))
    result = tacit.evaluate(encoder, train, test, protocol="detect:epochs=1:batch_size=2", baselines=False)
    names = [f"annotation {row['id']} of" for row in about["annotations"][:3]]
    assert [name[: len(start)] for (name, _), start in zip(result["bad_files"], names, strict=True)] == names


def test_what_does_not_go_together_is_refused(encoder, digits, tmp_path):
    for protocol, said in (
        ("segment,detect", "one of them alone"),
        ("segment,knn", "one of them alone"),
        ("segment:head=unet", "head 'unet'"),
        ("detect:model=rcnn", "model 'rcnn'"),
        ("segment:foreground=1", "yes or no"),
        ("segment:multi_scale=yes", "for head=upernet"),
        ("detect", "no train/ and test/"),
    ):
        with pytest.raises(UsageError, match=said):
            tacit.evaluate(encoder, digits, protocol=protocol)
