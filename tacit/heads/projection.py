"""The heads of SiT's published versions, for contrast and for rotation (Atito et al., official code)."""

from __future__ import annotations

from torch import nn

from tacit.errors import UsageError
from tacit.heads.mlp import mlp

PROJECTIONS = ("bn", "mlp", "linear")


def projection(kind: str, width: int, hidden: int, out: int) -> nn.Sequential:
    """[B, width] -> [B, out]; Linears start from a truncated normal of .02 and biases of zero.

    Args:
        kind: "linear" for one Linear (2021); "mlp" for three without bias, GELU between (June 2022); "bn" for three,
            each with a BatchNorm, the last one plain, ReLU after the first and GELU after the second (December 2022).

    Raises:
        UsageError: another kind.
    """
    if kind not in PROJECTIONS:
        raise UsageError(f"kind = {kind!r}: choose one of {', '.join(PROJECTIONS)}.")
    if kind == "linear":
        head = mlp(width, hidden, out, 1)
    elif kind == "mlp":
        head = mlp(width, hidden, out, 3, bias=False, norm=False, activation=nn.GELU)
    else:
        first = mlp(width, hidden, hidden, 2, last_norm="bn")
        head = nn.Sequential(*first, nn.GELU(), *mlp(hidden, hidden, out, 1, last_norm="bn_plain"))
    for part in head:
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return head
