"""The run folder: where everything about a run lies, and how it is read and written. Nothing here loads torch.

settings.yaml       the resolved settings; `tacit pretrain --config settings.yaml` reproduces the run
environment.json    versions, machine, command line, git state
summary.json        the outcome, written when the run ends (what `pretrain --json` prints)
metrics.csv         one row a logged step; tensorboard/ holds the same curves
bad_files.csv       name, reason: every record that could not be read
log.txt             what was printed
views.npz           a few sample views as the method saw them: uint8 [V, n, H, W, C]
reconstructions.npz the same of what a masked system made of them at the end: input, masked, reconstruction
checkpoints/        last.ckpt, best.ckpt, step-*.ckpt: everything needed to go on, bit for bit
encoder/            model.safetensors + encoder.json: the encoder and how its inputs are prepared
classifier/         of a method that ends with one: the encoder, head.safetensors and classifier.json
evaluations/        one JSON a protocol run
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tacit.errors import UsageError


class Run:
    """A run folder, read only. `Run(path)` refuses a folder that holds no run."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.is_run(self.path):
            raise UsageError(
                f"{self.path} holds no run (no settings.yaml). "
                f"Make one with: tacit pretrain moby --data … --out {self.path}"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @staticmethod
    def is_run(path: str | os.PathLike) -> bool:
        return (Path(path) / "settings.yaml").is_file()

    @property
    def settings(self) -> dict[str, Any]:
        """`{"method", "preset", "data", "seed", …, "settings": {field: value}}`."""
        return yaml.safe_load((self.path / "settings.yaml").read_text(encoding="utf-8"))

    @property
    def environment(self) -> dict[str, Any]:
        return read_json(self.path / "environment.json") or {}

    @property
    def summary(self) -> dict[str, Any] | None:
        """None until the run has ended."""
        return read_json(self.path / "summary.json")

    @property
    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """`{name: [(step, value), …]}` in the order of the steps."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in read_csv(self.path / "metrics.csv"):
            step = int(row.pop("step"))
            for name, text in row.items():
                if text:
                    curves.setdefault(name, []).append((step, float(text)))
        return curves

    @property
    def bad_files(self) -> list[tuple[str, str]]:
        """`[(name, reason), …]`."""
        return [(row["name"], row["reason"]) for row in read_csv(self.path / "bad_files.csv")]

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What `evaluate` stored, oldest first."""
        return [read_json(p) for p in sorted((self.path / "evaluations").glob("*.json"))]


@contextmanager
def atomic(path: str | os.PathLike):
    """A temporary path beside `path` to write to: it replaces `path` once whole and on the disk, or is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows by column name; none when there is no such file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as f:
        text = f.read()
    whole = text[: text.rfind("\n") + 1]  # without a line that is just being written
    return list(csv.DictReader(io.StringIO(whole, newline="")))
