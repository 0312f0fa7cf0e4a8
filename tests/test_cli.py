"""The command line as a new user meets it: help, answers, errors, exit codes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tacit
from tacit import cli

TINY = ["--set", "size=16", "--set", "hidden=32", "--set", "out=16", "--set", "queue_size=64", "--set", "patch=8"]


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tacit", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.fixture
def tacit_(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    return tacit.pretrain(
        "moby", digits, tmp_path_factory.mktemp("cli") / "moby", preset="small", encoder="vit_mini", batch_size=16,
        steps=3, workers=0, quiet=True, set=[a for a in TINY if "=" in a],
    )  # fmt: skip


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tacit', '--help']\n"
        "from tacit import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'lightning', 'pyarrow', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_training_does_not_wait_for_what_only_evaluation_needs():
    code = (
        "import sys, tacit.engine, tacit.methods.image.moby\n"
        "late = {'sklearn', 'scipy.stats', 'scipy.optimize', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(
    "verb",
    [
        "", "audit", "pretrain", "evaluate", "compare", "transfer", "embed", "bags", "exams", "finetune", "predict",
        "export", "report", "study", "methods",
    ],
)  # fmt: skip
def test_every_help_has_a_sentence_and_an_example(verb, tacit_):
    code, out, _ = tacit_(*([verb] if verb else []), "--help")
    assert code == 0
    assert "Usage: tacit" in out
    if verb not in ("", "methods"):
        assert "Example: tacit" in out


def test_the_version_is_one(tacit_):
    assert tacit_("--version")[1].strip() == f"tacit {tacit.__version__}"


def test_methods_in_words_and_in_json(tacit_):
    code, out, _ = tacit_("methods", "--json")
    rows = json.loads(out)
    assert code == 0
    assert set(rows[0]) == {"name", "title", "modality", "family", "paper", "presets", "settings", "needs"}
    assert "moby" in tacit_("methods")[1]
    assert "temperature" in tacit_("methods", "moby")[1]
    assert {row["modality"] for row in json.loads(tacit_("methods", "--modality", "audio", "--json")[1])} == {"audio"}
    assert tacit_("methods", "--modality", "smell", "--json")[1].strip() == "[]"


def test_pretrain_prints_one_document(digits, tmp_path, tacit_):
    code, out, _ = tacit_(
        "pretrain", "moby", "--data", digits, "--out", tmp_path / "run", "--preset", "small", "--encoder", "vit_mini",
        "--batch-size", 16, "--steps", 2, "--workers", 0, "--json", *TINY,
    )  # fmt: skip
    assert code == 0
    answer = json.loads(out)
    for name in ("run", "steps", "loss", "throughput", "step_time", "data_wait", "peak_memory", "bad_files", "verdict"):
        assert name in answer
    code, out, _ = tacit_(
        "pretrain", "--config", tmp_path / "run" / "settings.yaml", "--out", tmp_path / "twin", "--json"
    )
    assert code == 0
    assert json.loads(out)["loss"] == answer["loss"]


def test_a_dry_run_says_what_it_would_take(digits, tmp_path, tacit_):
    code, out, _ = tacit_(
        "pretrain", "moby", "--data", digits, "--preset", "small", "--encoder", "vit_mini",
        "--batch-size", 16, "--steps", 2, "--workers", 0, "--dry-run", *TINY,
    )  # fmt: skip
    assert code == 0
    assert "temperature = 0.2" in out
    assert "peak memory" in out
    assert tacit_("pretrain", "moby", "--data", digits, "--preset", "small")[0] == 2, "a run must lie somewhere"


def test_evaluate_embed_export_report(trained, digits, tmp_path, tacit_):
    code, out, _ = tacit_("evaluate", trained.path, "--data", digits, "--protocol", "knn", "--workers", 0, "--json")
    answer = json.loads(out)
    assert code == 0
    assert {r["of"] for r in answer["results"]} == {"run", "random-init", "raw-input"}
    assert trained.evaluations[-1]["results"] == answer["results"]
    assert "95 % interval" in tacit_("evaluate", trained.path, "--data", digits, "--protocol", "knn", "--workers", 0)[1]

    code, out, _ = tacit_("embed", trained.path, "--data", digits, "--out", tmp_path / "v.parquet", "--workers", 0)
    assert code == 0
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["path", "vector"]
    assert table.num_rows == 200
    tacit_("embed", trained.path, "--data", digits, "--out", tmp_path / "v.npy", "--workers", 0)
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(vectors, np.array(table["vector"].to_pylist(), dtype=np.float32))
    assert (tmp_path / "v.txt").read_text().splitlines() == table["path"].to_pylist()

    code, out, _ = tacit_("export", trained.path, "--to", "timm", "--out", tmp_path / "timm")
    assert code == 0
    assert "features agree" in out

    code, out, _ = tacit_("report", trained.path, "--out", tmp_path / "r.html", "--limit", 40)
    assert code == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


WRONG = {
    "a method that does not exist": (["pretrain", "moco"], r"no method 'moco'.*There is: moby"),
    "an encoder that does not exist": (["pretrain", "moby", "--encoder", "swin_tyni"], r"Did you mean 'swin_tiny'"),
    "a setting that does not exist": (
        ["pretrain", "moby", "--set", "temprature=1"],
        r"no setting 'temprature'.*temperature",
    ),
    "a value out of range": (["pretrain", "moby", "--set", "drop_path=2"], r"drop_path = 2.0: must be"),
    "a value of another kind": (
        ["pretrain", "moby", "--set", "epochs=many"],
        r"epochs = 'many': must be a whole number",
    ),
    "an assignment without a value": (["pretrain", "moby", "--set", "epochs"], r"write FIELD=VALUE"),
    "a queue the batch does not divide": (["pretrain", "moby", "--batch-size", "500"], r"4096 = 8 x 500 \+ 96"),
    "a size the patch does not divide": (["pretrain", "moby", "--set", "size=225"], r"225 = 56 x 4 \+ 1"),
    "a size the windows do not fit": (["pretrain", "moby", "--set", "size=100"], r"size = 100.*Set size="),
    "a batch of one": (["pretrain", "moby", "--batch-size", "1"], r"BatchNorm needs two"),
    "a batch that cannot be shared": (["pretrain", "moby", "--devices", "3"], r"512 % 3 = 2"),
    "no device": (["pretrain", "moby", "--devices", "0"], r"devices = 0, nodes = 1: both must be at least 1"),
    "a preset that does not exist": (["pretrain", "moby", "--preset", "smal"], r"Did you mean 'small'"),
    "a precision that does not exist": (["pretrain", "moby", "--precision", "fp8"], r"no precision 'fp8'"),
    "a share that is none": (["pretrain", "moby", "--max-bad", "many"], r"--max-bad 'many': must be a number"),
    "a flag that does not exist": (["pretrain", "moby", "--epoch", "3"], r"--epoch"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_refused_before_data_is_read(name, tmp_path, tacit_):
    import re

    arguments, message = WRONG[name]
    code, out, err = tacit_(*arguments, "--data", tmp_path / "no such folder", "--out", tmp_path / "run")
    assert code == 2
    assert out == ""
    assert re.search(message, err, re.S), err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_cannot_do_what_a_method_needs_is_refused(tmp_path, tacit_, monkeypatch):
    from tacit.methods.image.moby import MoBY

    monkeypatch.setattr(MoBY, "needs", frozenset({"drop_tokens"}))
    arguments = ["pretrain", "moby", "--data", tmp_path / "no such folder", "--out", tmp_path / "run"]
    code, _, err = tacit_(*arguments)
    assert code == 2
    assert "needs drop_tokens, and swin_tiny has only mask_tokens, stages, tokens" in err
    code, _, err = tacit_(*arguments, "--encoder", "deit_small")
    assert "no such folder does not exist" in err


def test_a_classifier_is_trained_kept_asked_and_teaches(trained, digits, tmp_path, tacit_):
    code, out, _ = tacit_(
        "finetune", trained.path, "--data", digits, "--shots", 3, "--neck", 1, "--out", tmp_path / "c", "--workers", 0,
    )  # fmt: skip
    assert code == 0
    assert "10 classes learned from 30 records" in out

    some = tmp_path / "some"
    shutil.copytree(digits, some)
    (some / "0" / "broken.png").write_bytes(b"no picture")
    code, out, err = tacit_("predict", tmp_path / "c", "--data", some, "--out", tmp_path / "l.csv", "--workers", 0)
    assert code == 0
    assert "broken.png" in err
    with open(tmp_path / "l.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 200
    right = np.mean([row["label"] == Path(row["path"]).parts[0] for row in rows])
    assert f"Accuracy {100 * right:.1f} %" in out
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)  # the largest of ten
    code, out, _ = tacit_(
        "predict", tmp_path / "c", "--data", digits, "--out", tmp_path / "l.parquet", "--workers", 0, "--json"
    )
    assert json.loads(out)["accuracy"]["value"] == pytest.approx(right)
    assert pq.read_table(tmp_path / "l.parquet")["path"].to_pylist() == [row["path"] for row in rows]

    code, _, _ = tacit_(
        "pretrain", "simclr_v2_distil", "--data", digits, "--out", tmp_path / "student", "--preset", "small",
        "--encoder", "resnet_mini", "--steps", 2, "--workers", 0, "--set", f"teacher={tmp_path / 'c'}", "--set",
        f"size={trained.settings['settings']['size']}",
    )  # fmt: skip
    assert code == 0
    assert tacit_("predict", tmp_path / "student", "--data", digits, "--out", tmp_path / "s.csv")[0] == 0


def test_finetune_learns_from_the_training_part_and_is_scored_on_the_other(trained, digits, tmp_path, tacit_):
    for part in ("train", "test"):
        shutil.copytree(digits, tmp_path / "both" / part)
    file = tmp_path / "names.txt"
    file.write_text("".join(f"{p.relative_to(digits)}\n" for p in sorted(digits.glob("[01]/*"))[:8]))
    code, out, _ = tacit_(
        "finetune", trained.path, "--data", tmp_path / "both", "--names", file, "--out", tmp_path / "c", "--json"
    )
    answer = json.loads(out)
    assert code == 0
    assert (answer["labels"], answer["accuracy"]["n"]) == (8, 200)


FINETUNE = {
    "two ways to say which labels": (["--shots", 1, "--percent", 1], "Give one"),
    "no label": (["--shots", 0], "shots = 0: must be at least 1"),
    "more than all": (["--percent", 101], "percent = 101"),
    "a recipe that does not exist": (["--recipe", "smal"], "Did you mean 'small'"),
    "a neck of no run": (["--neck", 1], "comes without one"),
}


@pytest.mark.parametrize("name", FINETUNE)
def test_a_wrong_finetune_is_refused(name, tmp_path, tacit_):
    arguments, message = FINETUNE[name]
    code, _, err = tacit_("finetune", "vit_mini:random", "--data", tmp_path, "--out", tmp_path / "c", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "c").exists()


def test_what_is_no_classifier_or_no_label_is_named(trained, digits, tmp_path, tacit_):
    code, _, err = tacit_("predict", trained.path, "--data", digits, "--out", tmp_path / "l.csv")
    assert code == 1
    assert "tacit finetune RUN" in err
    (tmp_path / "flat").mkdir()
    shutil.copy(next(digits.rglob("*.png")), tmp_path / "flat")
    code, _, err = tacit_("finetune", trained.path, "--data", tmp_path / "flat", "--out", tmp_path / "c")
    assert code == 1
    assert "needs labels of two classes" in err


def test_what_is_missing_is_named(tmp_path, tacit_):
    code, _, err = tacit_("pretrain", "moby", "--data", tmp_path)
    assert code == 2
    assert "--out is missing" in err
    assert tacit_("evaluate", tmp_path / "nowhere", "--data", tmp_path)[0] == 2
    code, _, err = tacit_("pretrain", "moby", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert code == 1
    assert "does not exist" in err
    code, _, err = tacit_("embed", "vit_mini:random", "--data", tmp_path, "--out", tmp_path / "x.csv")
    assert code == 2
    assert ".parquet or .npy" in err
    code, _, err = tacit_("evaluate", "vit_mini:random", "--data", tmp_path, "--protocol", "kmn")
    assert code == 2
    assert "Did you mean 'knn'" in err
