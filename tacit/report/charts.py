"""Line charts as inline SVG. They take the page's colours, so they follow light and dark."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tacit.report.markup import Html, tag
from tacit.report.numbers import short

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
COLOURS = 10  # --c0 to --c9 of the page
DASHES = (None, "6 3", "2 3", "8 3 2 3")
MOST_POINTS = 300  # of a curve; longer ones are averaged


class Series(NamedTuple):
    """One line: x and y [n] in the order of x. Values that are no numbers leave a gap."""

    label: str
    x: np.ndarray
    y: np.ndarray


def line_chart(series: list[Series], *, title: str, x_label: str, y_label: str, log: bool = False) -> Html:
    """Axes, ticks and one line a series; `log` gives a logarithmic y axis, and leaves values up to 0 out."""
    drawn = [_thinned(s if not log else s._replace(y=_positive(s.y))) for s in series]
    xs, ys = (np.concatenate([getattr(s, axis) for s in drawn]) for axis in "xy")
    ys = ys[np.isfinite(ys)]
    if not len(ys):
        return tag("p", "No value is a number.", class_="note")
    x_scale = _Scale(xs.min(), xs.max(), LEFT, WIDTH - RIGHT)
    y_scale = _Scale(ys.min(), ys.max(), HEIGHT - BOTTOM, TOP, log)
    said = "; ".join(f"{s.label}: {_summary(s)}" for s in series)
    return tag(
        "svg",
        tag("title", f"{title}, {said}"),
        *_axes(x_scale, y_scale, x_label, y_label + (", log scale" if log else "")),
        *(part for i, s in enumerate(drawn) for part in _line(s, i, x_scale, y_scale)),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def legend(labels: list[str]) -> Html:
    """Which line is whose: colour and dashes, as `line_chart` gives them by position."""
    return tag("ul", *(tag("li", _swatch(i), tag("bdi", label)) for i, label in enumerate(labels)), class_="legend")


def _swatch(i: int) -> Html:
    stroke = tag("path", d="M0 6H28", class_=f"line k{i % COLOURS}", stroke_dasharray=_dash(i))
    return tag("svg", stroke, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")


def _dash(i: int) -> str | None:
    return DASHES[i % len(DASHES)]


class _Scale:
    """Data to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        self.log, self.start, self.end = log, start, end
        low, high = (math.log10(low), math.log10(high)) if log else (float(low), float(high))
        if high - low < 1e-9 * max(abs(high), 1e-30) or high == low:
            margin = abs(high) * 0.1 or 0.5
            low, high = low - margin, high + margin
        self.low, self.high = low, high

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        value = np.log10(value) if self.log else np.asarray(value, dtype=float)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.log:
            return _round_ticks(self.low, self.high)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        step = max(1, len(decades) // 5)
        within = [m * 10.0**d for d in decades[::step] for m in ((1, 2, 5) if len(decades) <= 3 else (1,))]
        return [t for t in within if self.low - 1e-9 <= math.log10(t) <= self.high + 1e-9]

    def label(self, tick: float) -> str:
        """With as many decimals as tell neighbouring ticks apart."""
        if self.log or not 1e-3 <= max(abs(self.low), abs(self.high)) < 1e4:
            return short(tick)
        step = (self.high - self.low) / 4
        return (
            f"{tick:,.{max(0, 1 - math.floor(math.log10(step)))}f}".rstrip("0").rstrip(".")
            if step < 10
            else f"{tick:,.0f}"
        )


def _round_ticks(low: float, high: float, about: int = 4) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str) -> list[Html]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y.ticks():
        at = round(float(y(tick)), 1)
        parts.append(tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", y.label(tick), x=LEFT - 6, y=at + 4, text_anchor="end"))
    for tick in x.ticks():
        at = round(float(x(tick)), 1)
        parts.append(tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", x.label(tick), x=at, y=bottom + 16, text_anchor="middle"))
    middle = (TOP + bottom) / 2
    parts.append(tag("path", d=f"M{LEFT} {TOP}V{bottom}H{right}", class_="axis"))
    parts.append(tag("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle", class_="label"))
    turned = f"rotate(-90 11 {middle})"
    parts.append(tag("text", y_label, x=11, y=middle, text_anchor="middle", transform=turned, class_="label"))
    return parts


def _line(s: Series, i: int, x: _Scale, y: _Scale) -> list[Html]:
    """A path through each stretch of numbers, and a dot for a number that stands alone."""
    parts, colour = [], f"k{i % COLOURS}"
    for start, end in _stretches(np.isfinite(s.y)):
        across, down = x(s.x[start:end]), y(s.y[start:end])
        if end - start == 1:
            parts.append(tag("circle", cx=f"{across[0]:.1f}", cy=f"{down[0]:.1f}", r=3, class_=f"dot {colour}"))
        else:
            path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in zip(across, down, strict=True))
            parts.append(tag("path", d=path, class_=f"line {colour}", stroke_dasharray=_dash(i)))
    return parts


def _stretches(there: np.ndarray) -> list[tuple[int, int]]:
    """[n] bool -> (start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _positive(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, y, np.nan)


def _thinned(s: Series) -> Series:
    """Means of neighbouring points, at most `MOST_POINTS`; one that is no number makes its mean none either."""
    if len(s.x) <= MOST_POINTS:
        return s
    pieces = np.array_split(np.arange(len(s.x)), MOST_POINTS)
    return Series(s.label, np.array([s.x[p].mean() for p in pieces]), np.array([s.y[p].mean() for p in pieces]))


def _summary(s: Series) -> str:
    finite = s.y[np.isfinite(s.y)]
    if not len(s.y):
        return "not logged"
    if not len(finite):
        return "no value is a number"
    ends = f"{short(s.y[0])} at first, {short(s.y[-1])} at last"
    return f"{ends}, from {short(finite.min())} to {short(finite.max())}"
