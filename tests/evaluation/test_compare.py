"""Comparisons: the same records for all, differences with intervals, and tables that say what they are of."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch

import tacit
from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import UsageError
from tacit.evaluation import dense, scenes, tables
from tacit.evaluation.detection.records import RECALLS, Matches, pack, weighted_ap
from tacit.evaluation.protocols import parse
from tests.evaluation.dense.conftest import write_shapes


def result(right: np.ndarray, split: str = "abc", **settings) -> dict:
    score = {
        "protocol": "knn", "metric": "top1", "value": float(right.mean()), "low": 0.1, "high": 0.9, "n": len(right),
        "of": "run", "settings": {"k": 20, "feature": "pooled", **settings},
    }  # fmt: skip
    inputs = {"size": 32, "crop": 1.0, "interpolation": "bilinear", "mean": [0.5, 0.25, 0.5], "std": [0.25] * 3}
    return {
        "split": "test set", "split_hash": split, "seed": 0, "data": "d", "inputs": inputs, "results": [score],
        "records": {"run/knn/top1": right},
    }  # fmt: skip


RIGHT = np.arange(200) < 150
WORSE = np.arange(200) < 120


def test_differences_are_of_the_same_records():
    found = evaluation.compare({"a": result(WORSE), "b": result(RIGHT), "c": result(RIGHT)})
    assert found["ranks"] == {"a": 3.0, "b": 1.5, "c": 1.5}
    of_a, of_c = (next(d for d in found["differences"] if d["b"] == name) for name in "ac")
    assert of_a["a"] == "b"
    assert of_a["difference"] == pytest.approx(0.15)
    assert 0.09 < of_a["low"] < 0.15 < of_a["high"] < 0.21
    assert of_a["p"] == pytest.approx(2 * 0.5**30)
    assert of_a["p_holm"] == pytest.approx(2 * of_a["p"])
    assert of_c["difference"] == of_c["low"] == of_c["high"] == 0
    assert of_c["p_holm"] == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"b": result(RIGHT, split="xyz")}, "different splits.*abc.*xyz"),
        ({"b": result(RIGHT, k=10)}, "other settings on b"),
        ({"b": {**result(RIGHT), "results": []}}, "No protocol was run on all.*b: none"),
        ({}, "two encoders"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, said):
    with pytest.raises(UsageError, match=said):
        evaluation.compare({"a": result(WORSE), **other})


def test_every_table_says_split_seed_and_inputs_and_escapes_names():
    found = evaluation.compare({"a|<b>": result(WORSE), "c_d&": result(RIGHT)})
    md, page, tex = (
        tables.markdown(*tables.parts(found)),
        tables.html_page(*tables.parts(found)),
        tables.latex(*tables.parts(found)),
    )
    for text in (md, page, tex):
        assert "split abc" in text
        assert "seed 0" in text
        assert "200 test records" in text
        assert "Features: pooled. Inputs: 32 px, crop 1, bilinear, mean 0.5 0.25 0.5, std 0.25 0.25 0.25." in text
    assert "a\\|<b>" in md
    assert "a|&lt;b&gt;" in page
    assert "<b>" not in page
    assert "c\\_d\\&" in tex
    body = list(csv.DictReader(io.StringIO(tables.comma(*tables.parts(found, whole=True)))))
    assert [row["encoder"] for row in body] == ["c_d&", "a|<b>"]
    assert [row["to the best"] for row in body] == ["", "-15.0"]
    assert body[0]["inputs"].startswith("32 px, crop 1, bilinear, mean 0.5")
    assert [body[0][name] for name in ("n", "features", "split", "seed")] == ["200", "pooled", "abc", "0"]
    assert "inputs" not in tables.titles(found)
    other = result(RIGHT)
    other["inputs"] |= {"size": 64, "crop": 0.875, "interpolation": "bicubic"}
    both = tables.markdown(*tables.parts(evaluation.compare({"a": result(RIGHT), "b": other})))
    assert "| inputs |" in both
    assert "64 px, crop 0.875, bicubic" in both
    assert "| +0.0 | +0.0 to +0.0 |" in both
    several = {name: result(right) for name, right in (("a", RIGHT), ("b", WORSE))}
    for one in several.values():
        row = one["results"][0]
        one["results"].append({**row, "protocol": "linear_sgd", "settings": {"feature": ["cls", "last4", "cls"]}})
    text = tables.markdown(*tables.parts(evaluation.compare(several)))
    assert "| features |" in text
    assert "| cls/last4 |" in text
    assert "Features:" not in text


def test_the_table_of_one_encoder_says_all_that_belongs_to_it():
    one = result(RIGHT) | {"encoder": "runs/a"}
    one["results"].append({**one["results"][0], "of": "raw-input"})
    assert tables.table(one) == [
        ("knn", "top1", "pooled", "run", "75.0 %", "10.0 to 90.0", "200"),
        ("knn", "top1", "pixels", "raw-input", "75.0 %", "10.0 to 90.0", "200"),
    ]
    assert tables.caption_of_one(one) == (
        "runs/a in eval mode. Inputs: 32 px, crop 1, bilinear, mean 0.5 0.25 0.5, std 0.25 0.25 0.25. "
        "Test: test set, 200 records, split abc, seed 0."
    )


def scene(protocol: str, records: dict[str, np.ndarray], values: dict[str, float]) -> dict:
    """As `evaluate` gives it of a folder with masks or boxes."""
    made = result(RIGHT)
    rows = [
        {**made["results"][0], "protocol": protocol, "metric": m, "value": v, "settings": {}} for m, v in values.items()
    ]
    return {**made, "results": rows, "records": {f"run/{protocol}/{m}": r for m, r in records.items()}}


def test_scores_of_whole_sets_are_compared_image_by_image(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.integers(20, 50, (40, 3, 3)) + 100 * np.eye(3, dtype=int)
    moved = 50 * np.eye(3, dtype=int)
    results = {}
    for name, matrices in (("a", first), ("b", first - moved + np.roll(moved, 1, axis=1))):
        values = {m: float(of(matrices.sum(0))) for m, of in dense.METRICS.items()}
        records = dict.fromkeys(values, dense.counts(matrices))
        evaluation.store(tmp_path / name, scene("segment", records, values))
        results[name] = evaluation.latest(evaluation.stored(tmp_path / name))
    found = evaluation.compare(results)
    assert [d["metric"] for d in found["differences"]] == ["miou", "pixel_accuracy", "mean_accuracy"]
    for d in found["differences"]:
        best, other = (
            next(s for s in found["scores"] if s["metric"] == d["metric"] and s["encoder"] == n) for n in "ab"
        )
        assert d["difference"] == pytest.approx(best["value"] - other["value"])
        assert 0 < d["low"] < d["difference"] < d["high"]
        assert (d["test"], d["p"]) == ("exchanges", 1 / 2000)
    assert "| segment | miou | b |" in tables.markdown(*tables.parts(found))


def test_average_precisions_are_compared_image_by_image(tmp_path):
    rng = np.random.default_rng(0)
    hits = {"good": rng.random(30) < 0.9}
    hits["poor"] = hits["good"] & (rng.random(30) < 0.5)
    results = {}
    for name, hit in hits.items():
        matches = [Matches(np.arange(30), hit[None], ~hit[None], np.ones(30, int), np.linspace(1, 0.5, 30))]
        value = weighted_ap(matches, np.ones(30, int), RECALLS)
        evaluation.store(tmp_path / name, scene("detect", {"box_ap": pack(matches)}, {"box_ap": value}))
        results[name] = evaluation.latest(evaluation.stored(tmp_path / name))
    (d,) = evaluation.compare(results)["differences"]
    good, poor = (results[n]["results"][0]["value"] for n in ("good", "poor"))
    assert (d["a"], d["b"], d["test"]) == ("good", "poor", "exchanges")
    assert d["difference"] == pytest.approx(good - poor)
    assert 0 < d["low"] < d["difference"] < d["high"]
    assert d["p"] < 0.01


def test_a_folder_of_masks_is_compared(tmp_path):
    folder = write_shapes(tmp_path, train=8, test=5, side=32)
    results = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = encoders.build("vit_mini", size=32, depth=1)
        made = scenes.evaluate(encoder, folder, None, [parse("segment:head=patch_knn")], baselines=False)
        results[f"{seed}"] = {**made, "data": "shapes"}
    found = evaluation.compare(results)
    assert [d["test"] for d in found["differences"]] == ["exchanges"] * 3
    values = {(s["encoder"], s["metric"]): s["value"] for s in found["scores"]}
    for d in found["differences"]:
        assert d["difference"] == pytest.approx(values[d["a"], d["metric"]] - values[d["b"], d["metric"]])


def test_encoders_are_compared_on_data_and_from_what_runs_hold(digits, tmp_path, monkeypatch):
    for i, name in enumerate(("one", "two")):
        torch.manual_seed(i)
        encoders.save(encoders.build("vit_mini", size=16, patch=8), tmp_path / name)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    found = tacit.compare(runs, digits, protocol="knn,few_shot", out=tmp_path / "t.md")
    assert {s["protocol"] for s in found["scores"]} == {"knn", "few_shot"}
    assert {d["test"] for d in found["differences"]} == {"mcnemar", "sign flips"}
    assert (tmp_path / "t.md").read_text().count("\n| ") == 4
    with pytest.raises(UsageError, match="no stored scores"):
        tacit.compare(runs)
    with pytest.raises(UsageError, match=r"\.tex"):
        tacit.compare(runs, digits, out=tmp_path / "t.xlsx")
    both = tacit.compare([runs[0], runs[0]], digits, protocol="knn")
    assert both["differences"][0]["difference"] == 0
    assert len(both["ranks"]) == 2


def test_label_free_measures_are_judged_by_the_order_they_give():
    def of(value: float, free: float, metric: str = "rankme") -> dict:
        found = result(np.arange(1000) < 1000 * value)
        free = {**found["results"][0], "protocol": "label_free", "metric": metric, "value": free, "settings": {}}
        return {**found, "results": [found["results"][0], free]}

    found = evaluation.compare({"a": of(0.5, 10), "b": of(0.6, 20), "c": of(0.7, 30), "d": of(0.8, 40)})
    (row,) = found["label_free"]
    assert (row["measure"], row["protocol"], row["spearman"], row["n"]) == ("rankme", "knn", pytest.approx(1), 4)
    assert row["p"] == pytest.approx(2 / 24)
    assert found["ranks"]["d"] == 1
    assert evaluation.compare({"a": of(0.5, 10), "b": of(0.6, 20)})["label_free"] == []
    near_one = {str(v): of(v, alpha, "alpha_req") for v, alpha in ((0.5, 0.2), (0.6, 1.7), (0.7, 0.6), (0.8, 1.1))}
    assert evaluation.compare(near_one)["label_free"][0]["spearman"] == pytest.approx(1)


def test_label_budget_curves_say_how_many_labels_are_saved():
    budgets = [50, 100, 200, 400, 800, 1600]

    def of(times: float) -> dict:
        found = result(RIGHT)
        rows = [
            {
                **found["results"][0], "protocol": f"budget:labels={n}", "value": 1 - 0.5 * (times * n) ** -0.3,
                "settings": {"labels": n},
            }
            for n in budgets
        ]  # fmt: skip
        return {**found, "results": rows, "records": {}}

    (row,) = evaluation.compare({"before": of(1), "after": of(4)})["savings"]
    assert (row["encoder"], row["over"]) == ("after", "before")
    assert row["factor"] == pytest.approx(4, rel=0.02)
    assert row["target"] == pytest.approx(1 - 0.5 * 1600**-0.3)


def test_curves_of_two_classifiers_are_not_one(digits):
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=16, patch=8, depth=1)
    specs = [f"budget:labels=10/20:draws=2:classifier={name}" for name in ("prototypes", "msn")]
    found = evaluation.evaluate(encoder, open_source(digits), None, specs, baselines=False)
    assert [r["protocol"] for r in found["results"]] == [
        f"budget:labels={n}:draws=2:classifier={name}" for name in ("prototypes", "msn") for n in (10, 20)
    ]
    both = evaluation.compare({"a": found, "b": found})
    assert len(both["savings"]) == 1
    assert both["savings"][0]["target"] == max(r["value"] for r in found["results"][:2])


def test_the_latest_scores_of_one_split_are_taken_together(tmp_path):
    old, new = result(WORSE), result(RIGHT)
    linear = {**new, "results": [{**new["results"][0], "protocol": "linear"}], "records": {"run/linear/top1": RIGHT}}
    for kept in (result(RIGHT, split="old"), old, new, linear):
        evaluation.store(tmp_path, kept)
    found = evaluation.latest(evaluation.stored(tmp_path))
    assert {r["protocol"]: r["value"] for r in found["results"]} == {"knn": 0.75, "linear": 0.75}
    assert set(found["records"]) == {"run/knn/top1", "run/linear/top1"}
    assert found["records"]["run/knn/top1"].dtype == bool
    assert evaluation.latest([]) is None
