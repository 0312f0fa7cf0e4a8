"""Exams with a label: tables that match, splits that do not leak, weights in closed form, and a planted lesion."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tacit
from tacit import encoders
from tacit.cli import app
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.evaluation.exam_sets import labels_of, read_exams, read_labels
from tacit.evaluation.exams import (
    RECIPES,
    Recipe,
    Trained,
    chosen,
    fit_exams,
    fuse,
    positive_weight,
    predict_exams,
    score_exams,
    tune_exams,
    weighted_bce,
)

QUICK = Recipe(depth=1, width=24, heads=3, epochs=4, lr=3e-3, linear_lr=3e-2, slices=6, tune_epochs=0)


def write(
    root, train: int = 30, valid: int = 14, planes=("axial", "sagittal"), names: str = "{:04d}", lesion: int = 120
):
    """MRNet's layout; every second exam has a brighter square on two slices."""
    rng = np.random.default_rng(0)
    number = 0
    for part, count in (("train", train), ("valid", valid)):
        lines = []
        for _ in range(count):
            label = number % 2
            for plane in planes:
                x = rng.uniform(20, 120, (int(rng.integers(4, 8)), 16, 16))
                x[1:3, 4:12, 4:12] += lesion * label
                (root / part / plane).mkdir(parents=True, exist_ok=True)
                np.save(root / part / plane / f"{number:04d}.npy", x.astype(np.uint8))
            lines.append(f"{names.format(number)},{label}")
            number += 1
        (root / f"{part}-acl.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    return write(tmp_path_factory.mktemp("knees"))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8, depth=1, **encoders.MEAN_PATCH)


def test_the_weight_of_positives_in_closed_form():
    labels = (torch.arange(1130) < 208).long()  # MRNet's anterior cruciate ligaments
    weight = positive_weight(labels)
    assert weight == pytest.approx((1 - 208 / 1130) / (208 / 1130))
    assert positive_weight(torch.arange(1000) < 184) == pytest.approx(4.4348, abs=1e-4)
    assert weighted_bce(torch.zeros(1), torch.ones(1), weight) == pytest.approx(np.log(2) * weight, rel=1e-6)
    assert weighted_bce(torch.zeros(1), torch.zeros(1), weight) == pytest.approx(np.log(2), rel=1e-6)
    both = weighted_bce(torch.zeros(1130), labels, weight)
    assert both == pytest.approx(2 * np.log(2) * (922 / 1130), rel=1e-5)  # each class half of it


def test_slices_taken_are_in_order_and_belong_to_the_exam():
    taken = chosen(40, 32, 0, 3, 7)
    assert len(taken) == 32
    assert (np.diff(taken) > 0).all()
    assert np.array_equal(taken, chosen(40, 32, 0, 3, 7))
    assert not np.array_equal(taken, chosen(40, 32, 0, 4, 7))
    assert np.array_equal(chosen(20, 32, 0, 0, 0), np.arange(20))


def test_no_exam_and_no_slice_is_on_both_sides(knees):
    task = read_exams(knees, "acl", planes=["sagittal"])
    assert task.split == "train and valid, as they lie"
    assert not set(task.train) & set(task.test)
    assert (len(task.train), len(task.test)) == (30, 14)
    assert [task.ids[i] for i in task.test[:2]] == ["0030", "0031"]
    assert task.labels.tolist() == [i % 2 for i in range(44)]
    source, rows = task.sources["sagittal"], task.rows["sagittal"]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(source)))
    for i in (0, 17, 43):
        assert {source.name(r).split("#")[0].rsplit("/")[-1] for r in rows[i]} == {f"{task.ids[i]}.npy"}
    few = read_exams(knees, "acl", planes=["axial"], max_exams=12)
    assert len(few.train) == 12
    assert few.labels[few.train].sum() == 6
    assert set(few.train) < set(task.train)


def test_a_table_that_lost_its_zeros_and_exams_that_do_not_match(tmp_path):
    root = write(tmp_path, names="{}")
    (root / "valid/axial/0043.npy").unlink()
    np.save(root / "train/axial/0099.npy", np.random.default_rng(0).integers(0, 99, (3, 16, 16), dtype=np.uint8))
    np.save(root / "train/sagittal/0003.npy", np.zeros((1, 16, 16), np.uint8))
    with (root / "train-acl.csv").open("a") as file:
        file.write("777,1\n")
    task = read_exams(root, "acl")
    assert len(task.ids) == 42
    assert (task.missing, task.unlabelled, task.incomplete) == (["777"], ["0099"], ["0003", "0043"])
    assert task.skipped == [("train/sagittal/0003.npy", "one slice only")]
    (root / "train-acl.csv").write_text("x,1\ny,0\n")
    (root / "valid-acl.csv").write_text("z,1\nw,0\n")
    with pytest.raises(DataError, match="names none of the exams: it has 'x', and the data '0000'"):
        read_exams(root, "acl")
    with pytest.raises(DataError, match=r"no .*train-acll\.csv either; in .* train-acl\.csv, valid-acl\.csv"):
        labels_of(root, "acll", ["train", "valid"])
    (root / "train-acl.csv").write_text("0030,1\n0001,0\n")
    with pytest.raises(DataError, match=r"train-acl\.csv names the exam 0030, which lies in valid"):
        read_exams(root, "acl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an exam a row"),
        ("a,1\nb\n", "as many in each row"),
        ("a,1\na,0\n", "two rows of the exam a"),
        ("a,1\nb,2\n", "the label of b is '2'; labels are 0 and 1"),
        ("id,label\na,\n", "the label of a is ''"),
        ("id,acl,meniscus\na,1,0\n", "several columns"),
    ],
)
def test_tables_that_say_too_little_or_too_much(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_labels(tmp_path / "t.csv")


def test_tables_with_a_heading(tmp_path):
    (tmp_path / "t.csv").write_text("exam,acl,meniscus,patient,split\na,1,0,p,train\nb,0,1,q,test\n")
    found = read_labels(tmp_path / "t.csv", "meniscus")
    assert [(r.label, r.patient, r.split) for r in found.values()] == [(0, "p", "train"), (1, "q", "test")]
    with pytest.raises(Unknown, match="Did you mean 'acl'"):
        read_labels(tmp_path / "t.csv", "alc")


def test_patients_are_kept_whole_and_one_on_both_sides_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        np.save(tmp_path / f"e{i}.npy", rng.integers(0, 99, (3, 8, 8), dtype=np.uint8))
    lines = [f"e{i},{i // 2 % 2},p{i // 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("id,label,patient\n" + "\n".join(lines))
    task = read_exams(tmp_path, "t.csv")
    assert task.patients
    assert not set(task.groups[task.train]) & set(task.groups[task.test])
    parts = ["train" if i < 11 else "test" for i in range(20)]
    (tmp_path / "t.csv").write_text(
        "id,label,patient,split\n" + "\n".join(f"{line},{part}" for line, part in zip(lines, parts, strict=True))
    )
    with pytest.raises(DataError, match="1 group has records in both training and test data: p5"):
        read_exams(tmp_path, str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("id,label\n" + "\n".join(f"e{i},{int(i > 17)}" for i in range(18)))
    with pytest.raises(DataError, match="all of one class"):
        read_exams(tmp_path, "t.csv")


def test_what_is_learnt_on_features_and_which_epoch_is_kept():
    """A positive has one slice among nine whose first feature is raised."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    slices = [torch.randn(int(torch.randint(6, 12, (1,), generator=g)), 8, generator=g) for _ in labels]
    for x, y in zip(slices, labels, strict=True):
        x[2, 0] += 6.0 * float(y)
    fit, held, test = np.arange(40), np.arange(40, 50), np.arange(50, 80)
    for head in ("transformer", "max"):
        model = fit_exams(slices, labels, fit, held, recipe=replace(QUICK, epochs=12), head=head)
        p = predict_exams(model, [slices[i] for i in test]).probability
        right = ((p > 0.5) == (labels[test] == 1).numpy()).mean()
        assert right > 0.85, head
        again = fit_exams(slices, labels, fit, held, recipe=replace(QUICK, epochs=12), head=head)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_planes_together():
    labels = np.arange(60) % 2
    rng = np.random.default_rng(0)
    planes = [
        Trained(p := np.clip(0.5 + 0.15 * (2 * labels - 1) + rng.normal(0, 0.15, 60), 0, 1), p[:, None]) for _ in "abc"
    ]
    for how in ("probabilities", "cls"):
        p = fuse(planes, labels, np.arange(20), np.arange(20, 40), how)
        right = ((p > 0.5) == labels)[40:].mean()
        assert right >= max(((one.probability > 0.5) == labels)[40:].mean() for one in planes) - 0.05
        assert p.shape == (60,)
    rows = {"probabilities": np.arange(20, 40), "cls": np.arange(20)}
    for how, used in rows.items():  # which exams it is fitted on
        other = labels.copy()
        other[np.setdiff1d(np.arange(60), used)] = 0
        again = fuse(planes, other, np.arange(20), np.arange(20, 40), how)
        assert np.array_equal(again, fuse(planes, labels, np.arange(20), np.arange(20, 40), how))


def test_scores_of_planes_heads_and_baselines(knees, encoder):
    task = read_exams(knees, "acl")
    by_plane = dict.fromkeys(task.sources, encoder)
    result, rows = score_exams(
        task, {"run": by_plane, "random-init": by_plane}, recipe=QUICK, cache=False, resamples=60
    )
    keys = {(r["of"], r["plane"], r["head"]) for r in result["results"]}
    heads = ("transformer", "mean", "max")
    expected = {(of, p, h) for of in ("run", "random-init") for p in ("axial", "sagittal", "fused") for h in heads}
    assert keys == expected | {("slice count", p, "number of slices") for p in ("axial", "sagittal")}
    assert all(r["low"] <= r["value"] <= r["high"] and r["n"] == 14 for r in result["results"])
    assert len(rows) == 18 * 14
    assert {r["exam"] for r in rows} == {f"{i:04d}" for i in range(30, 44)}
    assert all((d["value"], d["low"], d["high"]) == (0, 0, 0) for d in result["differences"])  # the same encoder
    best = next(r for r in result["results"] if (r["of"], r["plane"], r["head"]) == ("run", "fused", "max"))
    assert best["metric"] == "auroc"
    assert best["value"] > 0.8  # a bright square is easily seen
    shuffled = [r for r in result["results"] if r["metric"] == "auroc_shuffled"]
    assert {(r["plane"], r["head"]) for r in shuffled} == {("axial", "transformer"), ("sagittal", "transformer")}


def test_the_encoder_can_be_trained_too_and_stays_where_that_does_not_help(knees, encoder):
    task = read_exams(knees, "acl", planes=["axial"])
    source, records = task.sources["axial"], task.rows["axial"]
    labels, fit, held = torch.from_numpy(task.labels), np.arange(24), np.arange(24, 30)
    recipe = replace(QUICK, tune_epochs=2, tune_batch=4, tune_lr=1e-3, drop_path=0.0, slices=4)
    before = [p.clone() for p in encoder.parameters()]
    with torch.no_grad():
        slices = [torch.randn(len(r), 256) for r in records]
    model = fit_exams(slices, labels, fit, held, recipe=replace(recipe, epochs=1))
    how = {"feature": "cls_mean", "recipe": recipe}
    told = tune_exams(encoder, model, source, records, labels, fit, held, task.test, **how)
    assert told.probability.shape == (14,)
    assert np.isfinite(told.probability).all()
    assert all(torch.equal(p, q) for p, q in zip(before, encoder.parameters(), strict=True))  # copies learn
    again = tune_exams(encoder, model, source, records, labels, fit, held, task.test, **how)
    assert np.array_equal(told.probability, again.probability)
    still = {**how, "recipe": replace(recipe, tune_epochs=1, tune_lr=0.0, weight_decay=0.0)}
    other = tune_exams(encoder, model, source, records, labels, fit, held, task.test, **still)
    assert not np.array_equal(told.probability, other.probability)


def test_too_few_to_choose_an_epoch_on(knees, encoder):
    task = read_exams(knees, "acl", planes=["axial"])
    lone = replace(task, train=np.array([0, 2, 4, 6, 8, 1]))
    with pytest.raises(DataError, match="a fifth to choose the epoch on lacks a class"):
        score_exams(lone, {"run": {"axial": encoder}}, recipe=QUICK, cache=False)
    both = replace(task, groups=np.where(np.isin(np.arange(44), (0, 31)), "same", task.groups))
    with pytest.raises(DataError, match="both training and test data: same"):
        score_exams(both, {"run": {"axial": encoder}}, recipe=QUICK, cache=False)


def test_the_verb_in_python_and_on_the_command_line(knees, encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "small", QUICK)
    encoders.save(encoder, tmp_path / "encoder")
    arguments = ["exams", str(tmp_path / "encoder"), "--data", str(knees), "--label", "acl", "--planes", "axial",
                 "--out", str(tmp_path / "out"), "--workers", "0"]  # fmt: skip
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "30 exams to learn from (15 positive), 14 to test on (7 positive): train and valid" in told.output
    assert "AUROC over random-init, axial, transformer:" in told.output
    kept = json.loads((tmp_path / "out" / "exams.json").read_text())
    assert kept["planes"] == ["axial"]
    assert kept["transduction"] is None  # an encoder's folder does not say
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 * 6
    assert list(rows[0]) == ["exam", "plane", "of", "head", "label", "probability"]
    how = {"workers": 0, "planes": ["axial"]}
    with pytest.raises(UsageError, match="holds the scores of exams"):
        tacit.exams(encoder, knees, "acl", out=tmp_path / "out", **how)
    with pytest.raises(UsageError, match="2 encoders for 1 planes"):
        tacit.exams([encoder, encoder], knees, "acl", **how)
    with pytest.raises(Unknown, match="Did you mean 'small"):
        tacit.exams(encoder, knees, "acl", recipe="smal", **how)
    with pytest.raises(Unknown, match="way to fuse planes"):
        tacit.exams(encoder, knees, "acl", fuse="mean", **how)
    with pytest.raises(BadSettings, match="max_exams = 5"):
        tacit.exams(encoder, knees, "acl", max_exams=5, **how)


def test_whether_the_run_saw_the_test_exams(knees, tmp_path):
    from tacit.api.exam_labels import _transduction

    apart, whole = "train and valid, as they lie", "a fifth of every class held out"
    told = [
        (f"exams:{knees}:plane=axial", apart, False), (f"exams:{knees}:plane=axial,part=all", apart, True),
        (f"exams:{knees}:plane=axial", whole, True), (f"exams:{knees / 'train'}:plane=axial", apart, False),
        (f"exams:{knees / 'valid'}:plane=axial", apart, True), ("photos/", apart, None),
    ]  # fmt: skip
    for data, split, expected in told:
        (tmp_path / "settings.yaml").write_text(f"data: ['{data}']\n")
        assert _transduction([tmp_path], knees, split) is expected


def test_a_run_learns_from_exams(knees, tmp_path):
    run = tacit.pretrain(
        "sb_ssl", f"exams:{knees}:plane=axial", tmp_path / "run", preset="small", batch_size=8, steps=2, workers=0,
        quiet=True, set=["size=16", "patch=8", "check_every=0", "contrast=true", "hidden=16", "out=8"],
    )  # fmt: skip
    assert run.summary["steps"] == 2
    assert "30 exams, 30 series" in (run.path / "log.txt").read_text()
