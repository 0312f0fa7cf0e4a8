import math

import numpy as np
import pytest

from tacit.errors import DataError, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.clinical import auroc
from tacit.evaluation.groups import bootstrap_groups, check_groups, grouped_folds, grouped_split


def patients(count: int = 60, seed: int = 0):
    """Groups of one to nine records, two thirds of the patients ill, and a record number in the name."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, size=count)
    groups = np.repeat([f"p{i}" for i in range(count)], sizes)
    return groups, np.repeat(rng.random(count) < 2 / 3, sizes).astype(int)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_and_classes_keep_their_shares(seed):
    groups, labels = patients(seed=seed)
    first, second = grouped_split(groups, labels, 0.2, seed)
    assert sorted([*first, *second]) == list(range(len(groups)))
    assert not set(groups[first]) & set(groups[second])
    for c in (0, 1):
        assert (labels[second] == c).sum() == pytest.approx(0.2 * (labels == c).sum(), abs=5)  # half the largest group
    check_groups(groups[first], groups[second])
    assert not np.array_equal(second, grouped_split(groups, labels, 0.2, seed + 1)[1])


def test_groups_of_one_record_give_the_exact_stratified_split():
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    _, second = grouped_split(np.arange(100), labels, 0.2, seed=3)
    assert np.bincount(labels[second]).tolist() == [10, 6, 4]
    again, other = (grouped_split(np.arange(100), labels, 0.2, seed=s)[1] for s in (3, 4))
    assert np.array_equal(second, again)
    assert not np.array_equal(second, other)


def test_test_groups_are_neither_the_large_nor_the_small_ones():
    rng = np.random.default_rng(0)
    sizes = rng.permutation(np.repeat([1, 20], 100))
    groups = np.repeat(np.arange(200), sizes)
    _, second = grouped_split(groups, None, 0.25, seed=0)
    chosen = np.unique(groups[second])
    assert (sizes[chosen] == 20).sum() == pytest.approx(25, abs=1)
    assert (sizes[chosen] == 1).sum() == pytest.approx(25, abs=6)


def test_large_groups_are_placed_first_and_every_group_where_it_leaves_the_least_off():
    groups = np.repeat(np.arange(71), [30] + [1] * 70)
    assert len(grouped_split(groups, None, 0.3, seed=0)[1]) == 30
    groups = np.repeat(["a", "b", "c"], [66, 22, 12])  # a is kept, b tested; c leaves 4 too many, or 8 too few
    assert len(grouped_split(groups, None, 0.3, seed=0)[1]) == 34


def test_several_labels_a_record_are_balanced_each():
    rng = np.random.default_rng(0)
    groups = rng.integers(100, size=600)
    labels = (rng.random((600, 4)) < (0.5, 0.3, 0.2, 0.1)).astype(int)
    _, second = grouped_split(groups, labels, 0.2, seed=0)
    np.testing.assert_allclose(labels[second].sum(0), 0.2 * labels.sum(0), atol=6)
    assert len(second) == pytest.approx(120, abs=6)


def test_folds_test_every_record_once_and_keep_groups_whole():
    groups, labels = patients()
    folds = grouped_folds(groups, labels, 5, seed=0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(groups)))
    for train, test in folds:
        check_groups(groups[train], groups[test])
        assert len(train) + len(test) == len(groups)
        assert labels[test].mean() == pytest.approx(labels.mean(), abs=0.06)


def test_no_part_stays_empty_when_groups_are_as_many_as_parts():
    groups = np.array(["a"] * 50 + ["b"] * 50)
    first, second = grouped_split(groups, None, 0.1, seed=0)
    assert len(first) == len(second) == 50
    groups = np.array(["a"] * 90 + ["b", "c", "d"])
    assert all(len(test) for _, test in grouped_folds(groups, None, 4, seed=0))


def test_groups_that_cannot_be_split_are_refused():
    with pytest.raises(DataError, match="1 groups cannot fill 2 parts"):
        grouped_split(["a"] * 4, None, 0.2, 0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        grouped_split(["a", "b"], None, 1.0, 0)
    with pytest.raises(UsageError, match="two or more"):
        grouped_folds(["a", "b"], None, 1, 0)
    with pytest.raises(DataError, match="3 groups of records but 2 labels"):
        grouped_split(["a", "b", "c"], np.array([0, 1]), 0.2, 0)


def test_straddling_groups_are_named():
    check_groups(["p1", "p2"], ["p3"])
    with pytest.raises(DataError, match=r"2 groups have records in both .*: p1, p7\. .*grouped_split"):
        check_groups(["p1", "p2", "p7", "p7"], ["p7", "p1", "p3"])
    with pytest.raises(DataError, match="1 group has"):
        check_groups(np.array([4, 5]), np.array([5, 6]))


def test_without_groups_the_interval_is_that_of_records():
    right = np.random.default_rng(0).random(200) < 0.8
    found = bootstrap_groups(right.astype(float), None, seed=5)
    assert found == pytest.approx((right.mean(), *intervals.bootstrap(right.astype(float), seed=5)), abs=1e-12)


def test_the_fast_and_the_general_path_draw_the_same_resamples():
    groups, labels = patients()
    values = np.random.default_rng(1).normal(size=len(groups)) + labels
    fast = bootstrap_groups(values, groups, resamples=300, seed=2)
    assert fast == pytest.approx(bootstrap_groups(values, groups, np.mean, resamples=300, seed=2), abs=1e-12)
    both = bootstrap_groups(np.stack([values, -values], 1), groups, resamples=300, seed=2)
    assert [v[0] for v in both] == pytest.approx(fast)
    assert (both[1][1], both[2][1]) == pytest.approx((-fast[2], -fast[1]))


def test_groups_are_resampled_with_all_their_records():
    groups = np.array([7, 3, 7, 3, 3])
    seen = set()

    def keep(rows):
        seen.add(tuple(sorted(rows)))
        return 0.0

    bootstrap_groups(np.arange(5), groups, keep, resamples=200)
    assert seen == {(0, 1, 2, 3, 4), (0, 0, 2, 2), (1, 1, 3, 3, 4, 4)}


def test_the_interval_of_repeated_records_is_that_of_their_groups():
    right = (np.random.default_rng(0).random(50) < 0.7).astype(float)
    value, low, high = bootstrap_groups(np.repeat(right, 20), np.repeat(np.arange(50), 20))
    half = 1.96 * math.sqrt(value * (1 - value) / 50)  # fifty patients, however many slices each
    assert (low, high) == (pytest.approx(value - half, abs=0.03), pytest.approx(value + half, abs=0.03))
    _, low, high = bootstrap_groups(np.repeat(right, 20), None)
    assert (high - low) / 2 == pytest.approx(half / math.sqrt(20), abs=0.005)


def test_two_thousand_resamples_of_ten_thousand_records_come_in_blocks(monkeypatch):
    values = np.random.default_rng(0).normal(size=10_000)
    value, low, high = bootstrap_groups(values, None)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 100, rel=0.06)
    monkeypatch.setattr("tacit.evaluation.groups.BLOCK", 30_000)
    assert bootstrap_groups(values, None, resamples=7) == pytest.approx(
        bootstrap_groups(values, None, np.mean, resamples=7), abs=1e-12
    )
    assert low < value < high


def test_statistics_that_some_resamples_leave_undefined():
    rng = np.random.default_rng(0)
    target = np.repeat([0, 1], [30, 5])
    score = target + rng.normal(size=35)
    value, low, high = bootstrap_groups((score, target), np.arange(35), auroc, resamples=500)  # 1 in 200 has no 1
    assert low < value < high <= 1
    with pytest.raises(DataError, match=r"undefined in 3\d% of the resamples: too few of the 35 groups"):
        bootstrap_groups((score, np.arange(35) == 34), None, auroc, resamples=500)
    with pytest.raises(DataError, match="undefined on these records"):
        bootstrap_groups((score, np.zeros(35)), None, auroc)


def test_what_cannot_be_resampled_is_said():
    with pytest.raises(DataError, match="one group"):
        bootstrap_groups(np.ones(3), ["a"] * 3)
    with pytest.raises(DataError, match="3 records but groups for 2"):
        bootstrap_groups(np.ones(3), ["a", "b"])
    with pytest.raises(DataError, match="3, 2 rows"):
        bootstrap_groups((np.ones(3), np.ones(2)), None, auroc)
    with pytest.raises(DataError, match="values to resample are not numbers"):
        bootstrap_groups(np.array([1.0, np.nan]), None)
    with pytest.raises(UsageError, match="no statistic 'median'"):
        bootstrap_groups(np.ones(3), None, "median")
