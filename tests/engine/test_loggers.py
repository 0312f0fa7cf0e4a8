"""W&B and MLflow, where they are installed: reached before the run begins, and the same run after --resume."""

from __future__ import annotations

import csv
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from tacit.engine.loggers import open_loggers
from tests.engine.test_train import pretrain


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_with_its_install_line(name, digits, tmp_path):
    """In a process of its own: Lightning remembers what it found."""
    absent = f"import sys; sys.modules[{name!r}] = None; from tacit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", absent, "pretrain", "moby", "--preset", "small", "--data", digits,
         "--out", tmp_path / "run", "--steps", "1", "--set", f"loggers={name}"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"pip install 'tacit[{name}]'" in done.stderr
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_mlflow_keeps_every_metric_and_goes_on_in_the_same_run(digits, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = pretrain(digits, tmp_path / "run", extra=["loggers=mlflow"], steps=3)
    assert open_loggers(("mlflow",), run.path, 3)[1].version == open_loggers(("mlflow",), run.path, 3)[1].version
    with sqlite3.connect(run.path / "mlflow" / "mlflow.db") as db:
        kept = db.execute("select key, step, value from metrics").fetchall()
        assert db.execute("select count(*) from runs").fetchone() == (1,)
    with open(run.path / "metrics.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    written = {(k, int(r["step"])): float(v) for r in rows for k, v in r.items() if k != "step" and v}
    assert {(k, s): v for k, s, v in kept} == pytest.approx(written, rel=1e-5)


def test_wandb_offline_writes_into_the_run_folder(digits, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = pretrain(digits, tmp_path / "run", extra=["loggers=wandb"], steps=2)
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))


def test_wandb_without_a_login_is_refused_before_the_run_begins(digits, tmp_path):
    pytest.importorskip("wandb")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "tacit.cli", "pretrain", "moby", "--preset", "small", "--data", digits,
         "--out", tmp_path / "run", "--steps", "2", "--set", "loggers=wandb"],
        env=kept | {"HOME": str(tmp_path)}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.search(r"^Error: loggers = wandb: cannot start .*wandb login", done.stderr, re.MULTILINE)
    assert not (tmp_path / "run" / "settings.yaml").exists()
