"""A comparison as a table in Markdown, HTML, CSV or LaTeX."""

from __future__ import annotations

import csv
import html
import io
from typing import Any

from tacit.scores import interval, is_share, shown, sign

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


def markdown(comparison: dict[str, Any]) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = "\n".join(line(row) for row in rows(comparison))
    return f"{line(titles(comparison))}\n|{'---|' * len(titles(comparison))}\n{body}\n\n{caption(comparison)}\n"


def html_page(comparison: dict[str, Any]) -> str:
    def line(cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows(comparison))
    style = "body{font:16px sans-serif;margin:1em}td,th{padding:.2em .8em;text-align:left}div{overflow-x:auto}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Comparison</title><style>{style}</style><div><table>\n"
        f"{line(titles(comparison), 'th')}\n{body}\n</table></div>"
        f"<p>{html.escape(caption(comparison))}</p></html>\n"
    )


def comma(comparison: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles(comparison))
    writer.writerows(rows(comparison))
    return out.getvalue()


def latex(comparison: dict[str, Any]) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}

    def line(cells) -> str:
        return " & ".join("".join(special.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows(comparison))
    said = "".join(special.get(c, c) for c in caption(comparison))
    return (
        f"\\begin{{tabular}}{{{'l' * len(titles(comparison))}}}\n\\hline\n{line(titles(comparison))}\n"
        f"\\hline\n{body}\n\\hline\n\\end{{tabular}}\n% {said}\n"
    )


FORMATS = {".md": markdown, ".html": html_page, ".csv": comma, ".tex": latex}
