"""metrics.csv: one row a logged step, whole at any moment, continued where a run resumes."""

from __future__ import annotations

import csv
from pathlib import Path

from tacit.run import atomic, read_csv


class MetricsFile:
    """Rows are appended and flushed; a name not seen before rewrites the file with one more column, atomically."""

    def __init__(self, path: Path, *, before: int = 0):
        """Rows of steps before this one are kept; what a killed run logged beyond its last save will come again."""
        self.path = path
        rows = [row for row in read_csv(path) if int(row["step"]) < before]
        self.columns = list(rows[0]) if rows else ["step"]
        self._rewrite(rows)

    def append(self, step: int, values: dict[str, float]) -> None:
        row = {"step": step, **{name: f"{value:.7g}" for name, value in values.items()}}
        if new := [name for name in row if name not in self.columns]:
            self.columns += new
            self._rewrite(read_csv(self.path))
        with open(self.path, "a", encoding="utf-8", newline="") as f:
            csv.DictWriter(f, self.columns, restval="", lineterminator="\n").writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with atomic(self.path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, self.columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
