"""Alien pixels: groups of connected pixels overwritten by noise, nothing, or another place or picture (GMML, SiT; of
spectrograms also whole frames and bands, ASiT).

A network that is to give the pixels back is shown all of a picture, some of it wrong. No patch is left out here and
none is replaced by a token; what is wrong is drawn in pixels, and may end inside a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.views import photometry
from tacit.views.crop import Around

FILLS = ("noise", "zeros", "copy", "time", "freq")
Place = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Blocks:
    """The block sampler of GMML (Atito et al. 2023, official code): rectangles until they cover enough together.

    align:   tops, lefts and sides are multiples of so many pixels; the patch size for whole patches
    largest: a side is shorter than this share of the picture's
    unbiased: a block may hang out on any side of the picture, so that every pixel is covered equally often. As
             published, blocks begin inside and grow to the right and down, and the top left is almost never covered.
    """

    align: int = 1
    largest: float = 0.3
    unbiased: bool = False

    def cover(
        self, rng: np.random.Generator, height: int, width: int, most: float, whole: str = ""
    ) -> tuple[np.ndarray, list[Place]]:
        """What blocks cover, [height, width] bool, and the blocks in the order drawn.

        They are drawn until their union reaches a share of the area drawn from [min(.5, most), most]. `whole`: "time"
        for blocks that, once drawn, take in their rows from end to end, "freq" for their columns.
        """
        target = rng.uniform(min(0.5, most), most) * height * width
        mask, places, covered = np.zeros((height, width), dtype=bool), [], 0
        while covered < target:
            top, left, h, w = self._place(rng, height, width)
            if whole == "time":
                left, w = 0, width
            elif whole == "freq":
                top, h = 0, height
            part = mask[top : top + h, left : left + w]
            covered += part.size - np.count_nonzero(part)
            part[:] = True
            places.append((top, left, h, w))
        return mask, places

    def _place(self, rng: np.random.Generator, height: int, width: int) -> Place:
        axes = (height, width)
        if not self.unbiased:
            first = [int(rng.integers(n - self.align)) // self.align * self.align for n in axes]
            sides = [self._rounded(min(self._drawn(rng, n), n - f)) for n, f in zip(axes, first, strict=True)]
            return (*first, *sides)
        sides = [max(self._rounded(self._drawn(rng, n)), self.align) for n in axes]
        first = [
            int(rng.integers(1 - side // self.align, n // self.align)) * self.align
            for n, side in zip(axes, sides, strict=True)
        ]
        ends = [min(f + side, n) for n, f, side in zip(axes, first, sides, strict=True)]
        top, left = (max(f, 0) for f in first)
        return top, left, ends[0] - top, ends[1] - left

    def _drawn(self, rng: np.random.Generator, length: int) -> int:
        return int(rng.integers(self.align, int(length * self.largest)))

    def _rounded(self, side: int) -> int:
        return round(side / self.align) * self.align  # halves to the even, so that a block may vanish

    def reach(self, height: int, width: int | None = None) -> float:
        """The share of a picture of these sides, or of a square, that blocks can cover at all."""
        if self.unbiased:
            return 1.0
        share = 1.0
        for length in (height, width or height):
            last = (length - self.align - 1) // self.align * self.align
            longest = max(map(self._rounded, range(self.align, int(length * self.largest))))
            share *= min(last + longest, length) / length
        return share

    def problems(self, size: int | tuple[int, int], *shares: float) -> list[str]:
        """Why blocks cannot cover such shares of pictures of size x size pixels, or of (height, width); or empty."""
        sides = (size, size) if isinstance(size, int) else size
        for side in sides:
            if side % self.align:
                return [f"align = {self.align}: must divide the side of the inputs; {side} % {self.align} > 0."]
        for side in sides:
            longest = int(side * self.largest)
            if longest <= self.align:
                return [
                    f"max_block = {self.largest}: blocks must be at least align = {self.align} and less than "
                    f"{longest} of {side} pixels, and there are none. Set max_block above {(self.align + 1) / side:.2f}"
                    ", a smaller align or larger inputs."
                ]
        longest = " x ".join(str(int(side * self.largest) - 1) for side in dict.fromkeys(sides))
        return [
            f"a share of {share}: blocks of at most {longest} pixels reach {self.reach(*sides):.3f} of {sides[0]} x "
            f"{sides[1]} pixels. Set a larger max_block, a smaller align or unbiased=true."
            for share in shares
            if share > self.reach(*sides)
        ]


@dataclass(frozen=True)
class Corrupted(Around):
    """A crop in which blocks are overwritten: `{"image", "clean": [B, C, H, W], "mask": [B, 1, H, W] bool}`.

    All that is random is the record's, drawn after the crop: the crop is what it would be without. One kind of alien a
    record, each of `fills` and the donor equally likely:

    noise:   a normal for each pixel and channel, in the space of prepared inputs, standard unless `normal` says another
             mean and deviation; it follows from two numbers of the record, on any device
    zeros:   the mean colour of prepared inputs
    copy:    each block from another place of the picture, as the blocks before have left it
    time:    zeros, from end to end of the rows of each block: of a spectrogram, whole frames (ASiT)
    freq:    the same of its columns: whole bands
    donor:   from the same place of another record's clean crop. Which row of the batch is a number in [0, 1) of the
             record; it may be its own, and is then masked and unchanged

    share:   most of the area that is overwritten (see `Blocks.cover`); donor_share: the same from a donor, 0 for none
    normal:  mean and deviation of noise
    grey:    noise is the same in all channels, for pictures that are
    apart:   donors are of another group of records (another exam) where the batch holds one; the number [B] of each
             record's group is then in `group`

    Raises:
        UsageError: shares that the blocks cannot cover, or nothing to overwrite with.
    """

    blocks: Blocks = Blocks()
    fills: tuple[str, ...] = ("noise",)
    share: float = 0.75
    donor_share: float = 0.3
    grey: bool = False
    apart: bool = False
    normal: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if wrong := corruption_problems(self.blocks, self.fills, self.share, self.donor_share, self.inputs.shape):
            raise UsageError(" ".join(wrong))  # it might draw blocks for ever

    @property
    def grouped(self) -> bool:
        return self.apart

    @property
    def of(self) -> int:
        """The view by whose numbers the crop draws; no such attribute where that is this one."""
        return self.crop.of

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*self.fills, *(["donor"] if self.donor_share else []))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        params = self.crop.draw(rng, height, width)
        kind = int(rng.integers(len(self.kinds)))
        name, shape = self.kinds[kind], self.inputs.shape
        share = self.donor_share if name == "donor" else self.share
        mask, places = self.blocks.cover(rng, *shape, share, whole=name)
        own = {"mask": mask, "kind": kind, "donor": rng.random(), "seed": rng.integers(2**32, size=2)}
        if "copy" in self.fills:
            own["source"] = copied_from(rng, shape, places if name == "copy" else [], self.blocks.align)
        return params | own

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.crop.finish(images, params)
        clean, mask = found["image"], params["mask"][:, None]
        aliens = torch.zeros_like(clean)
        group = params.get("group", torch.arange(len(clean), device=clean.device)) if self.apart else None
        for number, kind in enumerate(self.kinds):
            rows = (params["kind"] == number).nonzero().flatten()
            if kind == "noise":
                drawn = clean[0, :1] if self.grey else clean[0]
                noise = gaussian(params["seed"][rows], drawn.numel()).view(-1, *drawn.shape)
                if self.normal != (0.0, 1.0):
                    noise = noise.mul_(self.normal[1]).add_(self.normal[0])
                aliens[rows] = noise.expand_as(clean[rows])
            elif kind == "donor":
                aliens[rows] = clean[row_of(params["donor"][rows], len(clean), rows, group)]
            elif kind == "copy":
                source = params["source"][rows].flatten(1)[:, None].expand(-1, clean.shape[1], -1).long()
                aliens[rows] = clean[rows].flatten(2).gather(2, source).view(-1, *clean.shape[1:])
        told = {} if group is None else {"group": group}
        return found | {"image": torch.where(mask, aliens, clean), "clean": clean, "mask": mask} | told


@dataclass(frozen=True)
class Spoiled(Around):
    """The older corruption of SiT (Atito et al. 2021, v1), all of it on every record: fields as `Corrupted` gives them.

    One rectangle turned grey and one blurred, with sides of .05 of the picture's and more, both cut at the border; then
    rectangles of noise until their areas, overlaps counted twice, reach a share drawn from [0, `share`], with sides of
    .05 to .25; then as many of a donor, unless that is the record itself. Records follow one another: a donor of a
    lower row is a spoiled one. The blur repeats the rectangle's edges, where the official one mirrors them.
    """

    share: float = 0.3

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, Any]:
        params = self.crop.draw(rng, height, width)
        size = self.inputs.size
        own = {
            "faded": np.array(self._place(rng, size)),
            "smooth": np.array(self._place(rng, size)),
            "reach": int(rng.integers(3, 16)) // 2,
            "sigma": 0.1 + 5 * rng.random(),
            "noisy": self._rectangles(rng, size),
            "pasted": self._rectangles(rng, size),
            "donor": rng.random(),
            "seed": rng.integers(2**32, size=2),
        }
        return params | own

    @staticmethod
    def _place(rng: np.random.Generator, size: int, longest: int | None = None) -> Place:
        least = max(int(0.05 * size), 1)
        top, left = (int(n) for n in rng.integers(size - least, size=2))
        h, w = (int(n) for n in rng.integers(least, longest or size, size=2))
        return top, left, min(h, size - top), min(w, size - left)

    def _rectangles(self, rng: np.random.Generator, size: int) -> np.ndarray:
        target, total, mask = rng.uniform(0, self.share) * size * size, 0, np.zeros((size, size), dtype=bool)
        while total < target:
            top, left, h, w = self._place(rng, size, max(int(0.25 * size), 2))
            mask[top : top + h, left : left + w] = True
            total += h * w
        return mask

    @torch.no_grad()
    def finish(self, images: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.crop.finish(images, params)
        clean = found["image"]
        x, mask = clean.clone(), (params["noisy"] | params["pasted"])[:, None]
        noise = gaussian(params["seed"], clean[0].numel()).view_as(clean)
        donors = row_of(params["donor"], len(clean)).tolist()
        grey, smooth, reach = params["faded"].tolist(), params["smooth"].tolist(), params["reach"].tolist()
        for i, donor in enumerate(donors):
            for top, left, h, w in (grey[i], smooth[i]):
                mask[i, :, top : top + h, left : left + w] = True
            top, left, h, w = grey[i]
            part = x[i, :, top : top + h, left : left + w]
            part.copy_(part.mean(0, keepdim=True).expand_as(part))
            top, left, h, w = smooth[i]
            part = x[i : i + 1, :, top : top + h, left : left + w]
            part.copy_(photometry.gaussian_blur(part, params["sigma"][i : i + 1], reach[i]))
            x[i] = torch.where(params["noisy"][i], noise[i], x[i])
            x[i] = torch.where(params["pasted"][i], x[donor], x[i])
        return found | {"image": x, "clean": clean, "mask": mask}


def corruption_problems(
    blocks: Blocks, fills: tuple[str, ...], share: float, donor_share: float, *sizes: int | tuple[int, int]
) -> list[str]:
    """Why crops of `sizes` pixels, or (height, width), cannot be `Corrupted` so, by the names of the settings; or
    empty."""
    found = [f"fills = {fill}: choose among {', '.join(FILLS)}." for fill in fills if fill not in FILLS]
    if not fills and not donor_share:
        found.append("fills = none and donor_share = 0: nothing would be overwritten. Set fills=noise.")
    shares = ([share] if fills else []) + [donor_share]
    return found + [said for size in sizes for said in blocks.problems(size, *shares)]


def copied_from(rng: np.random.Generator, size: int | tuple[int, int], places: list[Place], align: int) -> np.ndarray:
    """Where each pixel's value was at first, [size, size] or [height, width] of row * width + column, once every block
    of `places` is in turn overwritten by a block drawn elsewhere."""
    height, width = (size, size) if isinstance(size, int) else size
    source = np.arange(height * width, dtype=np.int32).reshape(height, width)
    for top, left, h, w in places:
        y, x = (int(rng.integers(n - side)) // align * align for n, side in ((height, h), (width, w)))
        source[top : top + h, left : left + w] = source[y : y + h, x : x + w].copy()
    return source


def row_of(share: Tensor, rows: int, own: Tensor | None = None, group: Tensor | None = None) -> Tensor:
    """Which of `rows` rows numbers [R] in [0, 1) pick, each equally likely.

    With the groups [rows] of all and the picking rows' `own` numbers [R]: among those of another group, if any is.
    """
    if group is None:
        return (share * rows).long().clamp_max(rows - 1)
    free = group[own, None] != group  # [R, rows]
    free |= ~free.any(1, keepdim=True)
    count = free.sum(1)
    place = (share * count).long().clamp_max(count - 1)
    return (free.cumsum(1) <= place[:, None]).sum(1)


def gaussian(seed: Tensor, count: int) -> Tensor:
    """Standard normals that follow from seeds alone: [B, 2] of whole numbers below 2^32 -> float32 [B, count].

    A counter is mixed with each of the two in turn (an invertible hash of 32 bits); 23 bits of the outcome are a
    uniform number, and that a normal one by the inverse of its distribution. Values end at 5.2 deviations.
    """
    bits = _mix(_mix(torch.arange(count, device=seed.device) ^ seed[:, :1]) ^ seed[:, 1:])
    uniform = ((bits >> 9).float() * 2 + (1 - 2**23)) / 2**23  # odd multiples of 2^-23 in (-1, 1), exact
    return uniform.erfinv_().mul_(math.sqrt(2))


def _mix(x: Tensor) -> Tensor:
    """Whole numbers below 2^32, each to another: shifts and odd factors that no product with overflows 63 bits."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)
