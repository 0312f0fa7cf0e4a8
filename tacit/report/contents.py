"""What went in: views, unreadable files, settings and environment."""

from __future__ import annotations

import zipfile
from collections import Counter
from typing import Any

import numpy as np

from tacit.report.markup import Html, Section, join, name, note, section, table, tag
from tacit.report.numbers import flat
from tacit.report.pictures import data_uri
from tacit.run import Run

FIRST_BAD = 200
MOST_VIEWS = 96  # pictures of views on a page
LONGEST_SIDE = 112
HOW_VIEWS = (
    "Each column is one record, each picture one view of it, as the method saw it. You should still recognise what "
    "matters; bad: views that are empty, or too alike, or that lose what tells your records apart (colour, texture)."
)
HOW_SPECTROGRAMS = "Sounds are shown as spectrograms: time to the right, low frequencies at the bottom, bright is loud."
HOW_CLIPS = (
    "Each film is a strip of four frames, its sound a spectrogram of the same moment, and below are the sentences that "
    "the method takes for candidates: the one that overlaps the moment most, then its neighbours in time. Words that "
    "the run does not know are left out. At least one of them should be of what is seen."
)
HOW_RECONSTRUCTIONS = (
    "Each column is one record: what went in, what was left of it, and what the trained method made of that. Good: "
    "shapes and colours of what is missing are guessed, if blurred; bad: flat grey, or the average of all records."
)


def views_section(names: list[str], runs: list[Run]) -> Section:
    return section("Sample views", tag("p", HOW_VIEWS, class_="quiet"), *_all(names, runs, "views"), anchor="views")


def reconstructions_section(names: list[str], runs: list[Run]) -> Section | None:
    """None where no run reconstructs anything."""
    shown = [(n, run) for n, run in zip(names, runs, strict=True) if (run.path / "reconstructions.npz").is_file()]
    if not shown:
        return None
    names, runs = [n for n, _ in shown], [run for _, run in shown]
    parts = _all(names, runs, "reconstructions")
    return section("Reconstructions", tag("p", HOW_RECONSTRUCTIONS, class_="quiet"), *parts, anchor="reconstructions")


def _all(names: list[str], runs: list[Run], what: str) -> list[Html | None]:
    most = MOST_VIEWS // len(runs)
    return [p for n, run in zip(names, runs, strict=True) for p in (_title(n, runs), _pictures(run, what, most))]


def _title(text: str, runs: list[Run]) -> Html | None:
    return tag("h3", tag("bdi", text)) if len(runs) > 1 else None


def _pictures(run: Run, what: str, most: int) -> Html:
    path = run.path / f"{what}.npz"
    if not path.is_file():
        return note(
            "No sample views: the run has not got as far as writing views.npz. It does so when training starts."
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            views = stored["views"]
            titles = [str(t) for t in stored["names"]] if "names" in stored else []
            kind = str(stored["kind"]) if "kind" in stored else "image"
            there = stored["there"] if "there" in stored else np.ones(views.shape[:2], bool)
            said = stored.get("sentences")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        return note(f"No sample {what}: {path} cannot be read ({error}).")
    titles = titles or [f"view {v + 1}" for v in range(len(views))]
    shown = min(views.shape[1], max(2, most // len(views)))
    records = []
    for i in range(shown):
        seen = [
            _view(views[v, i], title, record=i + 1) if there[v, i] else tag("span", f"no {title}", class_="lacking")
            for v, title in enumerate(titles)
        ]
        records.append(tag("li", *seen, None if said is None else _sentences(said[i])))
    if kind == "video" or said is not None:
        return join([tag("p", HOW_CLIPS, class_="quiet"), tag("ol", *records, class_="views clips")])
    if kind == "audio":
        return join([tag("p", HOW_SPECTROGRAMS, class_="quiet"), tag("ol", *records, class_="views sounds")])
    return tag("ol", *records, class_="views small" if views.shape[2] <= 64 else "views")


def _view(pixels: np.ndarray, title: str, *, record: int) -> Html:
    longest = LONGEST_SIDE * (2 if pixels.shape[1] >= 2 * pixels.shape[0] else 1)
    image = tag("img", src=data_uri(pixels, longest=longest), alt=f"Record {record} as {title} shows it")
    return join([image, tag("span", title)])


def _sentences(said: np.ndarray) -> Html:
    """[L] of a bag, "" where there is none."""
    found = [tag("li", sentence) for sentence in said if sentence]
    return tag("ul", *found, class_="said") if found else tag("span", "no sentence", class_="lacking")


def bad_files_section(names: list[str], runs: list[Run]) -> Section:
    parts = [p for n, run in zip(names, runs, strict=True) for p in (_title(n, runs), _bad_files(run.bad_files))]
    return section("Unreadable files", *parts, anchor="bad-files")


def _bad_files(bad: list[tuple[str, str]]) -> Html:
    if not bad:
        return tag("p", "None: every record that was asked for could be read.")
    counts = Counter(reason for _, reason in bad).most_common(20)
    reasons = table(
        ["Reason", "Files"], [[reason, f"{n:,}"] for reason, n in counts], caption="The most frequent reasons"
    )
    rows = [[name(file), reason] for file, reason in bad[:FIRST_BAD]]
    shown = "all of them" if len(bad) <= FIRST_BAD else f"the first {FIRST_BAD}, all are in bad_files.csv"
    said = f"{len(bad):,} skipped; {shown}"
    return join([reasons, tag("details", tag("summary", said), table(["File", "Reason"], rows, caption=said))])


def settings_section(names: list[str], runs: list[Run]) -> Section:
    parts = [p for n, run in zip(names, runs, strict=True) for p in (_title(n, runs), *_settings(run))]
    return section("Settings and environment", *parts, anchor="settings")


def _settings(run: Run) -> list[Html]:
    again = f"tacit pretrain --config {run.path / 'settings.yaml'} --out NEW"
    environment = run.environment
    return [
        tag("p", "To do the same again: ", tag("code", again)),
        _folded("Settings", run.settings),
        _folded("Environment", environment) if environment else note("No environment.json in the run folder."),
    ]


def _folded(title: str, values: dict[str, Any]) -> Html:
    rows = [[tag("code", field), name(value)] for field, value in flat(values)]
    return tag("details", tag("summary", title), table(["Field", "Value"], rows, caption=title))
