"""Light decoders from tokens to pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from tacit.errors import UsageError


class PixelDecoder(nn.Module):
    """Patch tokens to an image, each by itself (GMML and SiT, official `RECHead`): [B, N, width] -> [B, C, h p, w p].

    [Linear, GELU] of the tokens' own width, `layers` times, then a transposed convolution with kernel and stride p, so
    that every token draws its own patch. The Linears start from a truncated normal of .02 and biases of zero, the
    convolution as torch starts it, as in the official code. Tokens lie row by row, in a square unless `rows` says how
    many rows they form.

    Args:
        width: of the tokens. channels: of the image. patch: pixels of a patch's side, p.
        layers: Linears before the convolution. widths: of their outputs, in the place of so many of the tokens' own
            (ASiT). rows: of tokens, of pictures that are no squares.
    """

    def __init__(self, width: int, channels: int, patch: int, layers: int = 3, rows: int | None = None,
                 widths: Sequence[int] | None = None):  # fmt: skip
        super().__init__()
        sizes = [width, *([width] * layers if widths is None else widths)]
        self.rows = rows
        self.mlp = nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.GELU())))
        for part in self.mlp[::2]:
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        self.pixels = nn.ConvTranspose2d(sizes[-1], channels, patch, stride=patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """Raises UsageError for a number of tokens that is no square, or that does not fill the rows."""
        if self.rows is not None:
            if tokens.shape[1] % self.rows:
                raise UsageError(f"{tokens.shape[1]} tokens do not fill {self.rows} rows.")
            return self.pixels(self.mlp(tokens).transpose(1, 2).unflatten(2, (self.rows, -1)))
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise UsageError(f"{tokens.shape[1]} tokens form no square: decode the patches of square images alone.")
        return self.pixels(self.mlp(tokens).transpose(1, 2).unflatten(2, (side, side)))
