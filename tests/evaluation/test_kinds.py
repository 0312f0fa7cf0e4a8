"""Protocols for other labels than one class: numbers, several labels, findings of patients, and none."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import tacit
from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import DataError, UsageError


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """120 pictures whose redness, greenness and finding a linear probe can read; three to a patient."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(120):
        red, green = rng.uniform(30, 220, 2)
        pixels = rng.normal((red, green, 90), 8, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"é{i}.png")
        tags = [name for name, there in (("reddish", red > 125), ("greenish", green > 125)) if there]
        rows.append((f"é{i}.png", red / 10, green, int(red > green), ";".join(tags), f"p{i // 3}"))
    with open(folder / "t.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["path", "red", "green", "finding", "tags", "patient"])
        writer.writerows(rows)
    return folder / "t.csv"


def scores(result, of="run"):
    return {(r["protocol"], r["metric"]): r for r in result["results"] if r["of"] == of}


def test_numbers_are_regressed_column_by_column(encoder, scans):
    result = tacit.evaluate(encoder, scans, label=["red", "green"], protocol="ridge", group="patient")
    found = scores(result, "raw-input")
    assert found["ridge:red", "r2"]["value"] > 0.9
    assert found["ridge:green", "mae"]["value"] < 10
    assert found["ridge:red", "mae"]["value"] < 1
    for row in result["results"]:
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
    assert result["split"] == "whole groups held out by seed 0"


def test_records_without_a_number_are_not_counted(encoder, scans):
    with open(scans, encoding="utf-8", newline="") as f:
        head, *rows = csv.reader(f)
    for row in rows[::4]:
        row[head.index("red")] = "nan"
    other = scans.with_name("unknown.csv")
    with open(other, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    result = tacit.evaluate(encoder, other, other, label="red", protocol="ridge", baselines=False)
    assert {r["n"] for r in result["results"]} == {90}
    alone = tacit.evaluate(encoder, other, label="red", protocol="ridge", baselines=False)
    assert alone["split"] == "a fifth of the records held out by seed 0"


def test_several_labels_get_a_map_and_each_its_own(encoder, scans):
    result = tacit.evaluate(encoder, scans, label="tags", protocol="multi_label")
    row = scores(result, "raw-input")["multi_label", "map"]
    assert row["value"] > 0.9
    assert set(row["settings"]["per_class"]) == {"reddish", "greenish"}
    assert row["value"] == pytest.approx(np.mean(list(row["settings"]["per_class"].values())), abs=1e-3)


def test_findings_of_patients(encoder, scans):
    result = tacit.evaluate(encoder, scans, label="finding", group="patient", protocol="clinical,linear,knn")
    found = scores(result, "raw-input")
    assert found["clinical", "auroc"]["value"] > 0.9
    assert 0 < found["clinical", "sensitivity"]["value"] <= 1
    assert 0 < found["clinical", "sensitivity"]["settings"]["threshold"] < 1
    assert found["linear", "top1"]["settings"]["interval_over"] == "groups"
    plain = tacit.evaluate(encoder, scans, label="finding", protocol="linear")
    assert "interval_over" not in scores(plain)["linear", "top1"]["settings"]


def test_a_group_on_both_sides_is_refused(encoder, scans, tmp_path):
    source = open_source(scans, labels=["finding"], group="patient")
    with pytest.raises(DataError, match="p1"):
        evaluation.evaluate(encoder, source.select(np.arange(5)), source.select(np.arange(5, 12)), ["knn"])
    apart = evaluation.evaluate(
        encoder, source.select(np.arange(60)), source.select(np.arange(60, 120)), ["knn"], baselines=False
    )
    assert apart["results"][0]["n"] == 60


def test_all_takes_what_the_labels_allow_and_says_what_not(encoder, scans):
    of_classes = tacit.evaluate(encoder, scans, label="finding", protocol="all", baselines=False)
    ran = {r["protocol"] for r in of_classes["results"]}
    assert ran == {"knn", "linear", "few_shot", "clinical", "retrieval", "label_free", "correspondence"}
    assert "numbers" in of_classes["skipped"]["ridge"]
    assert "ask for it by name" in of_classes["skipped"]["linear_sgd"]
    of_numbers = tacit.evaluate(encoder, scans, label="red", protocol="all", baselines=False)
    assert {r["protocol"] for r in of_numbers["results"]} == {"ridge", "label_free", "correspondence"}
    none = tacit.evaluate(encoder, scans, protocol="all", baselines=False)
    assert {r["protocol"] for r in none["results"]} == {"label_free", "correspondence"}
    for result in (of_classes, of_numbers, none):
        assert all(r["n"] > 0 and np.isfinite([r["low"], r["high"]]).all() for r in result["results"])


def test_a_protocol_for_other_labels_is_refused_with_those_that_fit(encoder, scans):
    with pytest.raises(UsageError, match=r"knn needs one class a record, and the data has numbers.*ridge"):
        tacit.evaluate(encoder, scans, label="red", protocol="knn")
    with pytest.raises(UsageError, match=r"ridge needs numbers, and the data has one class"):
        tacit.evaluate(encoder, scans, label="finding", protocol="ridge")


def test_classes_that_training_never_had_are_refused(encoder, digits):
    source = open_source(digits)
    few = source.select(np.flatnonzero(source.labels < 5))
    with pytest.raises(DataError, match="classes without a training record: 5, 6, 7, 8, 9"):
        evaluation.evaluate(encoder, few, source, ["knn"])


def test_the_labels_of_a_published_list_are_used(encoder, digits, tmp_path):
    source = open_source(digits)
    names = [source.name(i) for i in range(len(source))]
    test = source.select(np.arange(1, 200, 2))
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join(name.rpartition("/")[2] for name in names[::4]) + "\n\n")
    (row,) = evaluation.evaluate(encoder, source, test, [f"subset:file={listed}"], baselines=False)["results"]
    assert (row["settings"]["labels"], row["settings"]["file"], row["n"]) == (50, "some.txt", 100)
    listed.write_text("nothing.png\n")
    with pytest.raises(DataError, match=r"1 files that are no training records.*nothing\.png"):
        evaluation.evaluate(encoder, source, test, [f"subset:file={listed}"], baselines=False)
    listed.write_text(names[0])
    with pytest.raises(DataError, match="no record of 9 of 10 classes"):
        evaluation.evaluate(encoder, source, test, [f"subset:file={listed}"], baselines=False)
    with pytest.raises(DataError, match="one a line"):
        evaluation.evaluate(encoder, source, test, ["subset"], baselines=False)


def test_retrieval_of_the_raw_digits_beats_chance(encoder, digits):
    result = evaluation.evaluate(encoder, open_source(digits), None, ["retrieval:k=1/5"])
    found = scores(result, "raw-input")
    assert found["retrieval", "map"]["value"] > 0.4
    assert found["retrieval", "recall_at_5"]["value"] >= found["retrieval", "recall_at_1"]["value"] > 0.8
    assert result["records"]["run/retrieval/recall_at_1"].shape == (found["retrieval", "map"]["n"],)
