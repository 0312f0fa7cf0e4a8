"""What a student misses of a crop, as settings: pixels overwritten, patches replaced or dropped, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from tacit.settings import setting
from tacit.views.corruption import Blocks, Corrupted, corruption_problems
from tacit.views.crop import Crop, View
from tacit.views.masks import Masked, block_problems, random_mask, ratio_problems, sometimes_blocks

HIDING = ("pixels", "tokens", "drop", "none")


@dataclass(frozen=True)
class Hiding:
    """Settings of methods that let the user choose.

    pixels: blocks overwritten as in GMML, which may end inside a patch
    tokens: blocks of patches for a mask token, as in iBOT, of a ninth of the grid and more
    drop:   patches that are left out, as in MSN; others for every record, where MSN's code has one choice a batch
    none:   whole crops
    """

    corrupt: str = setting(
        "pixels", "what the student misses of large crops: pixels, patches for a token or dropped, none", choices=HIDING
    )
    fills: tuple[str, ...] = setting(("zeros",), "what blocks of pixels are overwritten with: noise, zeros, copy")
    share: float = setting(0.5, "most of a view's area that they overwrite", low=0.01, high=0.95)
    donor_share: float = setting(0.3, "the same where another picture overwrites; 0 for never", low=0, high=0.95)
    hidden_from: float = setting(0.5, "share of its pixels from which on a patch is hidden", low=0.01, high=1)
    mask_share: float = setting(0.5, "chance that a large crop has mask tokens at all", low=0.01, high=1)
    mask_ratio: tuple[float, float] = setting((0.1, 0.5), "share of its patches that they replace then", low=0, high=1)
    drop_ratio: float = setting(0.15, "share of patches that is dropped", low=0, high=1)


def hide(s: Hiding, crop: Crop, cell: int) -> View:
    """The crop with what hides a part of it, for patches of `cell` pixels."""
    if s.corrupt == "pixels":
        return Corrupted(crop, Blocks(), s.fills, s.share, s.donor_share)
    if s.corrupt == "tokens":
        block = _smallest(crop.inputs.size // cell)
        return Masked(crop, partial(sometimes_blocks, share=s.mask_share, ratio=s.mask_ratio, smallest=block), cell)
    return Masked(crop, partial(random_mask, ratio=s.drop_ratio), cell) if s.corrupt == "drop" else crop


def hiding_problems(s: Hiding, size: int, cell: int) -> list[str]:
    """Why crops of `size` pixels cannot be hidden so, by the names of the settings; empty when they can."""
    grid = size // cell
    if s.corrupt == "pixels":
        return corruption_problems(Blocks(), s.fills, s.share, s.donor_share, size)
    if s.corrupt == "tokens":
        return block_problems(grid, s.mask_ratio, _smallest(grid))
    return ratio_problems(s.drop_ratio, grid * grid, "drop_ratio") if s.corrupt == "drop" else []


def patches_of(mask: Tensor, cell: int, least: float) -> Tensor:
    """Which patches count as hidden: bool [B, h, w]. A mask of patches is that already; of one of pixels [B, 1, H, W]
    those of which a share of `least` or more is hidden."""
    return mask if mask.ndim == 3 else F.avg_pool2d(mask.float(), cell)[:, 0] >= least - 1e-6


def _smallest(grid: int) -> int:
    return max((grid // 3) ** 2, 1)
