"""The low-shot study from end to end on digits, what it keeps, and what it refuses before anything is trained."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

import tacit
from tacit.errors import BadSettings, DataError, TacitError, Unknown, UsageError
from tacit.methods.image.lowshot_mim_cluster import LowShotMIMCluster
from tacit.settings import with_assignments
from tacit.study import ARMS
from tacit.study.arms import FIXED
from tacit.study.table import summed
from tests.conftest import write_digits
from tests.evaluation.dense.conftest import write_shapes
from tests.test_cli import run as run_cli

TINY = [
    "size=16", "hidden=16", "bottleneck=8", "prototypes=16", "patch_prototypes=16", "batch_size=24",
]  # fmt: skip

SOME = ["contrastive", "mim_pixel", "combined"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits in train/ and test/, a table of their shapes with several labels, and some masks."""
    root = tmp_path_factory.mktemp("study")
    for part, count in (("train", 60), ("test", 20)):
        folder = write_digits(root / "digits" / part, count)
        rows = [["file", "tags"]]
        for file in sorted(folder.rglob("*.png")):
            digit = int(file.parent.name)
            labels = [name for name, there in (("even", digit % 2 == 0), ("round", digit in (0, 6, 8, 9)),
                                               ("small", digit < 5)) if there]  # fmt: skip
            rows.append([f"../digits/{part}/{file.relative_to(folder)}", ";".join(labels)])
        (root / "tags").mkdir(exist_ok=True)
        with open(root / "tags" / f"{part}.csv", "w", newline="") as f:
            csv.writer(f).writerows(rows)
    write_shapes(root / "masks", train=8, test=4, side=32)
    return root


def study(root, out, **changes):
    how = {
        "arms": ["mim_pixel"], "epochs": 1, "shots": [1, 2], "draws": 2, "set": TINY, "workers": 0,
        "quiet": True, "cache": False,
    } | changes  # fmt: skip
    return tacit.study("lowshot", how.pop("data", root / "digits"), out, **how)


def test_the_whole_study_and_the_same_call_again(data, tmp_path, monkeypatch, capsys):
    sets = [part for item in TINY for part in ("--set", item)]
    code, out, err = run_cli(
        monkeypatch, capsys, "study", "lowshot", "--data", str(data / "digits"), "--out", str(tmp_path / "s"),
        "--epochs", "1", "--arms", ",".join(SOME), "--shots", "1", "--draws", "2",
        "--multi-label", str(data / "tags"), "--segment", str(data / "masks"), "--workers", "0", *sets, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert "3 trainings, 3 arms x 1 seeds; 0 finished before" in err
    assert "Training 3 of 3: combined, seed 0, about" in err
    assert [row["name"] for row in result["rows"]] == [*SOME, "random-init", "random-init", "raw-input"]
    assert [row["feature"] for row in result["rows"]] == ["cls_raw", "mean", "cls_raw", "cls_raw", "mean", "pixels"]
    kinds = ["multi-class", "multi-label", "segmentation"]
    assert [c["name"] for c in result["columns"]] == [f"{kind}:1" for kind in kinds]
    for row in result["rows"]:
        assert len(row["cells"]) == (2 if row["name"] == "raw-input" else 3)
        assert all(cell["low"] <= cell["value"] <= cell["high"] and cell["se"] >= 0 for cell in row["cells"])
    assert result["left_out"] == {}
    page = (tmp_path / "s" / "table.md").read_text()
    assert "| MIM + clustering | cls_raw |" in page
    assert json.loads((tmp_path / "s" / "table.json").read_text()) == result
    with open(tmp_path / "s" / "table.csv", newline="") as f:
        assert len(list(csv.DictReader(f))) == 5 * 3 + 2

    shows = {p.parent.name for p in (tmp_path / "s" / "runs").rglob("reconstructions.npz")}
    assert shows == {"mim_pixel-seed0", "combined-seed0"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "runs").rglob("*") if p.is_file()}
    how = {"arms": SOME, "shots": [1], "multi_label": data / "tags", "segment": data / "masks"}
    again = study(data, tmp_path / "s", **how)
    assert again["rows"] == result["rows"]
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "runs").rglob("*") if p.is_file()}
    with pytest.raises(BadSettings, match=r"epochs = 2: the study in .* was begun with 1"):
        study(data, tmp_path / "s", epochs=2)


def test_a_study_that_was_killed_goes_on_and_seeds_are_summed(data, tmp_path):
    study(data, tmp_path / "s", shots=[1])
    (tmp_path / "s" / "runs" / "mim_pixel-seed0" / "summary.json").unlink()
    result = study(data, tmp_path / "s", shots=[1], seeds=[0, 1])
    row = result["rows"][0]
    assert all((cell["over"], cell["of"], len(cell["values"])) == ("seeds", 2, 2) for cell in row["cells"])
    for name in ("multi-label", "segmentation"):
        assert name in result["left_out"]
    caption = (tmp_path / "s" / "table.md").read_text()
    assert "Left out: multi-label (no --multi-label). Left out: segmentation (no --segment)." in caption
    assert "over 2 seeds" in caption


def test_a_cell_is_students_interval_over_seeds_or_the_draws_own():
    scores = [{"metric": "top1", "value": v, "low": v - 0.1, "high": v + 0.1} for v in (0.4, 0.5, 0.6)]
    cell = summed("c", scores, 10)
    assert (cell["value"], cell["over"], cell["of"]) == (pytest.approx(0.5), "seeds", 3)
    assert cell["se"] == pytest.approx(0.1 / 3**0.5)
    assert cell["high"] - 0.5 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    alone = summed("c", scores[:1], 10)
    assert (alone["low"], alone["high"], alone["over"], alone["of"]) == (pytest.approx(0.3), 0.5, "draws", 10)
    assert alone["se"] == pytest.approx(0.1 / 2.262157, rel=1e-5)
    assert summed("c", [scores[0] | {"low": 0.4, "high": 0.4}], 1)["se"] is None


def test_arms_differ_in_nothing_but_their_tasks_and_crops():
    small = LowShotMIMCluster.presets["small"]
    made = {name: with_assignments(small, arm.assignments) for name, arm in ARMS.items()}
    assert made["combined"] == small
    for name, s in made.items():
        assert LowShotMIMCluster.problems(s) == [], name
        differing = {f for f in s.__dataclass_fields__ if getattr(s, f) != getattr(small, f)}
        assert differing <= FIXED | {"avoid"}
    assert [made[f"clustering_{w}"].avoid for w in ("centring", "sinkhorn", "me_max")] == [
        ("centring",), ("sinkhorn",), ("me_max",),
    ]  # fmt: skip


REFUSED = {
    "an arm that does not exist": ({"arms": ["mim_pixels"]}, Unknown, "no arm 'mim_pixels'.*Did you mean 'mim_pixel'"),
    "an arm twice": ({"arms": ["combined", "combined"]}, BadSettings, "name each once"),
    "more shots than labels": ({"shots": [1, 50]}, DataError, "50-shot needs 50 training records of every class"),
    "no shot": ({"shots": [0]}, BadSettings, "shots = 0: must be different whole numbers of at least 1"),
    "no draw": ({"draws": 0}, BadSettings, "draws = 0"),
    "a seed twice": ({"seeds": [1, 1]}, BadSettings, "seeds = 1,1"),
    "crops that are no patches": ({"set": [*TINY, "size=18"]}, BadSettings, "18 = 4 x 4 \\+ 2"),
    "small crops that are none": (
        {"arms": ["combined"], "set": [*TINY, "local_crops=2", "local_size=10"]}, BadSettings,
        "local_size = 10: must be a multiple",
    ),
    "more prototypes than images": (
        {"arms": ["combined"], "set": [*TINY, "prototypes=500"]}, BadSettings, "more clusters than the 60",
    ),
    "what arms are": ({"set": [*TINY, "view_weight=2"]}, BadSettings, "view_weight: is what tells arms apart"),
    "an encoder without a class token": ({"encoder": "swin_mini"}, UsageError, "needs cls and drop_tokens"),
    "a batch of more than all": ({"set": [*TINY, "batch_size=128"]}, DataError, "fewer than one batch of 128"),
    "a preset that does not exist": ({"preset": "smal"}, Unknown, "Did you mean 'small'"),
    "masks that are none": ({"segment": "nowhere"}, DataError, "nowhere is not a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_finished_is_refused_before_training(name, data, tmp_path):
    changes, error, said = REFUSED[name]
    with pytest.raises(error, match=said):
        study(data, tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def flat_of(data, tmp_path):
    """Digits without labels."""
    flat = tmp_path / "flat"
    flat.mkdir(exist_ok=True)
    for i, file in enumerate(sorted((data / "digits" / "train").rglob("*.png"))):
        shutil.copy(file, flat / f"{i}.png")
    return flat


def test_too_few_labels_of_other_kinds_and_none_at_all_are_refused(data, tmp_path):
    flat = flat_of(data, tmp_path)
    with pytest.raises(DataError, match="90-shot needs 90 training records with every class; round is in"):
        tacit.study(
            "lowshot",
            flat,
            tmp_path / "s",
            multi_label=data / "tags",
            shots=[90],
            set=TINY,
            epochs=1,
        )
    with pytest.raises(DataError, match="9-shot needs 9 training records with every class"):
        study(data, tmp_path / "s", shots=[9], segment=data / "masks", data=flat)
    with pytest.raises(DataError, match=r"no labels to score the arms by \(multi-class: .* has no labels"):
        tacit.study("lowshot", flat, tmp_path / "s", set=TINY, epochs=1)
    with pytest.raises(Unknown, match="There is no study 'lowshots'"):
        tacit.study("lowshots", flat, tmp_path / "s")
    with pytest.raises(TacitError, match="column"):
        study(data, tmp_path / "s", multi_label=data / "tags", multi_label_column="tag")
    assert not (tmp_path / "s").exists()
