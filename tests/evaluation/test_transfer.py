"""Many sets in one table, and what happens to those that cannot be scored."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tacit
from tacit import cli, encoders
from tacit.errors import BadSettings, DataError, UsageError
from tacit.evaluation import transfer
from tests.conftest import write_digits


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Two labelled sets, one of which has a test set and classes of unequal size; one without labels; one broken."""
    folder = tmp_path_factory.mktemp("sets")
    write_digits(folder / "plain", 120)
    write_digits(folder / "split" / "train", 100)
    write_digits(folder / "split" / "test", 60)
    for file in sorted((folder / "split" / "test").glob("[2-9]/*"))[::2]:
        file.unlink()
    files = sorted((folder / "plain").rglob("*.png"))
    (folder / "photos").mkdir()
    for file in files[:5]:
        shutil.copy(file, folder / "photos")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    rows = [
        ["path", "tags"],
        *([f"plain/{f.parent.name}/{f.name}", "a;b" if i % 3 else "b"] for i, f in enumerate(files)),
    ]
    (folder / "tags.csv").write_text("\n".join(",".join(row) for row in rows))
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("no set")
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, depth=1).eval()


def test_one_encoder_on_many_sets_among_its_baselines(sets, encoder, tmp_path):
    out = tmp_path / "table.csv"
    found = tacit.transfer(encoder, sets, "knn:metric=both", out=out, workers=0)
    assert list(found["skipped"]) == ["broken", "photos", "tags"]
    assert "has no labels" in found["skipped"]["photos"]
    assert found["of"] == ["vit_mini", "random-init", "raw-input"]
    assert {(s["set"], s["metric"]) for s in found["scores"]} == {
        (name, metric) for name in ("plain", "split") for metric in ("top1", "mean_per_class")
    }
    alone = tacit.evaluate(encoder, sets / "plain", protocol="knn", workers=0)["results"]
    assert [s["value"] for s in found["scores"] if (s["set"], s["metric"]) == ("plain", "top1")] == [
        s["value"] for s in alone
    ]
    of_run = {(s["set"], s["metric"]): s["value"] for s in found["scores"] if s["of"] == "vit_mini"}
    means = {(m["metric"], m["of"]): m for m in found["means"]}
    assert means["top1", "vit_mini"]["sets"] == 2
    assert means["top1", "vit_mini"]["value"] == pytest.approx((of_run["plain", "top1"] + of_run["split", "top1"]) / 2)
    assert of_run["split", "top1"] != of_run["split", "mean_per_class"]
    assert sum(found["ranks"].values()) == pytest.approx(6)  # of three
    with open(out) as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 12 + 6
    assert rows[-1]["set"] == "mean of 2"


def test_the_mean_of_the_classes_by_hand(sets, encoder):
    found = tacit.transfer(encoder, [sets / "split"], "linear:metric=both", workers=0, baselines=False)
    top1, mean = (s for s in found["scores"])
    from tacit.data import open_splits
    from tacit.evaluation import features
    from tacit.evaluation.linear import logistic

    train, test = open_splits(sets / "split")
    a, b = features(encoder, train), features(encoder, test)
    right = logistic(a.x, a.y, b.x, classes=10)[0].argmax(1) == b.y
    assert top1["value"] == pytest.approx(float(right.float().mean()))
    by_class = [float(right[b.y == c].float().mean()) for c in b.y.unique()]
    assert mean["value"] == pytest.approx(np.mean(by_class))
    assert mean["low"] <= mean["value"] <= mean["high"]
    assert found["ranks"] == {"vit_mini": 1.0}


def test_several_encoders_are_paired_and_labels_choose_the_protocol(sets, encoder):
    torch.manual_seed(1)
    blind = encoders.build("vit_mini", size=16, depth=1).eval()
    torch.nn.init.zeros_(blind.trunk.patch_embed.proj.weight)
    many = [sets / "plain", sets / "split", sets / "tags.csv"]
    found = tacit.transfer([encoder, blind], many, "knn,multi_label", label="tags", workers=0)
    assert found["skipped"] == {}
    assert found["of"] == ["vit_mini (1)", "vit_mini (2)"]
    assert {(s["set"], s["protocol"]) for s in found["scores"]} == {
        ("plain", "knn"), ("split", "knn"), ("tags", "multi_label")
    }  # fmt: skip
    assert found["ranks"]["vit_mini (1)"] < found["ranks"]["vit_mini (2)"]
    of_sets = {d["set"]: d for d in found["differences"]}
    assert of_sets["plain"]["a"] == "vit_mini (1)"
    assert of_sets["plain"]["p"] < of_sets["plain"]["p_holm"] < 0.05
    assert "plain, knn: vit_mini (1) beats vit_mini (2) by" in transfer.caption(found)


def test_what_cannot_be_asked_for_is_said_before_anything_is_read(sets, encoder, tmp_path):
    with pytest.raises(UsageError, match="is one data set"):
        tacit.transfer(encoder, sets / "split")
    with pytest.raises(DataError, match="holds no data set"):
        tacit.transfer(encoder, tmp_path)
    with pytest.raises(UsageError, match="tacit evaluate"):
        tacit.transfer(encoder, sets, "segment")
    with pytest.raises(UsageError, match="must end in"):
        tacit.transfer(encoder, sets, out="table.pdf")
    with pytest.raises(BadSettings, match="feature = last4"):
        tacit.transfer(encoder, sets, "knn:feature=last4")
    with pytest.raises(DataError, match=r"No set could be scored. photos: knn needs"):
        tacit.transfer(encoder, [sets / "photos"], "knn", workers=0)


def test_on_the_command_line(sets, encoder, tmp_path, monkeypatch, capsys):
    encoders.save(encoder, tmp_path / "encoder")
    arguments = ["transfer", tmp_path / "encoder", "--data", sets, "--protocol", "knn", "--workers", 0]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["tacit", *map(str, arguments), *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        said = capsys.readouterr().out
        if more:
            assert set(json.loads(said)["skipped"]) == {"broken", "photos", "tags"}
        else:
            assert "mean of 2" in said
            assert "Skipped photos: knn needs" in said
