"""Folds: each is tested on what the others teach, as if it had been given as a test set."""

import csv

import numpy as np
import pytest
import torch

from tacit import api, encoders, evaluation
from tacit.data import open_source
from tacit.errors import DataError, UsageError


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8, depth=1).eval()


@pytest.fixture(scope="module")
def table(tmp_path_factory, digits):
    """The digits' training pictures with a fold of three sizes each."""
    source, folder = open_source(digits), tmp_path_factory.mktemp("folds")
    with open(folder / "all.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["path", "digit", "part"])
        for i in range(len(source)):
            name = str(digits / source.name(i))
            writer.writerow([name, f"d{source.labels[i]}", "abc"[min(i % 4, 2)]])
    return folder / "all.csv"


def test_each_fold_is_scored_as_a_test_set_would_be(table, encoder):
    how = {"label": "digit", "workers": 0, "cache": False}
    found = api.evaluate(encoder, table, protocol="knn,clinical", folds="part", **how)
    (score,) = [r for r in found["results"] if (r["of"], r["protocol"]) == ("run", "knn")]
    source = open_source(table, labels=["digit"], group="part")
    alone = []
    for part in "abc":
        tested = source.groups == part
        one, other = source.select(np.flatnonzero(~tested)), source.select(np.flatnonzero(tested))
        one.groups = other.groups = None
        (row,) = evaluation.evaluate(encoder, one, other, ["knn"], baselines=False)["results"]
        alone.append(row["value"])
    assert score["settings"]["folds"] == pytest.approx(alone, abs=1e-4)
    assert score["value"] == pytest.approx(np.mean(alone))
    half = 4.302653 * np.std(alone, ddof=1) / 3**0.5  # Student's, two degrees of freedom
    assert (score["low"], score["high"]) == pytest.approx((np.mean(alone) - half, np.mean(alone) + half), abs=1e-5)
    assert score["n"] == len(source)
    assert score["settings"]["interval_over"] == "folds"
    assert {r["of"] for r in found["results"]} == {"run", "random-init", "raw-input"}
    assert "3 folds" in found["split"]
    assert any(r["protocol"] == "clinical" and len(r["settings"]["folds"]) == 3 for r in found["results"])


def test_what_is_said_of_every_record_is_in_the_order_of_the_records(table, encoder):
    source = open_source(table, labels=["digit"], group="part")
    folds, source.groups = source.groups, None
    found = evaluation.evaluate(encoder, source, None, ["knn"], baselines=False, folds=folds)
    records = found["records"]["run/knn/top1"]
    (score,) = found["results"]
    assert [records[folds == part].mean() for part in "abc"] == pytest.approx(score["settings"]["folds"], abs=1e-4)


def test_a_number_draws_folds_that_share_classes_and_keep_groups(table, encoder):
    source = open_source(table, labels=["digit"])
    folds = evaluation.drawn_folds(source, 5, seed=0)
    counts = np.stack([np.bincount(source.labels[folds == k], minlength=10) for k in range(5)])
    assert counts.sum() == len(source)
    assert (np.ptp(counts, axis=0) <= 2).all()
    assert not np.array_equal(folds, evaluation.drawn_folds(source, 5, seed=1))
    source.groups = np.arange(len(source)) // 3
    folds = evaluation.drawn_folds(source, 5, seed=0)
    assert all(len(set(folds[source.groups == g])) == 1 for g in range(20))
    found = api.evaluate(encoder, table, protocol="knn", label="digit", folds=4, baselines=False, workers=0)
    assert "4 folds" in found["split"]
    assert len(found["results"][0]["settings"]["folds"]) == 4


def test_a_protocol_that_one_fold_does_not_allow_is_left_out_and_said(table, encoder):
    """Five shots can be drawn of every class of the larger fold, and not of the smaller one's."""
    source = open_source(table, labels=["digit"])
    rows = np.concatenate([np.flatnonzero(source.labels == c)[: 8 if c else 6] for c in range(10)])
    some = source.select(rows)
    folds = np.zeros(len(some), np.int64)
    for c in range(10):
        folds[np.flatnonzero(some.labels == c)[: 3 if c else 1]] = 1
    found = evaluation.evaluate(encoder, some, None, ["all"], baselines=False, folds=folds)
    done = {r["protocol"].partition(":")[0] for r in found["results"]}
    assert {"knn", "linear"} <= done
    assert "few_shot" not in done
    assert "few_shot, run" in found["skipped"]


def test_folds_that_cannot_be_are_refused(table, encoder, digits):
    how = {"label": "digit", "workers": 0, "cache": False, "protocol": "knn"}
    with pytest.raises(UsageError, match="there is a test set"):
        api.evaluate(encoder, table, table, folds=3, **how)
    with pytest.raises(UsageError, match="Leave --group out"):
        api.evaluate(encoder, table, folds="part", group="part", **how)
    with pytest.raises(DataError, match="are of one fold"):
        api.evaluate(encoder, table, folds="digit", **how)
    with pytest.raises(UsageError, match="1 folds leave nothing"):
        api.evaluate(encoder, table, folds=1, **how)
    with pytest.raises(UsageError, match="--folds out"):
        api.evaluate(encoder, table, protocol="segment", folds="part", workers=0)
