"""The same picture twice: by its bytes, or by a hash of what it looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tacit.data.picture import Cut, Picture

BITS = 64


def looks(picture: Picture) -> int | None:
    """64 bits: whether each of 8 x 8 cells is brighter than the one to its left (the "difference hash").

    They survive scaling, compression and changes of brightness, not crops or turns. None for a picture without any
    contrast, which is like no other.
    """
    (small,) = picture.crops([Cut(0, 0, picture.height, picture.width, (8, 9))])
    gray = small.astype(np.float32).mean(2)  # [8, 9]
    if float(np.ptp(gray)) < (2 if small.dtype == np.uint8 else 2 / 255):
        return None
    bits = np.packbits(gray[:, 1:] > gray[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


@dataclass
class Near:
    """Hashes seen so far, by parts: two that differ in at most `distance` bits agree in one of `distance` + 1 parts."""

    distance: int
    seen: list[tuple[int, str]] = field(default_factory=list)
    parts: list[dict[int, list[int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = [{} for _ in range(self.distance + 1)]

    def meet(self, looks: int, name: str) -> tuple[str, int] | None:
        """The earliest picture like this one and the bits they differ in; without any, this one is remembered."""
        keys = self._keys(looks)
        candidates = {row for part, key in zip(self.parts, keys, strict=True) for row in part.get(key, ())}
        for row in sorted(candidates):
            if (differing := (self.seen[row][0] ^ looks).bit_count()) <= self.distance:
                return self.seen[row][1], differing
        for part, key in zip(self.parts, keys, strict=True):
            part.setdefault(key, []).append(len(self.seen))
        self.seen.append((looks, name))
        return None

    def _keys(self, looks: int) -> list[int]:
        edges = [BITS * i // len(self.parts) for i in range(len(self.parts) + 1)]
        return [looks >> a & ((1 << (b - a)) - 1) for a, b in pairwise(edges)]
