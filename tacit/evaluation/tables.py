"""What a comparison says as a table, and any table in Markdown, HTML, CSV or LaTeX."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import UsageError
from tacit.run import write_text
from tacit.scores import interval, is_share, shown, sign

Cells = Sequence[str]
TITLES = ("protocol", "metric", "encoder", "score", "95 % interval", "to the best", "95 % interval of it", "p (Holm)")


def titles(comparison: dict[str, Any]) -> tuple[str, ...]:
    """Of the columns; how inputs were prepared is one of them where encoders differ in it."""
    return (*TITLES, "inputs") if len(_all_inputs(comparison)) > 1 else TITLES


def rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a score, best first within a metric; differences of shares in points."""
    to_best = {(d["protocol"], d["metric"], d["b"]): d for d in comparison["differences"]}
    order = list(dict.fromkeys((s["protocol"], s["metric"]) for s in comparison["scores"]))
    several = len(_all_inputs(comparison)) > 1
    found = []
    for s in sorted(
        comparison["scores"],
        key=lambda s: (order.index((s["protocol"], s["metric"])), -sign(s["metric"]) * s["value"]),
    ):
        d = to_best.get((s["protocol"], s["metric"], s["encoder"]))
        points = (lambda v: f"{0 - 100 * v:+.1f}") if is_share(s["metric"]) else (lambda v: f"{0 - v:+.3f}")
        found.append(
            (
                s["protocol"], s["metric"], s["encoder"], shown(s), interval(s),
                points(d["difference"]) if d else "",
                f"{points(d['high'])} to {points(d['low'])}" if d else "",
                f"{d['p_holm']:.2g}" if d else "",
                *((_inputs(s["inputs"]),) if several else ()),
            )
        )  # fmt: skip
    return found


def _inputs(inputs: dict[str, Any]) -> str:
    return f"{inputs['size']} px, crop {inputs['crop']:g}, {inputs['interpolation']}"


def _all_inputs(comparison: dict[str, Any]) -> set[str]:
    return {_inputs(s["inputs"]) for s in comparison["scores"]}


def caption(comparison: dict[str, Any]) -> str:
    """What every such table must say."""
    n = "/".join(f"{k:,}" for k in sorted({s["n"] for s in comparison["scores"]}))
    ranks = ", ".join(f"{name} {rank:.2g}" for name, rank in sorted(comparison["ranks"].items(), key=lambda r: r[1]))
    inputs = _all_inputs(comparison)
    prepared = f"Inputs: {inputs.pop()}. " if len(inputs) == 1 else ""
    return (
        f"{comparison['split']}, {n} test records, split {comparison['split_hash']}, seed {comparison['seed']}. "
        f"{prepared}Mean ranks over the scores: {ranks}."
    )


def parts(comparison: dict[str, Any]) -> tuple[Cells, Sequence[Cells], str]:
    """Its titles, rows and caption, which every format takes."""
    return titles(comparison), rows(comparison), caption(comparison)


def markdown(titles: Cells, rows: Sequence[Cells], caption: str) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = "\n".join(line(row) for row in rows)
    return f"{line(titles)}\n|{'---|' * len(titles)}\n{body}\n\n{caption}\n"


def html_page(titles: Cells, rows: Sequence[Cells], caption: str) -> str:
    def line(cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    style = "body{font:16px sans-serif;margin:1em}td,th{padding:.2em .8em;text-align:left}div{overflow-x:auto}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Comparison</title><style>{style}</style><div><table>\n"
        f"{line(titles, 'th')}\n{body}\n</table></div>"
        f"<p>{html.escape(caption)}</p></html>\n"
    )


def comma(titles: Cells, rows: Sequence[Cells], caption: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)
    return out.getvalue()


def latex(titles: Cells, rows: Sequence[Cells], caption: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}

    def line(cells) -> str:
        return " & ".join("".join(special.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    said = "".join(special.get(c, c) for c in caption)
    return (
        f"\\begin{{tabular}}{{{'l' * len(titles)}}}\n\\hline\n{line(titles)}\n"
        f"\\hline\n{body}\n\\hline\n\\end{{tabular}}\n% {said}\n"
    )


FORMATS = {".md": markdown, ".html": html_page, ".csv": comma, ".tex": latex}


def check_format(out: str | os.PathLike | None) -> None:
    """Raises `UsageError` unless the name ends in one of `FORMATS`."""
    if out is not None and Path(out).suffix not in FORMATS:
        raise UsageError(f"--out {out}: must end in {', '.join(FORMATS)}.")


def write(out: str | os.PathLike, titles: Cells, rows: Sequence[Cells], caption: str) -> None:
    """The table as a file, in the format that the name ends in."""
    check_format(out)
    write_text(out, FORMATS[Path(out).suffix](titles, rows, caption))
