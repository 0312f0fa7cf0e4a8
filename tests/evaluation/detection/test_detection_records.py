import itertools

import numpy as np
import pytest

from tacit.errors import DataError
from tacit.evaluation.detection import average_precision, paired_ap
from tacit.evaluation.detection.records import FIELDS, RECALLS, Matches, pack, unpack, weighted_ap
from tests.evaluation.detection.test_detection_ap import by_hand, coco, noisy  # noqa: F401


def of(image, hit, score, objects) -> Matches:
    """One class at one threshold; what is no hit is a miss."""
    hit = np.array([hit], bool)
    return Matches(np.array(image, int), hit, ~hit, np.array(objects), np.array(score, float))


def test_matches_go_through_a_file_without_pickle(tmp_path):
    matches = [of([1, 0], [True, False], [0.9, 0.2], [1, 2, 0]), of([], [], [], [0, 0, 1])]
    np.savez_compressed(tmp_path / "r.npz", **{"run/detect/box_ap": pack(matches), "none": pack(matches[1:])})
    with np.load(tmp_path / "r.npz", allow_pickle=False) as kept:
        packed, none = kept["run/detect/box_ap"], kept["none"]
    assert packed.dtype.names == FIELDS
    assert packed["objects"].tolist() == [[1, 0], [2, 0], [0, 1]]
    assert (packed["image"].tolist(), packed["label"].tolist()) == ([1, 0], [0, 0])
    for found, was in zip(unpack(packed) + unpack(none), [*matches, matches[1]], strict=True):
        for name in Matches._fields:
            np.testing.assert_array_equal(getattr(found, name), getattr(was, name))
            assert getattr(found, name).shape == getattr(was, name).shape
    with pytest.raises(DataError, match="in the fields objects, image"):
        unpack(np.zeros(3))


def test_a_difference_by_hand():
    """Two images with one object each. a finds both; b has a false alarm above its one hit: 51 of 101 points at 1/2."""
    a = pack([of([0, 1], [True, True], [0.9, 0.8], [1, 1])])
    b = pack([of([1, 0], [False, True], [0.7, 0.6], [1, 1])])
    value, low, high, p = paired_ap(a, b, resamples=200)
    assert value == pytest.approx(1 - 0.5 * 51 / 101)
    assert low == pytest.approx(0)  # image 0 twice: both find it
    assert high == pytest.approx(1)  # image 1 twice: b never does
    # exchanged in image 0: hits at .8 and .6, which is 1, less a hit at .9 above a miss at .7: 51 of 101 points at 1
    assert value > 1 - 51 / 101
    assert p == 2 / 4
    assert paired_ap(a, a)[::3] == (0, 1)


def test_a_kept_result_says_the_average_precision_again(coco):  # noqa: F811
    truth, results = noisy()
    kept = average_precision(truth, results, resamples=20, keep=True)
    matches = unpack(kept["records"])
    assert weighted_ap(matches, np.ones(30, int), RECALLS) == pytest.approx(kept["ap"], abs=1e-12)
    np.testing.assert_array_equal(RECALLS, by_hand(coco, truth, results).params.recThrs)
    assert "records" not in average_precision(truth, results, resamples=0)


def test_exchanges_are_scored_as_pycocotools_scores_them(coco):  # noqa: F811
    """Every exchange of the results on five images, evaluated anew with the scores of both in one ranking."""
    truth, first = noisy(seed=3, images=5)
    rng = np.random.default_rng(0)
    second = [{**r, "score": round(float(rng.random()), 1)} for r in first if rng.random() < 0.7]
    first = [{**r, "score": round(r["score"], 1)} for r in first]  # with equal scores
    a, b = (average_precision(truth, r, resamples=0, keep=True) for r in (first, second))
    value, low, high, p = paired_ap(a["records"], b["records"], resamples=50)
    assert value == pytest.approx(a["ap"] - b["ap"], abs=1e-12)
    assert low <= high
    apart = []
    for swap in itertools.product((0, 1), repeat=5):
        sides = [[r for r in first if swap[r["image_id"] - 1] == k] for k in (0, 1)]
        others = [[r for r in second if swap[r["image_id"] - 1] != k] for k in (0, 1)]
        x, y = (average_precision(truth, m + n, resamples=0)["ap"] for m, n in zip(sides, others, strict=True))
        apart.append(abs(x - y))
    assert len(set(np.round(apart, 9))) > 8
    assert p == np.mean(np.array(apart) >= abs(value) - 1e-9)


def test_a_paired_interval_knows_its_images_and_a_better_detector_is_told():
    rng = np.random.default_rng(1)
    images = 40
    hit = rng.random(images) < 0.9
    a = of(range(images), hit, np.linspace(1, 0.5, images), [1] * images)
    b = of(range(images), hit & (rng.random(images) < 0.6), np.linspace(1, 0.5, images), [1] * images)
    value, low, high, p = paired_ap(pack([a]), pack([b]), resamples=300, draws=299)
    assert 0 < low < value < high < 1
    assert p == pytest.approx(1 / 300)
    ap_a, ap_b = (weighted_ap([m], np.ones(images, int), RECALLS) for m in (a, b))
    assert value == pytest.approx(ap_a - ap_b)
    drawn = np.random.default_rng(0).multinomial(images, [1 / images] * images, size=256)
    gains = [weighted_ap([a], w, RECALLS) - weighted_ap([b], w, RECALLS) for w in drawn]
    assert paired_ap(pack([a]), pack([b]), resamples=256, draws=9)[1:3] == pytest.approx(
        tuple(np.quantile(gains, [0.025, 0.975]))
    )
    elsewhere = b._replace(objects=np.array([2] + [1] * (images - 1)))
    with pytest.raises(DataError, match="same images and objects"):
        paired_ap(pack([a]), pack([elsewhere]))
