"""Projectors and predictors."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tacit.errors import UsageError

LAST_NORMS = ("none", "bn", "bn_plain", "bn_no_shift")


def mlp(
    width: int,
    hidden: int,
    out: int,
    layers: int,
    *,
    bias: bool = True,
    norm: bool = True,
    last_norm: str = "none",
    activation: Callable[[], nn.Module] = nn.ReLU,
    last_bias: bool | None = None,
) -> nn.Sequential:
    """[Linear, BatchNorm, activation] x (layers - 1), then a Linear and perhaps a norm: [B, width] -> [B, out].

    One layer is a single Linear (and its norm), none the identity (then the output keeps `width`). By default the MLP
    of MoBY (official `MoBYMLP`). `SyncBatchNorm` takes the place of the BatchNorm when the engine distributes the run.

    | of            | differs in                                                   |
    |---------------|--------------------------------------------------------------|
    | MoCo v2       | norm=False                                                   |
    | BYOL, VICReg  | last_bias=False                                              |
    | MoCo v3       | bias=False, last_norm="bn_plain" (predictor of ResNet: none) |
    | SimCLR v2     | bias=False, last_norm="bn_no_shift", hidden=width            |
    | DINO          | norm=False, activation=nn.GELU                               |

    Args:
        bias: whether the Linears have one.
        norm: whether a BatchNorm follows every hidden Linear.
        last_norm: what follows the last Linear: "none", "bn", "bn_plain" (neither scale nor shift) or "bn_no_shift".
        activation: builds what follows every hidden layer.
        last_bias: whether the last Linear has a bias; nothing for the same as `bias`.

    Raises:
        UsageError: `last_norm` is none of these.
    """
    if last_norm not in LAST_NORMS:
        raise UsageError(f"last_norm = {last_norm!r}: choose one of {', '.join(LAST_NORMS)}.")
    parts: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        after = out if last else hidden
        parts.append(nn.Linear(width, after, bias=bias if last_bias is None or not last else last_bias))
        if last:
            parts += [] if last_norm == "none" else [_last_norm(after, last_norm)]
        else:
            parts += [nn.BatchNorm1d(after)] if norm else []
            parts.append(nn.ReLU(inplace=True) if activation is nn.ReLU else activation())
        width = after
    return nn.Sequential(*parts)


def _last_norm(width: int, kind: str) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(width, affine=kind != "bn_plain")
    if kind == "bn_no_shift":
        norm.register_parameter("bias", None)
    return norm
