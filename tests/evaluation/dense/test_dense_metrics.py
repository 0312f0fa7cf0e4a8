import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from tacit.errors import DataError, Unknown
from tacit.evaluation.dense import confusion, counts, iou, metrics, miou, paired_difference, paired_miou, with_intervals
from tacit.evaluation.dense.masks import IGNORE


def test_a_hand_computed_case():
    truth = np.array([[0, 0, 1], [1, 2, IGNORE]])
    said = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = confusion(said, truth, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # class 0: 1 of {2 true + 2 said - 1}; class 1: 2 of {2 + 3 - 2}; class 2: 0 of 1; class 3 is nowhere
    np.testing.assert_allclose(iou(matrix), [1 / 3, 2 / 3, 0, math.nan])
    assert miou(matrix) == pytest.approx(1 / 3)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(3 / 5)
    assert metrics.mean_accuracy(matrix) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_agreement_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 5, (2, 40, 50))
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    known = truth != IGNORE
    matrix = confusion(said, truth, 7)  # two classes that never occur
    t, p = truth[known], said[known]
    assert np.array_equal(matrix[:5, :5], confusion_matrix(t, p))
    np.testing.assert_allclose(iou(matrix)[:5], jaccard_score(t, p, average=None), atol=1e-12)
    assert miou(matrix) == pytest.approx(jaccard_score(t, p, average="macro"), abs=1e-12)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(accuracy_score(t, p), abs=1e-12)
    assert metrics.mean_accuracy(matrix) == pytest.approx(balanced_accuracy_score(t, p), abs=1e-12)


def test_agreement_with_torchmetrics():
    rng = np.random.default_rng(1)
    truth, said = rng.integers(0, 5, (2, 3, 20, 30))
    truth[0, :4] = IGNORE
    theirs = MulticlassJaccardIndex(6, ignore_index=IGNORE, average="macro")
    theirs.update(torch.from_numpy(said), torch.from_numpy(truth))
    assert miou(confusion(said, truth, 6)) == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_the_bootstrap_draws_images_and_sums_before_it_divides():
    rng = np.random.default_rng(2)
    matrices = rng.integers(0, 50, (20, 3, 3)) + 60 * np.eye(3, dtype=int)
    found = with_intervals(matrices, resamples=500, seed=3)
    drawn = np.random.default_rng(3).multinomial(20, [1 / 20] * 20, size=500)
    slow = [miou(sum(n * m for n, m in zip(counts, matrices, strict=True))) for counts in drawn]
    value, low, high = found["miou"]
    assert value == pytest.approx(float(miou(matrices.sum(0))))
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert low < value < high
    same = with_intervals(np.repeat(matrices[:1], 5, axis=0))["miou"]
    assert same == pytest.approx((float(miou(matrices[0])),) * 3)


def test_the_interval_holds_what_it_should():
    """Images all right or all wrong: pixel accuracy is a share of images, whose interval has a closed form."""
    right, wrong = np.array([[100, 0], [0, 100]]), np.array([[0, 100], [100, 0]])
    matrices = np.stack([right] * 80 + [wrong] * 20)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    value, low, high = with_intervals(matrices)["pixel_accuracy"]
    assert (value, low, high) == (0.8, pytest.approx(0.8 - half, abs=0.02), pytest.approx(0.8 + half, abs=0.02))


def worse(first: np.ndarray) -> np.ndarray:
    """A third of what is right is taken for the next class; the masks stay what they are."""
    hit = np.diagonal(first, axis1=1, axis2=2) // 3
    moved = hit[:, :, None] * np.eye(first.shape[1], dtype=first.dtype)
    return first - moved + np.roll(moved, 1, axis=2)


def test_paired_differences_know_their_images():
    rng = np.random.default_rng(4)
    first = rng.integers(1, 50, (30, 2, 2)) + 60 * np.eye(2, dtype=int) * rng.integers(0, 9, (30, 1, 1))
    assert paired_difference(first, first) == (0, 0, 0)
    second = worse(first)
    value, low, high = paired_difference(first, second)
    assert 0 < low < value < high
    assert value == pytest.approx(float(miou(first.sum(0)) - miou(second.sum(0))))
    with pytest.raises(DataError, match="not of the same images"):
        paired_difference(first, second[:-1])


def test_counts_by_hand_are_all_that_the_metrics_need():
    matrix = np.array([[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.int32)
    found = counts(matrix[None])
    assert found.dtype == np.int32
    assert found.tolist() == [[[1, 2, 2], [2, 3, 2], [0, 0, 1], [0, 0, 0]]]  # right, predicted, true
    rng = np.random.default_rng(5)
    first = rng.integers(0, 50, (9, 3, 3))
    for name, of in metrics.METRICS.items():
        value = paired_miou(counts(first), counts(worse(first)), metric=name, resamples=5, draws=5)[0]
        assert value == pytest.approx(float(of(first.sum(0)) - of(worse(first).sum(0))), abs=1e-12)


def test_the_paired_interval_and_p_against_sums_of_matrices():
    rng = np.random.default_rng(6)
    first, second = rng.integers(0, 50, (2, 6, 3, 3))
    second[:, range(3), range(3)] += first.sum(2) - second.sum(2)  # the same masks
    second += 90 * np.eye(3, dtype=int)
    first += 90 * np.eye(3, dtype=int)
    value, low, high, p = paired_miou(counts(first), counts(second), resamples=300, seed=7)
    drawn = np.random.default_rng(7).multinomial(6, [1 / 6] * 6, size=256)
    gains = [miou(np.tensordot(w, first, 1)) - miou(np.tensordot(w, second, 1)) for w in drawn]
    assert paired_miou(counts(first), counts(second), resamples=256, seed=7)[1:3] == pytest.approx(
        tuple(np.quantile(gains, [0.025, 0.975])), abs=1e-12
    )
    apart = []
    for swap in itertools.product((False, True), repeat=6):
        x, y = (np.where(np.array(swap)[:, None, None] ^ turned, second, first).sum(0) for turned in (False, True))
        apart.append(abs(float(miou(x) - miou(y))))
    assert p == np.mean(np.array(apart) >= abs(value) - 1e-12)
    assert 2 / 64 <= p <= 1
    back = paired_miou(counts(second), counts(first), resamples=300, seed=7)
    assert back == pytest.approx((-value, -high, -low, p))


def test_a_difference_in_every_image_is_seen_and_none_is_not():
    rng = np.random.default_rng(8)
    first = rng.integers(20, 50, (40, 3, 3)) + 100 * np.eye(3, dtype=int)
    value, low, high, p = paired_miou(counts(first), counts(worse(first)))
    assert 0 < low < value < high
    assert p == pytest.approx(1 / 2000)  # as far apart as the observed one: itself alone
    assert paired_miou(counts(first), counts(first)) == (0, 0, 0, 1)
    other = first[:, ::-1, ::-1]
    with pytest.raises(DataError, match="same images and masks"):
        paired_miou(counts(first), counts(other))
    with pytest.raises(DataError, match=r"\[images, classes, 3\], one image or more, not \[40, 3\]"):
        paired_miou(counts(first)[..., 0], counts(first))
    with pytest.raises(Unknown, match="miou, pixel_accuracy"):
        paired_miou(counts(first), counts(first), metric="dice")
    with pytest.raises(DataError, match="has a labelled pixel"):
        paired_miou(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))


def test_what_cannot_be_scored_is_said():
    with pytest.raises(DataError, match=r"prediction is \[2\] and the mask \[3\]"):
        confusion(np.zeros(2), np.zeros(3), 2)
    with pytest.raises(DataError, match="prediction holds 0 to 2; classes are 0 to 1"):
        confusion(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(DataError, match="mask holds -3 to 0"):
        confusion(np.array([0, 1]), np.array([0, -3]), 2)
    with pytest.raises(DataError, match="one image or more"):
        with_intervals(np.zeros((0, 2, 2)))
    with pytest.raises(DataError, match="has a labelled pixel"):
        with_intervals(np.zeros((3, 2, 2)))
    assert np.isnan(miou(np.zeros((2, 2))))
