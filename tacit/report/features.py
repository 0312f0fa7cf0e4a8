"""What the features are like: how many directions they use, where records lie, and who is next to whom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tacit.objectives.spectra import rankme
from tacit.report.charts import Series, legend, line_chart
from tacit.report.maps import maps
from tacit.report.markup import Html, Section, figure, join, note, section, table, tag
from tacit.report.numbers import short
from tacit.report.sample import Sample
from tacit.report.tiles import mark, strip_class, tiles

FIRST_DIRECTIONS = 512
NEIGHBOURS = 8
MOST_SOUND = 6_000_000  # characters that all clips on a page take
HOW_SPECTRUM = (
    "How strongly features vary along each direction, strongest first, relative to the first. A slow decline is good; "
    "bad: a cliff after a few directions, since all beyond it hold nothing."
)
HOW_NEIGHBOURS = (
    "Each row starts with a record drawn by chance, then come the records whose features are most similar (cosine "
    "below each). They should share what the record is about; bad: the same background or brightness only, or the "
    "same few records in every row."
)


def nearest(x: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines, each [Q, k], of the k records nearest to each query in [N, D], itself left out.

    Of fewer than k others all.
    """
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = unit[queries] @ unit.T
    cosine[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, len(x) - 1)]
    return order, np.take_along_axis(cosine, order, 1)


def features_section(
    samples: dict[str, Sample | str], *, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> Section:
    """A sample of every run by its name, or the reason why there is none."""
    there = {name: s for name, s in samples.items() if isinstance(s, Sample)}
    missing = [note(f"{name}: no features: {why}") for name, why in samples.items() if isinstance(why, str)]
    parts = [_spectrum(there), _ranks(there)] if there else []
    pictures = 60 // max(len(there), 1) + 20
    for done, (name, sample) in enumerate(there.items()):
        if progress is not None:
            progress("maps", done, len(there))
        parts += [_run_title(name, there), _about(sample), maps(sample, seed=seed, thumbnails=pictures)]
    return section("Features", *missing, *parts, anchor="features")


def neighbours_section(samples: dict[str, Sample | str], *, seed: int) -> Section | None:
    there = {name: s for name, s in samples.items() if isinstance(s, Sample) and len(s.x) > 1}
    if not there:
        return None
    queries = max(3, 8 // len(there))
    most = MOST_SOUND // (len(there) * queries * (1 + NEIGHBOURS))
    parts = [p for name, s in there.items() for p in (_run_title(name, there), _neighbours(s, queries, seed, most))]
    return section("Nearest neighbours", tag("p", HOW_NEIGHBOURS, class_="quiet"), *parts, anchor="neighbours")


def _run_title(name: str, all_of: dict) -> Html | None:
    return tag("h3", tag("bdi", name)) if len(all_of) > 1 else None


def _about(sample: Sample) -> Html:
    drawn = "all" if len(sample.x) + sample.unreadable == sample.records else "drawn by chance out of"
    lost = f"; {sample.unreadable:,} more could not be read" if sample.unreadable else ""
    return tag("p", f"{len(sample.x):,} records, {drawn} {sample.records:,}{lost}.", class_="quiet")


def _spectrum(samples: dict[str, Sample]) -> Html:
    series = []
    for name, sample in samples.items():
        s = np.linalg.svd(sample.x - sample.x.mean(0), compute_uv=False)[:FIRST_DIRECTIONS]
        s = np.where(s > 1e-6 * s[0], s, np.nan) / (s[0] or 1.0)
        series.append(Series(name, np.arange(1, len(s) + 1), s))
    drawing = line_chart(
        series, title="Singular values of features", x_label="direction", y_label="singular value", log=True
    )
    key = legend(list(samples)) if len(samples) > 1 else None
    return join([key, figure("Singular values of features, mean taken out", drawing, HOW_SPECTRUM, class_="narrow")])


def _ranks(samples: dict[str, Sample]) -> Html:
    rows = []
    for name, sample in samples.items():
        most = min(sample.x.shape[0] - 1, sample.x.shape[1])
        x = torch.from_numpy(sample.x)
        rows.append([tag("bdi", name), short(float(rankme(x))), short(float(rankme(x - x.mean(0)))), f"{most:,}"])
    head = ["Run", "RankMe", "Mean taken out", "At most"]
    return table(head, rows, caption="Effective number of directions in the features; higher is usually better")


def _neighbours(sample: Sample, queries: int, seed: int, most: int) -> Html:
    """A row a query; of sounds each clip takes `most` characters at most."""
    chosen = np.random.default_rng(seed).permutation(len(sample.x))[:queries]
    order, cosine = nearest(sample.x, chosen, NEIGHBOURS)
    # Of a collapsed encoder the same few records are in every row: each is read once.
    shown = {int(row) for row in (*chosen, *order.flat)}
    pictures, how = tiles(sample, shown, most)
    rows = []
    for query, near, how_near in zip(chosen, order, cosine, strict=True):
        found = [
            mark(pictures[int(row)], f"{c:.2f}", _same(sample, query, row))
            for row, c in zip(near, how_near, strict=True)
        ]
        first = mark(pictures[int(query)], "query", "query")
        rows.append(tag("ol", first, *found, class_=strip_class(sample)))
    return join([how, *rows])


def _same(sample: Sample, query: int, row: int) -> str | None:
    if sample.labels is None:
        return None
    return "same" if sample.labels[query] == sample.labels[row] else "other"
