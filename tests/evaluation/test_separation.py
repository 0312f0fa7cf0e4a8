"""What is said of how classes lie apart: values by hand, against scikit-learn, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tacit.evaluation.separation import confusion, macro_f1, other_groups_knn, scores, silhouettes, tree


def test_macro_f1_weighs_a_rare_class_as_much_as_a_common_one():
    truth, predicted = np.array([0] * 8 + [1] * 2), np.zeros(10, int)
    assert macro_f1(truth, predicted) == pytest.approx((2 * 8 / 18 + 0) / 2)
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(4, size=60), rng.integers(4, size=60)
    assert macro_f1(truth, predicted) == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_a_class_that_a_resample_lacks_is_not_held_against_it():
    assert macro_f1(np.array([0, 0]), np.array([0, 2])) == pytest.approx(2 / 3)


def test_the_rows_of_a_confusion_are_shares_of_their_class():
    found = confusion(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 3)
    assert found.tolist() == [[1 / 3, 2 / 3, 0], [0, 1, 0], [0, 0, 0]]


def test_a_silhouette_by_hand():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert silhouettes(x, torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([1.0] * 4)
    assert silhouettes(x, torch.tensor([0, 1, 0, 1])).tolist() == pytest.approx([-0.5] * 4)  # own at 1, other at 1/2
    assert silhouettes(x, torch.tensor([0, 0, 0, 0])) is None


def test_neighbours_of_the_own_group_are_not_asked():
    """Vectors tell speakers apart and nothing else: with their own group they would be right, without it never."""
    groups = np.repeat(["a", "b", "c", "d"], 6)
    labels = torch.tensor([0, 1, 0, 1]).repeat_interleave(6)
    x = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99]]).repeat_interleave(6, 0)
    right, rows = other_groups_knn(x, labels, groups)
    assert rows.tolist() == list(range(24))
    assert not right.any()  # the nearest other speaker is of the other class
    assert other_groups_knn(x, torch.tensor([0, 0, 1, 1]).repeat_interleave(6), groups)[0].all()
    assert not len(other_groups_knn(x, labels, ["a"] * 24)[1])


def test_who_has_no_class_mate_in_another_group_is_not_asked():
    groups = np.repeat(["a", "b", "c"], 6)
    labels = torch.tensor([0, 0, 1]).repeat_interleave(6)  # the second class has one speaker
    x = torch.randn(18, 3, generator=torch.Generator().manual_seed(0))
    right, rows = other_groups_knn(x, labels, groups)
    assert rows.tolist() == list(range(12))
    assert len(right) == 12
    (score,) = [s for s in scores(x, labels, labels, groups) if s["metric"] == "knn_other_groups"]
    assert score["n"] == 12
    each_its_own = torch.arange(3).repeat_interleave(6)
    assert "knn_other_groups" not in {s["metric"] for s in scores(x, each_its_own, labels, groups)}


def test_the_tree_joins_what_lies_near_first():
    angles = torch.tensor([0.0, 0.1, 1.5])
    x = torch.stack([angles.cos(), angles.sin()], 1).repeat_interleave(2, 0)
    found = tree(x, torch.arange(3).repeat_interleave(2), ["ven", "tre", "sar"])
    assert sorted(found[0]["left"] + found[0]["right"]) == ["tre", "ven"]
    assert found[0]["distance"] == pytest.approx(1 - np.cos(0.1), abs=1e-4)
    assert sorted([found[1]["left"], found[1]["right"]], key=len) == [["sar"], ["ven", "tre"]]


def test_intervals_are_over_groups_where_there_are_some():
    """Two towns, one all right and one all wrong: over 40 records the interval is narrow, over 2 towns it is all."""
    y = torch.tensor([0, 1] * 20)
    p = torch.where(torch.arange(40) < 20, y, 1 - y)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    by_town = {s["metric"]: s for s in scores(x, y, p, np.repeat(["a", "b"], 20))}
    assert (by_town["accuracy"]["low"], by_town["accuracy"]["high"]) == (0, 1)
    assert by_town["accuracy"]["interval_over"] == "groups"
    assert by_town.keys() == {"accuracy", "macro_f1", "silhouette", "knn_other_groups"}
    alone = {s["metric"]: s for s in scores(x, y, p, None)}
    assert alone["accuracy"]["value"] == by_town["accuracy"]["value"] == 0.5
    assert alone["accuracy"]["high"] - alone["accuracy"]["low"] < 0.4
    assert alone["macro_f1"]["interval_over"] == "records"
    assert "knn_other_groups" not in alone
