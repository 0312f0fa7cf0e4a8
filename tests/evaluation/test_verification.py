"""Pairs of recordings: equal error rate and cost against closed forms and scikit-learn, and lists of trials."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from tacit import encoders, evaluation, scores
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.evaluation.verification import equal_error, least_cost, rates, read_trials


def test_errors_in_closed_form():
    same = np.array([1, 1, 0, 0], bool)
    for values, eer, cost in (
        ([0.9, 0.8, 0.2, 0.1], 0.0, 0.0),
        ([0.1, 0.2, 0.8, 0.9], 1.0, 1.0),
        ([0.9, 0.2, 0.8, 0.1], 0.5, 0.5),  # accepting the first alone misses one of two true pairs and alarms at none
        ([0.5, 0.5, 0.5, 0.5], 0.5, 1.0),
    ):
        found = rates(np.array(values), same)
        assert equal_error(*found) == pytest.approx(eer)
        assert least_cost(*found) == pytest.approx(cost)


def test_less_is_better():
    assert (scores.sign("eer"), scores.sign("min_dcf")) == (-1, -1)
    assert scores.shown({"metric": "eer", "value": 0.123}) == "12.3 %"


def test_rates_are_scikit_learns():
    rng = np.random.default_rng(0)
    same = rng.random(3000) < 0.1
    values = np.round(rng.normal(same * 1.5, 1), 1)  # many equal ones
    miss, alarm = rates(values, same)
    fpr, tpr, _ = roc_curve(same, values, drop_intermediate=False)
    assert np.allclose(alarm, fpr)
    assert np.allclose(miss, 1 - tpr)
    assert least_cost(miss, alarm, 0.5) == pytest.approx(np.min(fpr + 1 - tpr))


def test_two_normals_meet_half_way():
    rng = np.random.default_rng(0)
    same = rng.random(100_000) < 0.3
    found = rates(rng.normal(same * 1.5, 1), same)
    assert equal_error(*found) == pytest.approx(0.2266, abs=0.005)  # Phi(-0.75)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    source = open_source(digits)
    return source.select(np.arange(0, 200, 2)), source.select(np.arange(1, 200, 2))


def test_pairs_of_all_records_and_of_trials(pictures, digits, tmp_path):
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=16, patch=8, depth=1).eval()
    train, test = pictures
    found = evaluation.evaluate(encoder, train, test, ["verification:centre=yes"], baselines=False)
    eer, cost = (next(r for r in found["results"] if r["metric"] == m) for m in ("eer", "min_dcf"))
    x = evaluation.features(encoder, test).x - evaluation.features(encoder, train).x.mean(0)
    x = torch.nn.functional.normalize(x, dim=1)
    a, b = np.triu_indices(len(x), 1)
    wanted = rates((x[a] * x[b]).sum(1).numpy(), test.labels[a] == test.labels[b])
    assert eer["value"] == pytest.approx(equal_error(*wanted), abs=1e-3)
    assert cost["value"] == pytest.approx(least_cost(*wanted), abs=1e-3)
    assert eer["low"] < eer["value"] < eer["high"]
    assert 0 < eer["value"] < 0.5
    pairs = np.random.default_rng(0).permutation(len(a))[:200]
    lines = [f"{int(test.labels[a[i]] == test.labels[b[i]])} {test.name(a[i])} {test.name(b[i])}" for i in pairs]
    (tmp_path / "trials.txt").write_text("\n".join(lines))
    spec = f"verification:centre=yes:trials={tmp_path / 'trials.txt'}"
    (of_trials,) = [r for r in evaluation.evaluate(encoder, train, test, [spec], baselines=False)["results"]
                    if r["metric"] == "eer"]  # fmt: skip
    some = rates((x[a[pairs]] * x[b[pairs]]).sum(1).numpy(), test.labels[a[pairs]] == test.labels[b[pairs]])
    assert of_trials["value"] == pytest.approx(equal_error(*some), abs=1e-3)
    assert of_trials["n"] == 200
    assert of_trials["settings"]["interval_over"] == "trials"


def test_trials_that_cannot_be_read_are_named_by_line(tmp_path):
    names, file = ["a/1.wav", "a/2.wav", "b/1.wav"], tmp_path / "trials.txt"
    file.write_text("1 a/1.wav 2.wav\n\n0 a/2.wav b/1.wav\n")
    first, second, same = read_trials(file, names)
    assert (first.tolist(), second.tolist(), same.tolist()) == ([0, 1], [1, 2], [True, False])
    for text, said in (
        ("1 a/1.wav", r"line 1: '1 a/1.wav' is not like"),
        ("yes a/1.wav a/2.wav", "is not like"),
        ("1 a/1.wav c/9.wav", "line 1: c/9.wav: no test record"),
        ("1 1.wav a/2.wav", "2 records have that name"),
        ("1 a/1.wav a/2.wav", "pairs of both kinds"),
        ("", "pairs of both kinds"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            read_trials(file, names)
    with pytest.raises(DataError, match="trials = "):
        read_trials(tmp_path / "none.txt", names)


def test_without_classes_trials_are_asked_for(pictures):
    encoder = encoders.build("vit_mini", size=16, patch=8, depth=1).eval()
    train = pictures[0].select(np.arange(40))
    train.labels = train.classes = None
    with pytest.raises(UsageError, match="trials=FILE"):
        evaluation.evaluate(encoder, train, None, ["verification"], baselines=False)
