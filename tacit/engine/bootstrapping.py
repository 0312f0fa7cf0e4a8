"""What both variants of ATST share: front end, encoder, heads, a teacher that is the student of before (BYOL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit import encoders
from tacit.engine.method import Step
from tacit.engine.recipe import SoundRecipe
from tacit.heads import mlp
from tacit.objectives import normalised_mse
from tacit.settings import again, setting
from tacit.views import SoundInputs, mel_db_inputs
from tacit.views.sound import ATST_LEAST, ATST_MOST


@dataclass(frozen=True)
class Bootstrapping(SoundRecipe):
    """ATST's values (Li et al. 2024, section IV; official code); the variants' own are in their files."""

    encoder: str = again(SoundRecipe, "encoder", "vit_base_patch16_224")
    mels: int = again(SoundRecipe, "mels", 64)
    patch: int | None = setting(4, "frames of a patch, which holds all bands", low=1)
    eps: float = again(SoundRecipe, "eps", 1e-6)
    clip: float | None = again(SoundRecipe, "clip", None)

    low: float = setting(60.0, "lowest frequency of the bands, in Hz", low=0)
    high: float = setting(7800.0, "highest frequency of the bands, in Hz", low=1)
    fft: float = setting(0.064, "length of the frames that are transformed, in seconds", low=0.001)
    least: float = setting(ATST_LEAST, "the level, in dB, that becomes -1")
    most: float = setting(ATST_MOST, "the level, in dB, that becomes 1")
    positions: int = setting(1000, "frames that there are positions for; shorter excerpts use the first of them", low=1)
    background: float = setting(0.4, "most of another recording that is heard behind a view", low=0, high=1)
    bank: int = setting(2000, "recordings that backgrounds are taken from, the last ones of a view", low=1)
    bands: tuple[float, float] = setting((0.6, 1.5), "shares of the bands that are stretched to all; 1 and more: none",
                                         low=0.05)  # fmt: skip
    hidden: int = setting(4096, "hidden width of projector and predictor", low=1)
    out: int = setting(256, "width of the compared embeddings", low=1)
    momentum: float = setting(0.9995, "of the teacher at the first step; rises to 1 by a cosine", low=0, high=1)
    predictor: bool = setting(True, "the student predicts the teacher's embedding; without, it collapses")
    drop_path: float = setting(0.1, "stochastic depth of the last block, of student and teacher", low=0, high=0.99)

    @property
    def cells(self) -> tuple[int, int]:
        return self.patch or 4, self.mels

    @property
    def tokens(self) -> int:
        """How many an excerpt has."""
        return self.size // self.cells[0]

    @property
    def trunk(self) -> dict[str, object]:
        return {"qkv_bias": False, "cut_positions": max(self.positions, self.size) // self.cells[0] * self.cells[0]}

    @property
    def inputs(self) -> SoundInputs:
        return mel_db_inputs(
            self.size, self.mels, self.rate, self.least, self.most, low=self.low, high=self.high, window=self.fft
        )


def sound_problems(s: Bootstrapping) -> list[str]:
    """Why no filterbank can be made so; empty when it can."""
    if not s.low < s.high <= s.rate / 2:
        return [f"high = {s.high:g}: must lie between low = {s.low:g} and half of rate = {s.rate}, {s.rate / 2:g}."]
    return []


def sound_encoder(s: Bootstrapping) -> encoders.Encoder:
    """Fresh, its patch projection drawn as the Linear it is: a truncated normal of .02."""
    encoder = encoders.build(s.encoder, inputs=s.inputs, patch=s.cells, drop_path=s.drop_path, **s.trunk)
    nn.init.trunc_normal_(encoder.trunk.patch_embed.proj.weight, std=0.02)
    nn.init.zeros_(encoder.trunk.patch_embed.proj.bias)
    return encoder


def byol_heads(s: Bootstrapping, width: int) -> tuple[nn.Module, nn.Module]:
    """Projector and predictor: two Linears without bias, a BatchNorm between and none behind."""
    return (
        mlp(width, s.hidden, s.out, 2, bias=False),
        mlp(s.out, s.hidden, s.out, 2 if s.predictor else 0, bias=False),
    )


def byol_step(features: Tensor, q: Tensor, z: Tensor, momentum: float) -> Step:
    """Each view's prediction against the teacher's embedding of the other, half of each.

    Args:
        features: [B, D], of the encoder. q, z: [2 M, out], student and teacher, all rows of the first view first.
    """
    (q1, q2), (z1, z2) = q.chunk(2), z.chunk(2)
    terms = {"p1z2": normalised_mse(q1, z2) / 2, "p2z1": normalised_mse(q2, z1) / 2}
    unit, taught = F.normalize(q.detach().float(), dim=1), F.normalize(torch.cat([z2, z1]).detach().float(), dim=1)
    return Step(terms, {
        "features": features.detach(), "embeddings": unit, "positives": taught, "momentum": torch.tensor(momentum),
        "metric/student_std": spread(unit), "metric/teacher_std": spread(taught),
    })  # fmt: skip


def spread(unit: Tensor) -> Tensor:
    """Mean deviation of the dimensions of unit vectors [M, D]: 1 / sqrt(D) for uniform ones, .001 for equal ones."""
    return (unit.var(0) + 1e-6).sqrt().mean()
