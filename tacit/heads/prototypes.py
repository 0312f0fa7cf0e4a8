"""Heads that compare an embedding with learned prototypes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import UsageError
from tacit.heads.mlp import mlp


class WeightNormLinear(nn.Module):
    """A Linear without bias whose rows are `weight_g * weight_v / ||weight_v||`: [..., width] -> [..., out].

    Gain [out, 1] and direction [out, width] are plain parameters of these names, so averaging parameters, the groups of
    the optimiser and official checkpoints meet them as they are. The gain starts at 1.
    """

    def __init__(self, width: int, out: int, *, fixed_gain: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out, 1), requires_grad=not fixed_gain)
        self.weight_v = nn.Parameter(torch.empty(out, width).uniform_(-1, 1) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class PrototypeHead(nn.Module):
    """The head of DINO and EsViT (Caron et al. 2021, appendix C): [..., width] -> [..., prototypes].

    An MLP with GELU down to a bottleneck of unit length, then cosines to the prototypes: `last_layer`, without bias and
    weight-normalised. The MLP starts from a truncated normal of .02 and biases of zero, the prototypes from a Linear's
    usual uniform distribution, as in the official code, which sets the MLP's alone.

    Args:
        width: of the features.
        prototypes: K, how many.
        hidden: width of the MLP's hidden layers.
        bottleneck: width of what is compared.
        layers: Linears of the MLP, at least one.
        norm_last_layer: keep the prototypes' length at 1; otherwise their gains are trained.
        batch_norm: a BatchNorm after each hidden Linear; needs features [B, width].

    Raises:
        UsageError: no layers.
    """

    def __init__(
        self,
        width: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ):
        super().__init__()
        if layers < 1:
            raise UsageError(f"layers = {layers}: a prototype head needs at least one layer before its bottleneck.")
        self.mlp = mlp(width, hidden, bottleneck, layers, norm=batch_norm, activation=nn.GELU)
        for part in self.mlp:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.last_layer = WeightNormLinear(bottleneck, prototypes, fixed_gain=norm_last_layer)

    def embed(self, x: Tensor) -> Tensor:
        """The bottleneck, of unit length, in float32: [..., width] -> [..., bottleneck]."""
        return F.normalize(self.mlp(x).float(), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(self.embed(x))


class PrototypeHeads(PrototypeHead):
    """A `PrototypeHead` with several sets of prototypes on one MLP, for images and for patches (MC-SSL; iBOT).

    `last_layer[name]` compares with each; `head(x, name)` is [..., width] -> [..., prototypes[name]]. Without any set
    the bottleneck alone is used. Fixed gains and a bottleneck of 256 make the prototypes MSN's: uniform within 1/16 at
    the start and compared by cosine (Assran et al. 2022, official code).

    Args:
        prototypes: how many of each name. The others are `PrototypeHead`'s.
    """

    def __init__(self, width: int, prototypes: dict[str, int], *, bottleneck: int = 256, norm_last_layer: bool = True,
                 **how: Any):  # fmt: skip
        super().__init__(width, 1, bottleneck=bottleneck, **how)
        self.last_layer = nn.ModuleDict(
            {name: WeightNormLinear(bottleneck, n, fixed_gain=norm_last_layer) for name, n in prototypes.items()}
        )

    def forward(self, x: Tensor, name: str) -> Tensor:
        return self.last_layer[name](self.embed(x))


class Prototypes(nn.Linear):
    """The prototypes of SwAV, the rows of a Linear without bias: unit embeddings [B, width] -> cosines [B, count].

    Call `normalise_` before the forward of every step (Caron et al. 2020, section 3.1); the scores are cosines then.
    They are in float32: in assignments and softmax they are divided by .05 and .1, and the rounding with them.
    """

    def __init__(self, width: int, count: int):
        super().__init__(width, count, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())

    @torch.no_grad()
    def normalise_(self) -> None:
        """Give every prototype unit length, in place and without gradient."""
        self.weight.copy_(F.normalize(self.weight, dim=1))
