"""Few labels: draws that are nested and exact, classifiers at closed forms, and the saving of labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import DataError
from tacit.evaluation import low_shot
from tests.evaluation.test_protocols import clouds

LABELS = np.array([0] * 50 + [1] * 30 + [2] * 20)


def test_shots_are_exact_nested_and_drawn_anew():
    five = low_shot.draw_shots(LABELS, 5, 4, classes=3)
    for rows in five:
        assert np.bincount(LABELS[rows]).tolist() == [5, 5, 5]
        assert len(set(rows)) == 15
    assert not np.array_equal(five[0], five[1])
    two = low_shot.draw_shots(LABELS, 2, 4, classes=3)
    assert all(set(a) < set(b) for a, b in zip(two, five, strict=True))
    assert np.array_equal(five[3], low_shot.draw_shots(LABELS, 5, 4, classes=3)[3])
    with pytest.raises(DataError, match="class 2 has 20"):
        low_shot.draw_shots(LABELS, 21, 1, classes=3)


def test_shares_hold_at_least_one_of_every_class():
    (rows,) = low_shot.draw_share(LABELS, 0.01, 1, classes=3)
    assert np.bincount(LABELS[rows]).tolist() == [1, 1, 1]
    (tenth,) = low_shot.draw_share(LABELS, 0.1, 1, classes=3)
    assert np.bincount(LABELS[tenth]).tolist() == [5, 3, 2]
    assert set(rows) < set(tenth)


def test_budgets_are_nested_and_in_proportion():
    small, large = (low_shot.draw_budget(LABELS, n, 2, classes=3) for n in (10, 50))
    assert all(set(a) < set(b) for a, b in zip(small, large, strict=True))
    assert np.abs(np.bincount(LABELS[large[0]]) - [25, 15, 10]).max() <= 1
    (least,) = low_shot.draw_budget(LABELS, 3, 1, classes=3)
    assert sorted(LABELS[least]) == [0, 1, 2]
    with pytest.raises(DataError, match=r"from 3 .* to 100"):
        low_shot.draw_budget(LABELS, 101, 1, classes=3)


def test_the_strength_is_swept_on_the_labels_alone_and_agrees_with_scikit_learn():
    (x, y), (x_test, y_test) = clouds(60, apart=0.8), clouds(200, seed=1, apart=0.8)
    predicted, strength = low_shot.logistic_few(x, y, x_test, classes=3)
    assert (predicted == y_test).float().mean() > 0.6
    assert strength == low_shot.logistic_few(x, y, x_test * 50, classes=3)[1]
    mean, std = x.mean(0), x.std(0, correction=0)
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=2000).fit(((x - mean) / std).numpy(), y)
    assert (theirs.predict(((x_test - mean) / std).numpy()) == predicted.numpy()).mean() > 0.99
    one = torch.tensor([int((y == c).nonzero()[0]) for c in range(3)])
    assert low_shot.logistic_few(x[one], y[one], x_test, classes=3)[1] == low_shot.ALONE


def test_prototypes_are_the_nearest_class_means():
    (x, y), (x_test, _) = clouds(90), clouds(100, seed=1)
    ours = low_shot.prototypes(x, y, x_test, classes=3)
    unit = lambda f: torch.nn.functional.normalize(f - x.mean(0), dim=1).numpy()  # noqa: E731
    theirs = NearestCentroid().fit(unit(x), y.numpy()).predict(unit(x_test))
    assert (ours.numpy() == theirs).all()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours, low_shot.prototypes(x[order], y[order], x_test, classes=3))
    axes = torch.eye(4).repeat_interleave(10, 0) + 0.01 * torch.randn(40, 4)
    labels = torch.arange(4).repeat_interleave(10)
    assert torch.equal(low_shot.prototypes(axes, labels, axes, classes=4), labels)


def test_msns_probe_does_not_see_shifts_and_scales_of_a_vector():
    (x, y), (x_test, _) = clouds(90), clouds(100, seed=1)
    ours = low_shot.msn(x, y, x_test, classes=3)
    assert torch.equal(ours, low_shot.msn(3 * x + 7, y, x_test - 5, classes=3))
    x_unit = torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1)
    test_unit = torch.nn.functional.normalize(x_test - x_test.mean(1, keepdim=True), dim=1)
    theirs = LogisticRegression(C=1 / 0.0025, fit_intercept=False, max_iter=3000).fit(x_unit.numpy(), y.numpy())
    assert (theirs.predict(test_unit.numpy()) == ours.numpy()).mean() > 0.97


def test_features_that_say_nothing_give_chance():
    (x, y), (x_test, y_test) = clouds(300, apart=0), clouds(900, seed=1, apart=0)
    for predicted in (low_shot.logistic_few(x, y, x_test, classes=3)[0], low_shot.prototypes(x, y, x_test, classes=3)):
        assert abs(float((predicted == y_test).float().mean()) - 1 / 3) < 0.06


def test_the_saving_of_labels_on_curves_that_are_known():
    budgets = [30, 60, 120, 250, 500, 1000, 2000, 5000, 10_000, 40_000]
    before = [1 - 0.5 * n**-0.3 for n in budgets]
    after = [1 - 0.5 * (10 * n) ** -0.3 for n in budgets]
    target = 1 - 0.5 * 5000**-0.3
    assert low_shot.labels_needed(budgets, before, target) == pytest.approx(5000)
    assert low_shot.saving(budgets, before, after, target) == pytest.approx(10, rel=0.01)
    assert low_shot.labels_needed(budgets, before, 0.9999) == float("inf")
    assert np.isnan(low_shot.saving(budgets, before, before, 0.9999))
    assert low_shot.labels_needed(budgets, before, 0.1) == 30
    with pytest.raises(DataError, match="budgets that rise"):
        low_shot.labels_needed([2, 1], [0, 1], 0.5)


def test_draws_are_kept_as_lists_of_names_and_used_again(tmp_path):
    names = [f"{c}/{i:03d}.png" for i, c in enumerate(LABELS)]
    drawn = low_shot.draw_shots(LABELS, 2, 3, classes=3)
    prefix = str(tmp_path / "lists" / "2-shot")
    kept = low_shot.kept_draws(prefix, drawn, names, LABELS)
    assert all(np.array_equal(np.sort(a), b) for a, b in zip(drawn, kept, strict=True))
    assert sorted(p.name for p in (tmp_path / "lists").iterdir()) == ["2-shot-0.txt", "2-shot-1.txt", "2-shot-2.txt"]
    lines = (tmp_path / "lists" / "2-shot-0.txt").read_text().splitlines()
    assert lines == [names[i] for i in np.sort(drawn[0])]
    others = low_shot.draw_shots(LABELS, 2, 4, classes=3, seed=9)
    again = low_shot.kept_draws(prefix, others, names, LABELS)
    assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=False))
    assert np.array_equal(again[3], np.sort(others[3]))  # which had no file
    first = tmp_path / "lists" / "2-shot-0.txt"
    for text, said in (
        ("\n".join([*lines, "0/999.png"]), "1 files that are no training records, the first is '0/999.png'"),
        ("\n".join(lines[1:]), "names 1 records of class 0, where 2 are asked for"),
        ("\n".join([*lines, names[int(np.setdiff1d(np.arange(100), drawn[0])[-1])]]), "names 3 records of class 2"),
        ("", "names no file"),
    ):
        first.write_text(text)
        with pytest.raises(DataError, match=said):
            low_shot.kept_draws(prefix, drawn, names, LABELS)


def test_a_file_name_that_several_records_have_is_refused(tmp_path):
    names = ["a/1.png", "b/1.png", "b/2.png"]
    (tmp_path / "list.txt").write_text("2.png\n1.png\n")
    with pytest.raises(DataError, match=r"'1\.png', and 2 records are called so"):
        low_shot.rows_named(tmp_path / "list.txt", names)
    (tmp_path / "list.txt").write_text("b/1.png\n2.png\n")
    assert low_shot.rows_named(tmp_path / "list.txt", names).tolist() == [1, 2]


def test_two_evaluations_share_the_subsets_of_a_folder(digits, tmp_path):
    torch.manual_seed(0)
    encoder, data = encoders.build("vit_mini", size=16, patch=8, depth=1), open_source(digits)
    test = data.select(np.arange(0, 200, 4))

    def of(specs, seed):
        return evaluation.evaluate(encoder, data, test, specs, seed=seed, baselines=False)["results"]

    how = f"draws=2:classifier=prototypes:store={tmp_path / 'lists'}"
    specs = [f"few_shot:shots=1/3:{how}", f"percent:share=20:{how}"]
    one, two = of(specs, 0), of(specs, 5)
    assert [r["value"] for r in one] == [r["value"] for r in two]
    assert [(r["protocol"], r["settings"]["store"]) for r in one] == [
        ("few_shot:shots=1", "lists"), ("few_shot:shots=3", "lists"), ("percent", "lists"),
    ]  # fmt: skip
    written = {f"{kind}-{i}.txt" for kind in ("1-shot", "3-shot", "20-percent") for i in range(2)}
    assert {p.name for p in (tmp_path / "lists").iterdir()} == written
    assert len((tmp_path / "lists" / "3-shot-0.txt").read_text().split()) == 30
    (row,) = of([f"subset:classifier=prototypes:file={tmp_path / 'lists' / '20-percent-0.txt'}"], 1)
    (alone,) = of([specs[1].replace("draws=2", "draws=1")], 1)
    assert row["value"] == pytest.approx(alone["value"])
    plain = [
        evaluation.evaluate(encoder, data, test, ["few_shot:draws=2:shots=1"], seed=s, baselines=False)["records"]
        for s in (0, 5)
    ]
    assert not np.array_equal(plain[0]["run/few_shot/top1"], plain[1]["run/few_shot/top1"])


def test_records_of_several_classes_are_drawn_so_that_each_has_its_shots():
    rng = np.random.default_rng(0)
    present = (rng.random((200, 4)) < (0.5, 0.3, 0.2, 0.1)).astype(np.int8)
    present[::7, 1] = -1  # unknown
    present = np.concatenate([present, np.zeros((200, 1), np.int8)], axis=1)  # one that is nowhere
    for k in (1, 2, 5):
        drawn = low_shot.draw_positives(present, k, 3, seed=1)
        assert all(((present[rows] == 1).sum(0)[:4] >= k).all() and len(rows) <= 4 * k for rows in drawn)
        assert all(np.array_equal(rows, np.unique(rows)) for rows in drawn)
        assert not np.array_equal(drawn[0], drawn[1])
    one, more = (low_shot.draw_positives(present, k, 1, seed=1)[0] for k in (2, 5))
    assert np.isin(one, more).all()
    with pytest.raises(DataError, match=r"99-shot needs 99 training records with every class; rare is in"):
        low_shot.draw_positives(present, 99, 1, names=["a", "b", "c", "rare", "none"])
    with pytest.raises(DataError, match="No class is in any"):
        low_shot.draw_positives(present * 0, 1, 1)


def test_equal_features_score_alike_and_shuffled_labels_give_chance():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 60)
    x = torch.from_numpy(rng.normal(size=(240, 16)) + 5 * np.eye(4, 16)[y]).float()
    labels = torch.from_numpy(y)
    drawn = low_shot.draw_shots(y, 5, 3, classes=4)
    assert all((np.bincount(y[rows]) == 5).all() for rows in drawn)
    assert not np.array_equal(drawn[0], drawn[1])

    def scores(features, of):
        return [
            float((low_shot.msn(features[rows], of[rows], features, classes=4) == of).float().mean()) for rows in drawn
        ]

    assert scores(x, labels) == scores(x.clone(), labels)
    assert np.mean(scores(x, labels)) > 0.9
    chance = scores(x, labels[torch.from_numpy(rng.permutation(240))])
    assert 0.15 < np.mean(chance) < 0.37
