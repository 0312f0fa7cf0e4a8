"""A comparison as a table in Markdown, HTML, CSV or LaTeX."""

from __future__ import annotations

import csv
import html
import io
from typing import Any

from tacit.scores import interval, is_share, shown, sign

TITLES = (
    "protocol", "metric", "encoder", "score", "95 % interval", "to the best", "95 % interval of it", "p (Holm)",
    "inputs",
)  # fmt: skip


def rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a score, best first within a metric; differences of shares in points."""
    to_best = {(d["protocol"], d["metric"], d["b"]): d for d in comparison["differences"]}
    order = list(dict.fromkeys((s["protocol"], s["metric"]) for s in comparison["scores"]))
    found = []
    for s in sorted(
        comparison["scores"],
        key=lambda s: (order.index((s["protocol"], s["metric"])), -sign(s["metric"]) * s["value"]),
    ):
        d = to_best.get((s["protocol"], s["metric"], s["encoder"]))
        points = (lambda v: f"{-100 * v:+.1f}") if is_share(s["metric"]) else (lambda v: f"{-v:+.3f}")
        inputs = s["inputs"] or {}
        found.append(
            (
                s["protocol"], s["metric"], s["encoder"], shown(s), interval(s),
                points(d["difference"]) if d else "",
                f"{points(d['high'])} to {points(d['low'])}" if d else "",
                f"{d['p_holm']:.2g}" if d else "",
                f"{inputs['size']} px, crop {inputs['crop']:g}, {inputs['interpolation']}" if inputs else "",
            )
        )  # fmt: skip
    return found


def caption(comparison: dict[str, Any]) -> str:
    """What every such table must say."""
    n = "/".join(f"{k:,}" for k in sorted({s["n"] for s in comparison["scores"]}))
    ranks = ", ".join(f"{name} {rank:.2g}" for name, rank in sorted(comparison["ranks"].items(), key=lambda r: r[1]))
    return (
        f"{comparison['split']}, {n} test records, split {comparison['split_hash']}, "
        f"seed {comparison['seed']}. Mean ranks over the protocols: {ranks}."
    )


def markdown(comparison: dict[str, Any]) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = "\n".join(line(row) for row in rows(comparison))
    return f"{line(TITLES)}\n|{'---|' * len(TITLES)}\n{body}\n\n{caption(comparison)}\n"


def html_page(comparison: dict[str, Any]) -> str:
    def line(cells, tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows(comparison))
    style = "body{font:16px sans-serif;margin:1em}td,th{padding:.2em .8em;text-align:left}div{overflow-x:auto}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Comparison</title><style>{style}</style><div><table>\n{line(TITLES, 'th')}\n{body}\n</table></div>"
        f"<p>{html.escape(caption(comparison))}</p></html>\n"
    )


def comma(comparison: dict[str, Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TITLES)
    writer.writerows(rows(comparison))
    return out.getvalue()


def latex(comparison: dict[str, Any]) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}

    def line(cells) -> str:
        return " & ".join("".join(special.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows(comparison))
    said = "".join(special.get(c, c) for c in caption(comparison))
    return (
        f"\\begin{{tabular}}{{{'l' * len(TITLES)}}}\n\\hline\n{line(TITLES)}\n\\hline\n{body}\n\\hline\n"
        f"\\end{{tabular}}\n% {said}\n"
    )


FORMATS = {".md": markdown, ".html": html_page, ".csv": comma, ".tex": latex}
