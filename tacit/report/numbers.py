"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LONG = 40  # values of a list, of which more are not all told


def short(value: float) -> str:
    """Four digits at most: 0.0312, 12.5, 1,250, 48k, 3M, 2e-05."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    size = abs(value)
    for limit, mark in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[mark]:.3g}{mark}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def duration(seconds: float) -> str:
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


def brief(values: Sequence) -> str:
    """Values with commas between; of a vocabulary or another long list the first ten, and how many there are."""
    if len(values) <= LONG:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:10]))}, … ({len(values):,} in all)"


def flat(values: Any, prefix: str = "", whole: bool = False) -> list[tuple[str, str]]:
    """Nested settings as rows: `{"a": {"b": [1, 2]}}` -> `[("a.b", "1, 2")]`; long lists are cut, unless `whole`."""
    if isinstance(values, dict) and values:
        return [row for k, value in values.items() for row in flat(value, f"{prefix}.{k}" if prefix else str(k), whole)]
    if isinstance(values, list):
        shown = (", ".join(map(str, values)) if whole else brief(values)) or "none"
    else:
        shown = "none" if values in (None, {}) else str(values)
    return [(prefix, shown)]
