"""The study's table: one row an arm, one column a task and number of labels, with intervals over seeds or draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from tacit.evaluation import intervals, tables
from tacit.run import write_json
from tacit.scores import interval, shown


def summed(column: str, scores: Sequence[dict[str, Any]], draws: int) -> dict[str, Any]:
    """One cell: the mean over seeds with Student's interval over them; of one seed, over the draws of its labels.

    Returns:
        `{"column", "metric", "value", "low", "high", "se", "over": "seeds" or "draws", "of": how many, "values"}`;
        `se` is the standard error, None where one seed and one draw have none.
    """
    values = [score["value"] for score in scores]
    low, high = intervals.over_draws(values) if len(values) > 1 else (scores[0]["low"], scores[0]["high"])
    over, count = ("seeds", len(values)) if len(values) > 1 else ("draws", draws)
    se = (high - low) / 2 / float(stats.t.ppf((1 + intervals.LEVEL) / 2, count - 1)) if count > 1 else None
    mean = sum(values) / len(values)
    return {
        "column": column, "metric": scores[0]["metric"], "value": mean, "low": low, "high": high, "se": se,
        "over": over, "of": count, "values": values,
    }  # fmt: skip


def lines(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for people; shares in per cent, with their interval in brackets."""
    titles = ["arm", "feature", *(column["title"] for column in result["columns"])]
    rows = []
    for row in result["rows"]:
        cells = {cell["column"]: f"{shown(cell)} ({interval(cell)})" for cell in row["cells"]}
        rows.append([row["title"], row["feature"], *(cells.get(c["name"], "") for c in result["columns"])])
    return titles, rows


def caption(result: dict[str, Any]) -> str:
    """What the table must say: the budget, what intervals are over, and which columns are left out."""
    b = result["budget"]
    over = f"{len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else f"{result['draws']} draws of the labels"
    small = f" and {b['local_crops']} small ones where a task has use of them" if b["local_crops"] else ""
    said = (
        f"{b['records']:,} records of {b['data']}, {b['encoder']}, {b['epochs']} epochs in batches of "
        f"{b['batch_size']}, two large crops{small} a record, seeds {', '.join(map(str, result['seeds']))}. Frozen "
        f"teachers. In brackets 95 % intervals over {over}; every arm is probed with the same labels."
    )
    return " ".join([said, *(f"Left out: {name} ({why})." for name, why in result["left_out"].items())])


def write(out: Path, result: dict[str, Any]) -> None:
    """table.md for people, table.csv with a line a cell, table.json with everything."""
    tables.write(out / "table.md", *lines(result), caption(result))
    titles = ["arm", "feature", "column", "metric", "value", "low", "high", "se", "over", "of"]
    cells = [
        [row["name"], row["feature"], *("" if cell[t] is None else str(cell[t]) for t in titles[2:])]
        for row in result["rows"]
        for cell in row["cells"]
    ]
    tables.write(out / "table.csv", titles, cells, "")
    write_json(out / "table.json", result)
