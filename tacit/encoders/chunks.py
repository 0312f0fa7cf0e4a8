"""Attention with biases of relative positions: everywhere, or within chunks of the map and to those around them.

Vision Longformer (ViL: Zhang et al. 2021, arXiv 2103.15358, sections 3.2 and 3.3), with a global token or without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from tacit.errors import BadSettings

NEIGHBOURS = ("all", "one", "none")  # modes 0, 1 and -1 of the official code
AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


class Attention(nn.Module):
    """Attention of [B, N, D] with biases: the tokens of a map row by row, the global token, if any, before them.

    `reach`: side of the square map whose differences of places have a bias each; maps of other shapes have them
    interpolated, as differences, or, with `by_pairs`, as pairs (see `encoders.any_size`).
    """

    by_pairs = False

    def __init__(self, dim: int, heads: int, reach: int, with_global: bool):
        super().__init__()
        self.heads, self.reach = heads, reach
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * reach - 1) ** 2, heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.global_relative_position_bias_table = None
        if with_global:  # of what the global token asks of the others, they of it, and it of itself
            self.global_relative_position_bias_table = nn.Parameter(trunc_normal_(torch.empty(3, heads), std=0.02))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, D / heads]
        return self.proj(self.attend(q, k, v, grid).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        bias = self.on_map(grid)
        if self.global_relative_position_bias_table is not None:
            beside = self.global_relative_position_bias_table[1][:, None, None].expand(-1, bias.shape[1], 1)
            bias = torch.cat([self.of_global(bias.shape[1]), torch.cat([beside, bias], 2)], 1)
        return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))

    def of_global(self, count: int) -> Tensor:
        """[heads, 1, 1 + count]: the biases of the global token to itself and to a map of `count` tokens."""
        to_map, _, own = self.global_relative_position_bias_table[:, :, None, None]
        return torch.cat([own, to_map.expand(-1, 1, count)], 2)

    def on_map(self, grid: tuple[int, int]) -> Tensor:
        """[heads, N, N]: the biases of the tokens of a map to each other."""
        table = self.relative_position_bias_table.T.unflatten(1, (2 * self.reach - 1, -1))
        own = (self.reach, self.reach)
        if grid != own and not self.by_pairs:
            table = F.interpolate(table[None], tuple(2 * n - 1 for n in grid), mode="bicubic")[0]
            own = grid
        bias = between(table, cells(*own, table), cells(*own, table))
        if grid != own:
            bias = F.interpolate(bias[None], (grid[0] * grid[1],) * 2, mode="bicubic")[0]
        return bias


class ChunkAttention(Attention):
    """The same with the global token, but a token of the map meets only its chunk, chunks around it, and that one.

    `neighbours`: "all" of the eight around, "none", or "one", drawn at random whenever the module runs in train mode,
    for all of the batch alike; in eval mode that is all. What is beyond the map is not attended.
    """

    def __init__(self, dim: int, heads: int, window: int, neighbours: str):
        super().__init__(dim, heads, 2 * window, with_global=True)
        if neighbours not in NEIGHBOURS:
            raise BadSettings([f"neighbours = {neighbours}: must be one of {', '.join(NEIGHBOURS)}."])
        self.window, self.neighbours = window, neighbours

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        around = [] if self.neighbours == "none" else AROUND
        if self.neighbours == "one" and self.training:
            around = [AROUND[int(torch.randint(len(AROUND), ()))]]
        bias = self.of_global(k.shape[2] - 1).to(q.dtype)
        of_global = F.scaled_dot_product_attention(q[:, :, :1], k, v, bias)
        return torch.cat([of_global, self.in_chunks(q[:, :, 1:], k, v, grid, around)], 2)

    def in_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], around: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The tokens q [B, heads, N, d] among k and v [B, heads, 1 + N, d], where `around` are the chunks they meet."""
        w, (rows, columns) = self.window, (-(-n // self.window) for n in grid)
        chunks = [(0, 0)] + [(y, x) for y, x in around if abs(y) < rows and abs(x) < columns]  # others hold nothing

        def cut(x: Tensor) -> Tensor:  # [B, heads, N, d] -> [B, heads, rows, columns, w w, d]
            x = F.pad(x.unflatten(2, grid), (0, 0, 0, -grid[1] % w, 0, -grid[0] % w))
            return x.unflatten(3, (-1, w)).unflatten(2, (-1, w)).transpose(3, 4).flatten(4, 5)

        def met(x: Tensor) -> Tensor:  # the same with the tokens of all that a chunk meets
            x = F.pad(cut(x), (0, 0, 0, 0, 1, 1, 1, 1))
            return torch.cat([x[:, :, 1 + y : 1 + y + rows, 1 + x_ : 1 + x_ + columns] for y, x_ in chunks], 4)

        q = cut(q)
        k, v = (torch.cat([t[:, :, None, None, :1].expand(*q.shape[:4], 1, -1), met(t[:, :, 1:])], 4) for t in (k, v))
        table = self.relative_position_bias_table.T.unflatten(1, (4 * w - 1, -1))
        own = cells(w, w, table)
        bias = between(table, own, torch.cat([own + own.new_tensor(chunk)[:, None] * w for chunk in chunks], 1))
        bias = torch.cat([self.global_relative_position_bias_table[1][:, None, None].expand(-1, w * w, 1), bias], 2)
        real = F.pad(met(q.new_ones(1, 1, grid[0] * grid[1], 1))[0, ..., 0], (1, 0), value=1.0)[:, :, :, None] > 0
        bias = bias[:, None, None].masked_fill(~real, -torch.inf)  # [heads, rows, columns, w w, 1 + tokens met]
        q, k, v = (t.flatten(1, 3) for t in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, bias.flatten(0, 2).to(q.dtype))
        x = x.unflatten(1, (self.heads, rows, columns)).unflatten(4, (w, w)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return x[:, :, : grid[0], : grid[1]].flatten(2, 3)


def cells(height: int, width: int, like: Tensor) -> Tensor:
    """[2, height width]: row and column of each cell, row by row."""
    rows, columns = (torch.arange(n, device=like.device) for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)


def between(table: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """[heads, rows, columns] by differences of rows and of columns, and cells [2, Q], [2, K] -> [heads, Q, K]"""
    rows, columns = q[:, :, None] - k[:, None]
    return table[:, rows + table.shape[1] // 2, columns + table.shape[2] // 2]
