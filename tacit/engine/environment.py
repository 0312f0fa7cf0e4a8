"""What a run was made with and on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = [
    "tacit",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "numpy",
    "pillow",
    "torchcodec",
    "pyarrow",
    "datasets",
]


def environment() -> dict[str, Any]:
    """Versions, machine, command line and the state of the git work tree the command was given in."""
    return {
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}",
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "git": {"commit": _git("rev-parse", "HEAD"), "changed_files": _lines(_git("status", "--porcelain"))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _lines(text: str | None) -> int | None:
    return None if text is None else len(text.splitlines())
