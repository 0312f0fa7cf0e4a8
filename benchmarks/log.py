"""What a benchmark found, as a line of results/LOG.md: day, finding, command without its paths, machine."""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

LOG = Path(__file__).parent / "results" / "LOG.md"


def command() -> str:
    """`python benchmarks/x.py …` as it was given, a path being PATH."""
    said = []
    for argument in sys.argv[1:]:
        name, equals, value = argument.rpartition("=")
        said.append(f"{name}{equals}PATH" if os.sep in value else argument)
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *said])


def machine() -> str:
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{platform.machine()} {chip}, {threads} thread{'s' * (threads > 1)}"


def note(found: str, *, keep: bool = True) -> None:
    """Print it, and append it to the log."""
    line = f"- {date.today()} {found}; `{command()}`; {machine()}"
    print(line)
    if keep:
        with LOG.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
