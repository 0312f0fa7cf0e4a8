import builtins
import contextlib
import copy
import io
import json

import numpy as np
import pytest

from tacit.errors import DataError, MissingExtra, UsageError
from tacit.evaluation.detection import ap, average_precision, read_coco, to_coco


def truth_of(boxes: list[list[float]], classes: int = 1) -> dict:
    """One object an image of 200 x 200 pixels."""
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "height": 200, "width": 200} for i in range(len(boxes))],
        "categories": [{"id": c + 1, "name": f"c{c}"} for c in range(classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": i % classes + 1,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": 0,
            }
            for i, b in enumerate(boxes)
        ],
    }


def found(truth: dict, shift: float = 0.0, score: float = 0.9) -> list[dict]:
    return [
        {k: a[k] for k in ("image_id", "category_id")}
        | {"bbox": [a["bbox"][0] + shift, *a["bbox"][1:]], "score": score}
        for a in truth["annotations"]
    ]


def noisy(seed: int = 0, images: int = 30, classes: int = 3) -> tuple[dict, list[dict]]:
    """Several objects an image, detections that are near, far, doubled and of the wrong class, and one crowd."""
    rng = np.random.default_rng(seed)
    truth = truth_of([[0, 0, 1, 1]] * images, classes)
    truth["annotations"], results = [], []
    for i in range(images):
        for _ in range(int(rng.integers(0, 5))):
            box = [*rng.uniform(0, 100, 2), *rng.uniform(8, 100, 2)]
            number = len(truth["annotations"]) + 1
            truth["annotations"].append(
                {"id": number, "image_id": i + 1, "category_id": int(rng.integers(classes)) + 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": int(number == 5)}
            )  # fmt: skip
            for _ in range(int(rng.integers(0, 3))):
                near = (np.array(box) + rng.normal(0, 6, 4)).clip(1).tolist()
                c = truth["annotations"][-1]["category_id"] if rng.random() < 0.8 else int(rng.integers(classes)) + 1
                results.append({"image_id": i + 1, "category_id": c, "bbox": near, "score": float(rng.random())})
    return truth, results


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    truth = truth_of([[0, 0, 10, 10]])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pycocotools.*pip install 'tacit\[detection\]'"):
        average_precision(truth, found(truth))


def test_what_is_no_kind_of_average_precision():
    with pytest.raises(UsageError, match=r"bbox.*segm"):
        average_precision(truth_of([[0, 0, 10, 10]]), [], kind="mask")


@pytest.fixture
def coco():
    return pytest.importorskip("pycocotools.cocoeval"), pytest.importorskip("pycocotools.coco")


def by_hand(coco, truth, results, kind="bbox", images=None):
    """pycocotools called directly."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco[1].COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        scorer = coco[0].COCOeval(gt, gt.loadRes(copy.deepcopy(results)), kind)
        if images is not None:
            scorer.params.imgIds = images
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer


def test_perfect_detections_score_one(coco):
    truth = truth_of([[10 * i, 20, 60, 50] for i in range(6)], classes=2)
    score = average_precision(truth, found(truth), resamples=50)
    assert (score["ap"], score["low"], score["high"]) == pytest.approx((1, 1, 1), abs=1e-6)
    assert score["classes"] == pytest.approx({"c0": 1, "c1": 1})
    assert score["n"] == 6
    assert np.isnan(score["ap_small"])
    json.dumps(score)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(10, 0.7), (20, 0.4), (34, 0.0), (5, 0.9)],  # IoU (100 - s) / (100 + s): .818, .667, .492, .905
)
def test_shifted_boxes_score_what_a_hand_says(coco, shift, expected):
    truth = truth_of([[20, 20, 100, 100]] * 5)
    score = average_precision(truth, found(truth, shift), resamples=0)
    assert score["ap"] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(score["low"])


def test_a_false_alarm_above_and_an_object_missed(coco):
    """Two objects; ranked: wrong, right. Precision is 1/2 up to recall 1/2 (51 of 101 points), 0 after."""
    truth = truth_of([[20, 20, 100, 100]] * 2)
    results = found(truth, score=0.5)[:1]
    results.append({"image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9})
    assert average_precision(truth, results, resamples=0)["ap"] == pytest.approx(0.5 * 51 / 101, abs=1e-6)


def test_agreement_with_pycocotools_called_directly(coco):
    truth, results = noisy()
    ours, theirs = average_precision(truth, results, resamples=20), by_hand(coco, truth, results)
    assert [ours[name] for name in ap.NAMES] == pytest.approx(theirs.stats.tolist(), abs=1e-6)
    assert 0.1 < ours["ap"] < 0.9
    assert ours["low"] <= ours["ap"] <= ours["high"]
    recalls = theirs.params.recThrs
    found_ = ap.matches(theirs)
    assert ap.weighted_ap(found_, np.ones(30, int), recalls) == pytest.approx(theirs.stats[0], abs=1e-12)


def test_a_resample_scores_what_pycocotools_says_of_copies_of_the_images(coco):
    truth, results = noisy()
    found_ = ap.matches(by_hand(coco, truth, results))
    weight = np.bincount(np.random.default_rng(1).integers(30, size=30), minlength=30)
    copies = {**truth, "images": [], "annotations": []}
    copied = []
    for image, count in zip(truth["images"], weight, strict=True):
        for _ in range(count):
            number = len(copies["images"]) + 1
            copies["images"].append({**image, "id": number})
            copies["annotations"] += [
                {**a, "image_id": number, "id": len(copies["annotations"]) + 1 + k}
                for k, a in enumerate(a for a in truth["annotations"] if a["image_id"] == image["id"])
            ]
            copied += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    theirs = by_hand(coco, copies, copied)
    assert 0 in weight
    assert weight.max() > 1
    assert ap.weighted_ap(found_, weight, theirs.params.recThrs) == pytest.approx(theirs.stats[0], abs=1e-6)


def test_nothing_found_scores_nothing_and_nothing_to_find_is_said(coco):
    truth = truth_of([[20, 20, 100, 100]] * 3)
    score = average_precision(truth, [], resamples=10)
    assert (score["ap"], score["low"], score["high"]) == (0, 0, 0)
    with pytest.raises(DataError, match="no object to find"):
        average_precision({**truth, "annotations": []}, [])
    with pytest.raises(DataError, match="image 77, which is not in the truth"):
        average_precision(truth, [{**found(truth)[0], "image_id": 77}])
    with pytest.raises(DataError, match="hold no masks"):
        average_precision(truth, found(truth), kind="segm")


def test_masks_of_a_set_score_one_and_as_pycocotools_says(coco, shapes):
    truth = to_coco(read_coco(shapes, masks=True))
    keys = ("image_id", "category_id", "bbox", "segmentation")
    results = [{**{k: a[k] for k in keys}, "score": 0.8} for a in truth["annotations"]]
    perfect = average_precision(truth, results, kind="segm", resamples=20)
    assert perfect["ap"] == pytest.approx(1, abs=1e-6)
    squares = [{**r, "category_id": 7} for r in results]
    wrong = average_precision(truth, squares, kind="segm", resamples=20)
    without = [{k: v for k, v in r.items() if k != "bbox"} for r in squares]
    theirs = by_hand(coco, truth, without, "segm")
    assert [wrong[n] for n in ap.NAMES if np.isfinite(wrong[n])] == pytest.approx(
        [s for s in theirs.stats if s >= 0], abs=1e-6
    )
    assert wrong["classes"]["square"] > 0
    assert wrong["classes"]["circle"] == 0
