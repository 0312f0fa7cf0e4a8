"""The arms of the low-shot study (Nandam et al. 2024): pretext tasks and remedies against collapse, as settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

METHOD = "lowshot_mim_cluster"
OFF = {"view_weight": 0.0, "patch_weight": 0.0, "pixel_weight": 0.0, "contrast_weight": 0.0, "corrupt": "none"}


@dataclass(frozen=True)
class Arm:
    """A row of the table. `changes` are what its tasks and its student's crops are; all else is the budget's.

    feature: what the probes look at: the class token before the last norm (MSN) where a task trains it, otherwise the
             mean of the patch tokens, decided beforehand.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def feature(self) -> str:
        return "cls_raw" if self.changes["view_weight"] or self.changes["contrast_weight"] else "mean"

    @property
    def assignments(self) -> list[str]:
        said = {name: ",".join(v) if isinstance(v, tuple) else v for name, v in self.changes.items()}
        return [f"{name}={value}" for name, value in said.items()]


def _clustering(*avoid: str) -> dict[str, Any]:
    return OFF | {"view_weight": 1.0, "avoid": avoid}


# The contrastive arm is InfoNCE in the same method, not MoCo v3's file: that has heads, positions, a frozen patch
# projection and an optimiser of its own, and the comparison would be of those too.
ARMS = {
    "contrastive": Arm("contrastive", OFF | {"contrast_weight": 1.0}),
    "clustering_centring": Arm("clustering, centring", _clustering("centring")),
    "clustering_sinkhorn": Arm("clustering, Sinkhorn", _clustering("sinkhorn")),
    "clustering_me_max": Arm("clustering, ME-MAX", _clustering("me_max")),
    "mim_pixel": Arm("MIM, pixels", OFF | {"pixel_weight": 1.0, "corrupt": "pixels"}),
    "mim_token": Arm("MIM, tokens", OFF | {"patch_weight": 1.0, "corrupt": "tokens"}),
    "combined": Arm(
        "MIM + clustering", OFF | {"view_weight": 1.0, "patch_weight": 1.0, "pixel_weight": 1.0, "corrupt": "pixels"}
    ),
}
FIXED = frozenset(name for arm in ARMS.values() for name in arm.changes) - {"avoid"}
