"""Scores as a table for people: of one encoder, or a comparison; any table in Markdown, HTML, CSV or LaTeX."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.errors import UsageError
from tacit.run import write_text
from tacit.scores import interval, is_share, shown, sign

Cells = Sequence[str]
ONE = ("protocol", "metric", "features", "of", "score", "95 % interval", "n")
TITLES = ("protocol", "metric", "encoder", "score", "95 % interval", "to the best", "95 % interval of it", "p (Holm)")


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows in the order of `ONE` of what `evaluate` says of one encoder; shares in per cent."""
    return [
        (r["protocol"], r["metric"], _feature(r, result["inputs"]), r["of"], shown(r), interval(r), _n(r))
        for r in result["results"]
    ]


def caption_of_one(result: dict[str, Any]) -> str:
    """What a table of one encoder must say: encoder, preparation of its inputs, split, records, seed."""
    return (
        f"{result['encoder']} in eval mode. Inputs: {_inputs(result['inputs'])}. Test: {result['split']}, "
        f"{_counts(result['results'])} records, split {result['split_hash']}, seed {result['seed']}."
    )


def _feature(score: dict[str, Any], inputs: dict[str, Any] | None = None) -> str:
    """What of the encoder was looked at; nothing where the protocol leaves no choice."""
    inputs = inputs or score.get("inputs") or {}
    if score["of"] == "raw-input" and "frame" not in score["settings"]:
        return RAW.get(inputs.get("kind"), "pixels")
    found = score["settings"].get("feature", "")
    return found if isinstance(found, str) else "/".join(dict.fromkeys(found))


def _n(score: dict[str, Any]) -> str:
    return f"{score['n']:,}"


def _counts(scores: list[dict[str, Any]]) -> str:
    return "/".join(f"{n:,}" for n in sorted({s["n"] for s in scores}))


def titles(comparison: dict[str, Any]) -> tuple[str, ...]:
    """Of the columns; numbers of records, features and preparations of inputs are among them where they differ."""
    return (*TITLES, *(name for name, _ in _differing(comparison)))


def _differing(comparison: dict[str, Any]) -> list[tuple[str, Callable[[dict[str, Any]], str]]]:
    """What is said of every score by itself, since it is not the same for all."""
    return [(name, of) for name, of in ABOUT.items() if len({of(s) for s in comparison["scores"]}) > 1]


def rows(comparison: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a score, best first within a metric; differences of shares in points."""
    to_best = {(d["protocol"], d["metric"], d["b"]): d for d in comparison["differences"]}
    order = list(dict.fromkeys((s["protocol"], s["metric"]) for s in comparison["scores"]))
    differing = _differing(comparison)
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
                *(of(s) for _, of in differing),
            )
        )  # fmt: skip
    return found


# What the raw input is, by the kind of inputs; of others pixels.
RAW = {
    "sound": "mean and deviation of bands", "wave": "mean and deviation of bands",
    "film": "mean and deviation of pixels", "text": "counts of words",
    "sequences": "means and deviations over time",
}  # fmt: skip


def _inputs(inputs: dict[str, Any]) -> str:
    if inputs.get("kind") == "wave":
        how = ", each of mean 0 and variance 1" if inputs["normalise"] else ""
        return f"waveforms of up to {inputs['seconds']:g} s at {inputs['rate']:,} Hz{how}"
    if inputs.get("kind") == "film":
        return f"{inputs['frames']} frames of {inputs['size']} px, {inputs['rate']:g} a second, crop {inputs['crop']:g}"
    if inputs.get("kind") == "text":
        return f"{inputs['sentences']} sentences of up to {inputs['length']} of {len(inputs['words']):,} words"
    if inputs.get("kind") == "sequences":
        each = zip(("text", "audio", "vision"), inputs["lengths"], inputs["dims"], strict=True)
        read = (f"{name} {length} x {dim}" for name, length, dim in each if dim)
        return f"sequences of up to so many positions x numbers: {', '.join(read)}"
    if inputs.get("kind") == "sound":
        return (
            f"{inputs['frames']} frames of {inputs['mels']} log-mel bands ({inputs['front']}) at {inputs['rate']:,} Hz"
        )
    scale = (f"{name} {' '.join(f'{v:.3g}' for v in inputs[name])}" for name in ("mean", "std"))
    return ", ".join([f"{inputs['size']} px", f"crop {inputs['crop']:g}", inputs["interpolation"], *scale])


ABOUT = {"n": _n, "features": _feature, "inputs": lambda score: _inputs(score["inputs"])}


def caption(comparison: dict[str, Any]) -> str:
    """What every such table must say."""
    scores, differing = comparison["scores"], dict(_differing(comparison))
    ranks = ", ".join(f"{name} {rank:.2g}" for name, rank in sorted(comparison["ranks"].items(), key=lambda r: r[1]))
    same = {name.capitalize(): of(scores[0]) for name, of in ABOUT.items() if name not in (*differing, "n")}
    about = "".join(f"{name}: {what}. " for name, what in same.items() if what)
    return (
        f"{comparison['split']}, {_counts(scores)} test records, split {comparison['split_hash']}, "
        f"seed {comparison['seed']}. {about}Mean ranks over the scores: {ranks}."
    )


def parts(comparison: dict[str, Any], *, whole: bool = False) -> tuple[Cells, Sequence[Cells], str]:
    """Its titles, rows and caption, which every format takes; `whole` says in columns what else the caption says."""
    if not whole:
        return titles(comparison), rows(comparison), caption(comparison)
    of = {(s["protocol"], s["metric"], s["encoder"]): s for s in comparison["scores"]}
    last = (str(comparison["split_hash"]), str(comparison["seed"]))
    found = [(*row[: len(TITLES)], *(tell(of[row[:3]]) for tell in ABOUT.values()), *last) for row in rows(comparison)]
    return (*TITLES, *ABOUT, "split", "seed"), found, caption(comparison)


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
