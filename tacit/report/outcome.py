"""How runs ended: verdict and figures, several runs side by side, and the scores of their probes."""

from __future__ import annotations

import math
from typing import Any

from tacit.report.markup import Html, Section, join, note, section, table, tag
from tacit.report.numbers import duration, flat, share, short, size
from tacit.run import Run
from tacit.scores import interval, is_share, shown

SUMMARY = {
    "steps": ("Steps", lambda v: f"{v:,}"),
    "loss": ("Last loss", short),
    "knn": ("k-NN while training", share),
    "rankme": ("RankMe while training", short),
    "seconds": ("Time", duration),
    "throughput": ("Records a second", short),
    "data_wait": ("Waiting for data", share),
    "peak_memory": ("Peak memory", size),
    "bad_files": ("Unreadable files", lambda v: f"{v:,}"),
}
HOW_PROBES = (
    "The dot is the score on held-out records, the bar its 95 % interval. The training was worth it where the run's "
    "bar lies to the right of both baselines; bars that overlap cannot be told apart with this much test data."
)
OF = {"run": "this run", "random-init": "random init", "raw-input": "raw input"}


def outcome_section(names: list[str], runs: list[Run]) -> Section:
    if len(runs) == 1:
        return section("Outcome", _one(runs[0]), anchor="outcome")
    return section("Comparison", _side_by_side(names, runs), _differences(names, runs), anchor="outcome")


def _one(run: Run) -> Html:
    summary = run.summary
    if summary is None:
        return _unfinished(run)
    cells = [tag("div", tag("dt", title), tag("dd", text)) for title, text in _figures(summary).items()]
    return join([_verdict(summary.get("verdict")), tag("dl", *cells, class_="cards")])


def _verdict(verdict: str | None) -> Html:
    return tag("p", "Verdict: ", tag("strong", verdict or "none"), class_="good" if verdict == "healthy" else "bad")


def _unfinished(run: Run) -> Html:
    loss = run.metrics.get("loss")
    so_far = f"The last logged step is {loss[-1][0]:,}." if loss else "No step was logged yet."
    return note(f"The run has not ended: no summary.json. {so_far} Go on with it by tacit pretrain … --resume.")


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    return {
        title: "none" if summary[field] is None else write(summary[field])
        for field, (title, write) in SUMMARY.items()
        if field in summary
    }


def _side_by_side(names: list[str], runs: list[Run]) -> Html:
    rows = [_facts(run) for run in runs]
    head = list(dict.fromkeys(title for row in rows for title in row))
    cells = [
        [tag("bdi", name), *(row.get(title, "–") for title in head)] for name, row in zip(names, rows, strict=True)
    ]
    return table(["Run", *head], cells, caption="Runs side by side; scores are those of the latest probe of each kind")


def _facts(run: Run) -> dict[str, Any]:
    settings, summary = run.settings, run.summary
    facts = {"Method": settings.get("method"), "Encoder": encoder_of(settings), "Seed": settings.get("seed")}
    facts["Verdict"] = summary.get("verdict") if summary else "not ended"
    for found in run.evaluations:
        for r in found["results"]:
            if r["of"] == "run":
                facts[f"{r['protocol']} {r['metric']}"] = f"{shown(r)} ({interval(r)})"
    return {**facts, **_figures(summary or {})}


def encoder_of(settings: dict[str, Any]) -> str:
    inner = settings.get("settings") or {}
    return str(settings.get("encoder") or inner.get("encoder") or "–")


def _differences(names: list[str], runs: list[Run]) -> Html:
    every, whole = ([dict(flat(run.settings, whole=w)) for run in runs] for w in (False, True))
    fields = [f for f in dict.fromkeys(f for one in whole for f in one) if len({one.get(f) for one in whole}) > 1]
    if not fields:
        return note("All settings of these runs are the same.")
    rows = [[field, *(one.get(field, "–") for one in every)] for field in fields]
    return table(["Setting", *(tag("bdi", n) for n in names)], rows, caption="Settings that differ")


def probes_section(names: list[str], runs: list[Run]) -> Section:
    parts = []
    for name, run in zip(names, runs, strict=True):
        if len(runs) > 1:
            parts.append(tag("h3", tag("bdi", name)))
        found = [_evaluation(one) for one in run.evaluations]
        parts += found or [
            note(f"No probe yet. With labelled files: tacit evaluate {run.path} --data LABELLED --protocol knn,linear")
        ]
    how = tag("p", HOW_PROBES, class_="quiet") if any(run.evaluations for run in runs) else None
    return section("Probes", how, *parts, anchor="probes")


def _evaluation(found: dict[str, Any]) -> Html:
    span = _span(found["results"])
    rows = [
        [
            f"{r['protocol']} {r['metric']}", OF.get(r["of"], r["of"]), shown(r), interval(r),
            _bar(r, span) if is_share(r["metric"]) else "", f"{r['n']:,}",
            ", ".join(f"{k} = {v}" for k, v in flat(r.get("settings") or {}) if k),
        ]
        for r in found["results"]
    ]  # fmt: skip
    head = ["Protocol", "Of", "Score", "95 % interval", f"{span[0]} to {span[1]} %", "Test records", "Settings"]
    split = found.get("split")
    return table(head, rows, caption=f"On {found.get('data')}" + (f", {split}" if split else ""))


def _span(results: list[dict[str, Any]]) -> tuple[int, int]:
    """Per cent that the bars reach over: whole tens around every interval."""
    shares = [r for r in results if is_share(r["metric"])]
    low, high = min([r["low"] for r in shares], default=0.0), max([r["high"] for r in shares], default=1.0)
    start = max(0, math.floor(10 * low))
    return 10 * start, 10 * max(start + 1, math.ceil(10 * high))


def _bar(r: dict[str, Any], span: tuple[int, int]) -> Html:
    start, end = span
    low, value, high = (round(5 + 150 * (100 * r[k] - start) / (end - start), 1) for k in ("low", "value", "high"))
    colour = {"run": "k0", "random-init": "k1", "raw-input": "k2"}.get(r["of"], "k3")
    return tag(
        "svg",
        tag("path", d="M5 10H155", class_="grid"),
        tag("path", d=f"M{low} 10H{high}", class_=f"interval {colour}"),
        tag("circle", cx=value, cy=10, r=4, class_=f"dot {colour}"), viewBox="0 0 160 20", width=160, height=20,
        aria_hidden="true",
    )  # fmt: skip
