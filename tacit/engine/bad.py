"""Records that cannot be read: counted once each, listed in the run folder, and a stop when they are too many."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from tacit.data import Source
from tacit.distributed import rank
from tacit.errors import DataError
from tacit.run import Run, atomic


class BadFiles:
    """The list of one run. `limit` is the largest share of the records that may be bad."""

    def __init__(self, run: Path, source: Source, limit: float, *, resume: bool):
        self.path = run / "bad_files.csv"
        self.limit, self.total = limit, len(source) + len(source.skipped)
        self.found: dict[str, str] = dict(Run(run).bad_files) if resume and Run.is_run(run) else {}
        self.dirty = True
        self.add(source.skipped)

    def __len__(self) -> int:
        return len(self.found)

    def add(self, items: list[tuple[str, str]]) -> None:
        """Names and reasons, new or known."""
        for name, reason in items:
            if name not in self.found:
                self.found[name], self.dirty = reason, True

    def check(self) -> None:
        """Raise `DataError` when there are too many."""
        if len(self.found) > self.limit * self.total:
            self.write()
            raise DataError(self._too_many())

    def write(self) -> None:
        if not self.dirty or rank() > 0:
            return
        with atomic(self.path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(["name", "reason"])
            writer.writerows(sorted(self.found.items()))
        self.dirty = False

    def summary(self) -> str:
        """`12 of 4,000 files could not be read: 8 truncated, 4 empty file`."""
        counts = Counter(self.found.values()).most_common(6)
        return f"{len(self.found):,} of {self.total:,} files could not be read: " + ", ".join(
            f"{count} x {reason}" for reason, count in counts
        )

    def _too_many(self) -> str:
        share = -(-len(self.found) * 1000 // self.total) / 10
        return (
            f"{self.summary()}. That is more than --max-bad {self.limit:.3g} ({self.limit:.2%} of {self.total:,} = "
            f"{self.limit * self.total:.0f}). Those found so far are listed in {self.path}. Mend or remove them "
            f"and begin again, or allow more: --resume --max-bad {max(2 * share, 1):.0f}%"
        )
