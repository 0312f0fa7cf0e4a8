import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from tacit.errors import DataError, Unknown
from tacit.evaluation import multi_label
from tacit.evaluation.groups import grouped_split
from tacit.evaluation.multi_label import fit_one_vs_rest, hold_out, multi_label_probe, per_class


def labelled(count: int = 300, classes: int = 4, digits: int = 1, seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, classes)) < (0.5, 0.3, 0.2, 0.1)[:classes]).astype(int)
    return (targets + rng.normal(size=(count, classes))).round(digits), targets


def directions(count: int = 300, width: int = 8, seed: int = 0):
    """Features, and three labels that are there on one side of a plane each, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width))
    planes = np.random.default_rng(99).normal(size=(width, 3))
    y = (x @ planes + rng.normal(size=(count, 3)) > (0, 1, 3)).astype(int)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


@pytest.mark.parametrize("digits", [1, 8])
def test_every_class_agrees_with_scikit_learn(digits):
    scores, targets = labelled(digits=digits)
    found = per_class(scores, targets)
    np.testing.assert_allclose(found.values, metrics.average_precision_score(targets, scores, average=None), atol=1e-12)
    assert found.mean == pytest.approx(metrics.average_precision_score(targets, scores), abs=1e-12)
    found = per_class(scores, targets, "auroc")
    np.testing.assert_allclose(found.values, metrics.roc_auc_score(targets, scores, average=None), atol=1e-12)
    np.testing.assert_allclose(
        per_class(scores, targets, "d_prime").values, 2**0.5 * stats.norm.ppf(found.values), atol=1e-12
    )


def test_eleven_point_precision_by_hand():
    score, target = np.array([5, 4, 3, 2, 1]), np.array([1, 0, 1, 0, 1])
    # recall 1/3, 2/3, 1 at precision 1, 2/3, 3/5: recalls 0 to .3, .4 to .6, .7 to 1
    assert multi_label.voc2007_precision(score, target) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    # ten positives, then wrong ones: each of the eleven recalls is reached exactly, .3 by three of ten too
    score, target = np.arange(20)[::-1], np.repeat([1, 0], 10)
    assert multi_label.voc2007_precision(score, target) == 1
    # the positives at ranks 2, 4, ..., 20: precision 1/2 throughout
    assert multi_label.voc2007_precision(score, np.tile([0, 1], 10)) == pytest.approx(0.5)
    # the third of ten positives is the last with full precision, so recall .3 has it and .4 does not
    target = np.array([1, 1, 1, *[0] * 10, *[1] * 7])
    assert multi_label.voc2007_precision(score, target) == pytest.approx((4 + 7 * 10 / 20) / 11)


def test_eleven_point_precision_agrees_with_the_slow_maximum():
    scores, targets = labelled(digits=8)
    precision, recall, _ = metrics.precision_recall_curve(targets[:, 0], scores[:, 0])
    slow = [precision[recall >= k / 10 - 1e-12].max() for k in range(11)]
    assert per_class(scores, targets, "voc2007").values[0] == pytest.approx(np.mean(slow), abs=1e-12)


def test_d_prime_in_closed_form():
    # of 2 x 2 pairs three are in order: AUROC .75; of 2 x 3 all, or none, which counts as half a pair off
    assert multi_label.d_prime(np.array([4, 3, 2, 1]), np.array([1, 0, 1, 0])) == pytest.approx(0.9538725524, abs=1e-9)
    perfect = multi_label.d_prime(np.arange(5), np.array([0, 0, 0, 1, 1]))
    assert perfect == pytest.approx(2**0.5 * stats.norm.ppf(11 / 12), abs=1e-12)
    assert multi_label.d_prime(-np.arange(5), np.array([0, 0, 0, 1, 1])) == pytest.approx(-perfect, abs=1e-12)
    assert multi_label.d_prime(np.ones(4), np.array([1, 0, 1, 0])) == pytest.approx(0, abs=1e-12)  # ties: AUROC .5
    assert math.isnan(multi_label.d_prime(np.ones(4), np.ones(4)))


def test_means_are_of_classes_after_the_metric_and_over_groups():
    scores, targets = labelled()
    names, groups = list("abcd"), np.repeat(np.arange(30), 10)
    found = {row["metric"]: row for row in multi_label.means(scores, targets, groups, names)}
    assert list(found) == ["map", "auroc", "d_prime"]
    each = per_class(scores, targets, "auroc").values
    assert found["d_prime"]["value"] == pytest.approx((2**0.5 * stats.norm.ppf(each)).mean(), abs=1e-9)
    assert found["auroc"]["per_class"] == {n: round(v, 4) for n, v in zip(names, each.tolist(), strict=True)}
    assert all(row["low"] < row["value"] < row["high"] and row["interval_over"] == "groups" for row in found.values())
    assert multi_label.means(scores, targets, None, names)[0]["interval_over"] == "records"
    assert [row["metric"] for row in multi_label.means(scores, np.ones_like(targets), None, names)] == ["map"]


def test_unknown_labels_are_left_out():
    scores, targets = labelled()
    hidden = np.random.default_rng(1).random(targets.shape) < 0.3
    masked = np.where(hidden, -1, targets)
    for metric in multi_label.METRICS:
        found = per_class(scores, masked, metric)
        for c in range(4):
            known = ~hidden[:, c]
            alone = per_class(scores[known, c : c + 1], targets[known, c : c + 1], metric)
            assert found.values[c] == pytest.approx(alone.mean, abs=1e-12)
    micro, found = multi_label.f1(scores, masked)
    said = scores >= 0.5
    assert micro == pytest.approx(metrics.f1_score(targets[~hidden], said[~hidden]), abs=1e-12)
    assert found.values[2] == pytest.approx(
        metrics.f1_score(targets[~hidden[:, 2], 2], said[~hidden[:, 2], 2]), abs=1e-12
    )


def test_classes_that_cannot_be_scored_are_named_and_left_out_of_the_mean():
    scores, targets = labelled()
    targets[:, 1] = np.where(np.arange(300) % 2, 0, -1)
    targets[:, 3] = 1
    names = ["dog", "cat", "cow", "sky"]
    found = per_class(scores, targets, names=names)
    assert found.left_out == ["cat"]
    assert math.isnan(found.values[1])
    assert found.mean == pytest.approx(found.values[[0, 2, 3]].mean())
    assert found.values[3] == 1
    assert per_class(scores, targets, "auroc", names).left_out == ["cat", "sky"]
    assert multi_label.f1(scores, targets, names=names)[1].left_out == ["cat"]
    assert per_class(scores, targets).left_out == ["1"]
    targets[:, 0] = -1
    assert per_class(scores, targets).left_out == ["0", "1"]


def test_f1_agrees_with_scikit_learn():
    scores, targets = labelled()
    micro, found = multi_label.f1(scores, targets)
    said = (scores >= 0.5).astype(int)
    assert micro == pytest.approx(metrics.f1_score(targets, said, average="micro"), abs=1e-12)
    assert found.mean == pytest.approx(metrics.f1_score(targets, said, average="macro"), abs=1e-12)
    micro, found = multi_label.f1(np.zeros((300, 4)), targets)
    assert micro == found.mean == 0


def test_one_matrix_holds_scikit_learns_optimum_of_every_class():
    x, y = directions()
    x, y[::3, 1] = x.double(), -1
    strength = 1e-2
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    ours = torch.sigmoid(ones @ fit_one_vs_rest(ones, y, strength)).numpy()
    for c in range(3):
        known = y[:, c] >= 0
        solver = LogisticRegression(C=1 / (strength * int(known.sum())), tol=1e-10, max_iter=5000)
        theirs = solver.fit(x[known].numpy(), y[known, c].numpy())
        np.testing.assert_allclose(ours[:, c], theirs.predict_proba(x.numpy())[:, 1], atol=5e-5)


def test_a_class_without_known_labels_or_of_one_kind_does_not_disturb_the_others():
    x, y = directions()
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    alone = ones @ fit_one_vs_rest(ones, y, 1e-2)
    odd = torch.stack([torch.full((300,), -1), torch.ones(300, dtype=torch.int64), torch.zeros(300, dtype=torch.int64)])
    together = ones @ fit_one_vs_rest(ones, torch.cat([y, odd.T], 1), 1e-2)
    torch.testing.assert_close(together[:, :3], alone, atol=5e-3, rtol=0)
    assert (together[:, 3] == 0).all()
    assert (together[:, 4] > 3).all()
    assert (together[:, 5] < -3).all()


def test_the_probe_learns_and_chooses_without_the_test_set():
    (x, y), (x_test, y_test) = directions(), directions(200, seed=1)
    probability, strength = multi_label_probe(x, y, x_test)
    assert probability.shape == (200, 3)
    assert per_class(probability.numpy(), y_test.numpy(), "auroc").mean > 0.9
    other, same = multi_label_probe(x, y, x_test[:5] * 100)
    assert (strength, len(other)) == (same, 5)
    shifted, _ = multi_label_probe(x * 50 + 7, y, x_test * 50 + 7)
    torch.testing.assert_close(shifted, probability, atol=2e-3, rtol=0)


def test_the_sweep_can_hold_out_whole_patients():
    (x, y), (x_test, y_test) = directions(), directions(200, seed=1)
    parts = grouped_split(np.arange(300) // 5, y.numpy(), 0.2, 0)
    probability, _ = multi_label_probe(x, y, x_test, parts=parts)
    assert per_class(probability.numpy(), y_test.numpy(), "auroc").mean > 0.9
    none = (y == 0).all(1).numpy()
    with pytest.raises(DataError, match="No class can be scored"):  # on a held-out part without a positive
        multi_label_probe(x, y, x_test, parts=(np.flatnonzero(~none), np.flatnonzero(none)))


@pytest.mark.parametrize("seed", range(5))
def test_held_out_parts_keep_positives_on_both_sides(seed):
    _, targets = labelled(400)
    targets = np.concatenate([np.ones((400, 1), dtype=int), targets, np.zeros((400, 2), dtype=int)], axis=1)
    targets[[7, 11], 5] = 1  # which common classes hold too
    first, second = hold_out(targets, 0.2, seed)
    assert sorted([*first, *second]) == list(range(400))
    np.testing.assert_allclose(targets[second].sum(0)[:5], 0.2 * targets.sum(0)[:5], atol=8)
    assert targets[first, 5].sum() == targets[second, 5].sum() == 1


def test_what_cannot_be_scored_is_said():
    scores, targets = labelled()
    with pytest.raises(DataError, match=r"\[300, 4\] and targets \[300, 3\]"):
        per_class(scores, targets[:, :3])
    with pytest.raises(DataError, match=r"1 \(there\), 0 \(not there\) and -1"):
        per_class(scores, targets * 2)
    with pytest.raises(DataError, match="record 5 are not all numbers"):
        per_class(np.where(np.arange(300)[:, None] == 5, np.inf, scores), targets)
    with pytest.raises(DataError, match="No class can be scored"):
        per_class(scores, targets * 0)
    with pytest.raises(DataError, match="4 classes but 2 names"):
        per_class(scores, targets, names=["a", "b"])
    with pytest.raises(Unknown, match="Did you mean 'auroc'"):
        per_class(scores, targets, "auc")
    x, y = directions()
    with pytest.raises(DataError, match="one target row a training record"):
        multi_label_probe(x, y[:-1], x)
    with pytest.raises(DataError, match="test features are not numbers"):
        multi_label_probe(x, y, x * torch.nan)
    with pytest.raises(DataError, match="No class can be scored"):
        multi_label_probe(x, y * 0, x)
