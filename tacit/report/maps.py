"""Features laid out in the plane, by PCA, t-SNE and UMAP, with thumbnails of some records where they lie."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np

from tacit.report.charts import COLOURS
from tacit.report.markup import Html, figure, join, note, tag
from tacit.report.numbers import share
from tacit.report.sample import Sample

SIDE, MARGIN, THUMB = 480, 18, 30  # of a map and of a thumbnail on it, in the drawing's units
GAP, PIXELS = 10, 44  # between thumbnails, and of one, more than drawn for sharp screens
FEWEST = 10  # records a map is worth drawing for
HOW = {
    "PCA": "The two directions along which features vary most, {0} of all variance. Broad and many-armed is good; "
    "bad: one thin line or one tight ball with a few records far off.",
    "t-SNE": "Neighbours in feature space stay neighbours here; distances between far groups mean nothing. Groups "
    "should share what is shown; bad: groups by brightness, size or source of the file alone.",
    "UMAP": "As t-SNE, with a little more of the large shape kept. Bad: the same signs.",
}


def maps(sample: Sample, *, seed: int, thumbnails: int) -> Html:
    """One figure a way of laying out, `thumbnails` pictures on each at most."""
    x = sample.x - sample.x.mean(0)
    if len(x) < FEWEST:
        return note(f"No maps: {len(x)} records are too few, {FEWEST} are needed. Give more with --data or --limit.")
    if not (x.std(0) > 1e-6 * (np.abs(sample.x).max() + 1e-12)).any():
        return note("No maps: the features of all records are the same, so the encoder has collapsed. See the curves.")
    flat, kept = _pca(x)
    drawn = {"PCA": (flat[:, :2], HOW["PCA"].format(share(kept)))}
    drawn["t-SNE"] = (_tsne(flat, seed), HOW["t-SNE"])
    if find_spec("umap"):
        drawn["UMAP"] = (_umap(flat, seed), HOW["UMAP"])
    figures = [figure(f"Map by {by}", _draw(by, at, sample, thumbnails), how) for by, (at, how) in drawn.items()]
    missing = None if "UMAP" in drawn else note("For a map by UMAP too: pip install 'tacit[umap]'")
    return join([_class_key(sample), tag("div", *figures, class_="grid-large"), missing])


def _pca(x: np.ndarray) -> tuple[np.ndarray, float]:
    """[N, D] centred -> its 50 leading coordinates, and the share of the variance in the first two."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    flat = u * s
    # The sign of a direction is arbitrary: let the largest value be positive, so that two pages look alike.
    flat *= np.where(flat[np.abs(flat).argmax(0), np.arange(flat.shape[1])] < 0, -1, 1)
    if flat.shape[1] == 1:
        flat = np.concatenate([flat, np.zeros_like(flat)], 1)
    return flat[:, :50], float((s[:2] ** 2).sum() / (s**2).sum())


def _tsne(flat: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(flat) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(flat)


def _umap(flat: np.ndarray, seed: int) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*n_jobs value.*")  # a seed makes it use one core, as it should
        return umap.UMAP(random_state=seed, n_neighbors=min(15, len(flat) - 1)).fit_transform(flat)


def _draw(by: str, at: np.ndarray, sample: Sample, thumbnails: int) -> Html:
    """at: [N, 2]. All records as points, and pictures of those that find room."""
    low, span = at.min(0), np.ptp(at, 0).max() or 1.0
    unit = (at - low + (span - np.ptp(at, 0)) / 2) / span
    spots = MARGIN + unit * (SIDE - 2 * MARGIN)
    groups = np.zeros(len(at), dtype=int) if sample.labels is None else _groups(sample)
    points = [
        tag("path", d="".join(f"M{px:.0f} {py:.0f}h0" for px, py in spots[groups == g]), class_=f"point k{g}")
        for g in np.unique(groups)
    ]
    pictures = [_picture(sample, row, spots[row], groups[row]) for row in _with_room(spots, thumbnails)]
    said = f"Map of {len(at):,} records by {by}; {len(pictures)} of them shown as pictures"
    return tag(
        "svg", tag("title", said), *points, *pictures, viewBox=f"0 0 {SIDE} {SIDE}", role="img", class_="map"
    )  # fmt: skip


def _picture(sample: Sample, row: int, spot: np.ndarray, group: int) -> Html:
    x, y = (round(float(v) - THUMB / 2, 1) for v in spot)
    uri = sample.thumbnails(row, PIXELS)
    frame = tag("rect", x=x, y=y, width=THUMB, height=THUMB, class_=f"frame k{group}")
    return tag("g", tag("title", sample.said(row)), tag("image", href=uri, x=x, y=y, width=THUMB, height=THUMB), frame)


def _with_room(spots: np.ndarray, most: int) -> list[int]:
    """Records in their order, as long as no picture covers another."""
    chosen: list[int] = []
    for row, spot in enumerate(spots):
        if len(chosen) == most:
            break
        if not chosen or np.abs(spots[chosen] - spot).max(1).min() > THUMB + GAP:
            chosen.append(row)
    return chosen


def _groups(sample: Sample) -> np.ndarray:
    """[N] colours: one for each of the most frequent classes, the last for all others together."""
    colour = np.full(len(sample.classes), COLOURS - 1)
    shown = _shown_classes(sample)
    colour[shown] = np.arange(len(shown))
    return colour[sample.labels]


def _shown_classes(sample: Sample) -> np.ndarray:
    """Those with a colour of their own, in the order of their numbers."""
    counts = np.bincount(sample.labels, minlength=len(sample.classes))
    present = np.count_nonzero(counts)
    most = present if present <= COLOURS else COLOURS - 1
    return np.sort(np.argsort(-counts, kind="stable")[:most])


def _class_key(sample: Sample) -> Html | None:
    if sample.labels is None:
        return None
    shown = _shown_classes(sample)
    named = [sample.classes[c] for c in shown]
    if others := len(np.unique(sample.labels)) - len(shown):
        named.append(f"{others} other classes")
    dots = [tag("svg", tag("circle", cx=6, cy=6, r=5, class_=f"dot k{i}"), viewBox="0 0 12 12", width=12, height=12,
                aria_hidden="true") for i in range(len(named))]  # fmt: skip
    items = [tag("li", dot, tag("bdi", name)) for dot, name in zip(dots, named, strict=True)]
    said = tag("p", "Colours are labels, which the training never saw:", class_="quiet")
    return join([said, tag("ul", *items, class_="legend")])
