"""Heads on the sequences of cross-modal transformers: what stood at a position, and what a whole clip is."""

from __future__ import annotations

from torch import Tensor, nn


def position_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, GELU, LayerNorm, Linear: [..., width] -> [..., out]; without the last for `out` 0 (BERT's)."""
    parts = [nn.Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden)]
    return nn.Sequential(*parts, *([nn.Linear(hidden, out)] if out else []))


class ResidualClassifier(nn.Module):
    """A residual block and a Linear: x + Linear(dropout(ReLU(Linear(x)))), [B, width] -> [B, out] (MulT's)."""

    def __init__(self, width: int, out: int, dropout: float = 0.1):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.out = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.block(x))
