"""What keeps clusters from collapse, as one setting: centring, Sinkhorn or ME-MAX, alone or together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tacit.engine.distilling import Taught, hold_last_layers, temperature_at
from tacit.engine.schedules import Progress
from tacit.heads import PrototypeHeads
from tacit.objectives import SINKHORN_OF, assigned, falling_shares, me_max
from tacit.settings import setting
from tacit.teachers import Center, ema_update, momentum_copy

AVOID = ("centring", "sinkhorn", "me_max")


@dataclass(frozen=True)
class Clustering(Taught):
    """Settings of methods that let the user choose. Equal shares suit kinds of records that are equally frequent."""

    avoid: tuple[str, ...] = setting(("centring",), "against collapse: centring, sinkhorn, me_max; any, all or none")
    sinkhorn: int = setting(3, "rounds of Sinkhorn, over the records of all devices", low=1)
    sinkhorn_of: str = setting(
        "probabilities", "what it starts from: sharpened probabilities (MSN) or exp(logits) (SwAV)", choices=SINKHORN_OF
    )
    me_max: float = setting(1.0, "weight of ME-MAX, for each kind of clusters", low=0)
    prior_power: float = setting(
        0.0, "shares asked of clusters fall with their rank to this power; 0: equal ones, 0.25: PMSN", low=0
    )


def avoid_problems(s: Clustering) -> list[str]:
    """Words of `avoid` that are none, or said twice."""
    found = [f"avoid = {word}: choose among {', '.join(AVOID)}." for word in s.avoid if word not in AVOID]
    return found + ([f"avoid = {','.join(s.avoid)}: name each once."] if len(set(s.avoid)) < len(s.avoid) else [])


class Clusters(nn.Module):
    """A student's head with prototypes of several kinds, its averaged teacher, and a center for each kind's logits.

    Without kinds the embeddings alone serve.
    """

    def __init__(self, s: Clustering, width: int, kinds: dict[str, int], *, batch_norm: bool = False):
        super().__init__()
        self.s = s
        how = {"hidden": s.hidden, "bottleneck": s.bottleneck, "norm_last_layer": s.norm_last_layer}
        self.student = PrototypeHeads(width, kinds, batch_norm=batch_norm, **how)
        self.teacher = momentum_copy(self.student)
        self.centers = nn.ModuleDict({name: Center(count, s.center_momentum) for name, count in kinds.items()})

    def compare(self, kind: str, z: Tensor, zt: Tensor, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """The student's logits of `z` [N, width], the teacher's targets of `zt` [M, width], and their mean logits.

        The targets are centred by the steps before, or shared out by Sinkhorn, as `avoid` says; no gradient reaches
        them.
        """
        s, center = self.s, self.centers[kind].center
        with torch.no_grad():
            logits = self.teacher.last_layer[kind](zt)
        rounds = s.sinkhorn if "sinkhorn" in s.avoid else 0
        how = {"rounds": rounds, "of": s.sinkhorn_of, "prior": self._prior(logits)}
        how["center"] = center if "centring" in s.avoid else None
        mean = logits.mean(0, keepdim=True) if len(logits) else center.clone()
        return self.student.last_layer[kind](z), assigned(logits, temperature_at(s, progress), **how), mean

    def me_max(self, logits: Tensor) -> Tensor:
        """The term of a student's logits [N, K], of all its views; 0 without any.

        It must be the student's: of targets, which have no gradient, it would do nothing.
        """
        if not len(logits):
            return logits.sum()
        return self.s.me_max * me_max((logits.float() / self.s.student_temperature).softmax(-1), self._prior(logits))

    def _prior(self, logits: Tensor) -> Tensor | None:
        power = self.s.prior_power
        return falling_shares(logits.shape[1], power).to(logits.device) if power else None

    def hold(self, progress: Progress) -> None:
        """No gradient for the student's prototypes while `freeze_last_layer` lasts; for `before_update`."""
        hold_last_layers(self.s, progress, self.student)

    def follow(self, signals: list[dict[str, Tensor]], momentum: float) -> None:
        """After the update: centers take in the step's mean logits, `KIND_logits` of its signals, the teacher the
        student."""
        ema_update(self.teacher, self.student, momentum)
        for kind, center in self.centers.items():
            center.update(torch.cat([s[f"{kind}_logits"] for s in signals]))
