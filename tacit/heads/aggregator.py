"""Embeddings of one thing in their order (the slices of an exam) as one answer: a transformer, a mean, a maximum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 64  # of places in an exam, from its first slice to its last


class Aggregator(nn.Module):
    """Embeddings [B, S, D], of which `valid` [B, S] are there -> logits [B] and what they are read from [B, width].

    depth 1 and more: a Linear, a learned table of places and a class token of the exam's own, so many pre-norm
    transformer layers, a LayerNorm, and a Linear from the class token (SB-SSL; widths are this library's choice).
    depth 0, pool "mean": the mean over slices of a Linear's logits. depth 0, pool "max": a Linear of each feature's
    maximum over slices (MRNet, Bien et al. 2018). Places are counted from 0 at the first slice to 1 at the last; how
    many slices there are is not told.

    Raises:
        ValueError: a width that the heads do not divide, or another pool.
    """

    def __init__(
        self, inputs: int, *, depth: int = 2, width: int = 384, heads: int = 6, ratio: int = 4, dropout: float = 0.0,
        positions: bool = True, pool: str = "mean",
    ):  # fmt: skip
        super().__init__()
        if pool not in ("mean", "max") or width % heads:
            raise ValueError(f"pool {pool!r} must be mean or max, and width {width} a multiple of heads {heads}.")
        self.depth, self.pool = depth, pool
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        if depth:
            self.project = nn.Linear(inputs, width)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width).normal_(std=0.02))
            self.pos_embed = nn.Parameter(torch.zeros(BINS, width).normal_(std=0.02)) if positions else None
            layer = nn.TransformerEncoderLayer(
                width, heads, ratio * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width if depth else inputs, 1)

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Take the mean and deviation of embeddings [N, D] as those that all are centred and scaled by, for good."""
        self.centre.copy_(x.mean(0))
        self.scale.copy_(x.std(0).clamp_min(1e-6))

    def forward(self, x: Tensor, valid: Tensor, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """place: [B, S] in [0, 1]; by default that of the valid slices, in their order."""
        x = (x - self.centre) / self.scale
        if not self.depth:
            if self.pool == "max":
                pooled = x.masked_fill(~valid[:, :, None], -torch.inf).amax(1)
            else:  # of a Linear, the mean of logits is the logit of the mean
                pooled = (x * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True)
            return self.head(pooled)[:, 0], pooled
        h = self.project(x)
        if self.pos_embed is not None:
            h = h + self.pos_embed[bins(places(valid) if place is None else place)]
        h = torch.cat([self.cls_token.expand(len(h), -1, -1), h], dim=1)
        padding = torch.cat([torch.zeros_like(valid[:, :1]), ~valid], dim=1)
        token = self.layers(h, src_key_padding_mask=padding)[:, 0]
        return self.head(token)[:, 0], token


def places(valid: Tensor) -> Tensor:
    """Of the n valid of each row, in their order, 0, 1 / (n - 1), …, 1: [B, S] bool -> [B, S]."""
    order, last = valid.cumsum(1) - 1, valid.sum(1, keepdim=True) - 1
    return (order / last.clamp_min(1)).clamp(0, 1)


def bins(place: Tensor) -> Tensor:
    """Which of `BINS` equal parts of [0, 1] places lie in."""
    return (place * BINS).long().clamp(0, BINS - 1)


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """B x [S_b, D] -> [B, S, D] with zeros behind, and which are there [B, S]."""
    x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    counts = torch.tensor([len(row) for row in rows], device=x.device)
    return x, torch.arange(x.shape[1], device=x.device) < counts[:, None]
