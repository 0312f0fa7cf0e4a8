"""What a run says: lines on stderr and in log.txt, and one bar for the whole run."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Journal:
    """`say` prints a line and keeps it; `advance` moves the bar, or prints a line now and then without a terminal."""

    def __init__(self, log: Path | None, *, quiet: bool = False, line_every: float = 20.0):
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self.log = log
        self.line_every = line_every
        self.bar: Progress | None = None
        self.begun = self.said = time.monotonic()

    def say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False)
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as f:
                f.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")

    def start(self, what: str, done: int, total: int) -> None:
        self.begun = self.said = time.monotonic()
        self.first = done
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(what, total=total, completed=done, state="")
        self.bar.start()

    def advance(self, done: int, total: int, state: str) -> None:
        self.bar.update(self.task, completed=done, state=state)
        now = time.monotonic()
        if not sys.stderr.isatty() and (now - self.said > self.line_every or done == total):
            self.said = now
            left = (now - self.begun) / max(done - self.first, 1) * (total - done)
            self.console.print(f"step {done}/{total}  {state}  ETA {duration(left)}", markup=False)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def duration(seconds: float) -> str:
    """`3 s`, `2 min 05 s`, `3 h 12 min`, `4 d 2 h`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 172_800:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def size(count: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
