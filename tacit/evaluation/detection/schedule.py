"""Schedules of detectors: MoBY's 1x and 3x on COCO (section 7 of its dossier) and a small one for a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from tacit.errors import Unknown

POSITIONS = ("relative_position_bias_table", "pos_embed")
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up and drops to a tenth; sizes are short sides in pixels. Defaults are MoBY's 1x."""

    epochs: int = 12
    drops: tuple[int, ...] = (8, 11)  # epochs, counted from 0, from which the rate is a tenth of what it was
    batch_size: int = 16
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup_steps: int = 500
    warmup_ratio: float = 0.001
    shorts: tuple[int, ...] = tuple(range(480, 801, 32))
    long: int = 1333
    crop_shorts: tuple[int, ...] = (400, 500, 600)
    test_size: tuple[int, int] = (800, 1333)
    drop_path: dict[str, float] = field(default_factory=lambda: {"mask_rcnn": 0.1, "cascade_mask_rcnn": 0.0})
    widths: dict[str, Any] = field(default_factory=dict)  # of `models.detector`, where they differ from the published


# "small" keeps the shape of the 1x schedule (drops after 2/3 and 11/12) at a fifth of the resolution, with a pyramid
# and heads a quarter as wide, so that two hundred images take minutes on a CPU.
PRESETS: dict[str, Schedule] = {
    "1x": Schedule(),
    "3x": Schedule(epochs=36, drops=(27, 33), drop_path={"mask_rcnn": 0.2, "cascade_mask_rcnn": 0.2}),
    "small": Schedule(
        batch_size=4, lr=5e-4, warmup_steps=50, shorts=(128, 144, 160), long=272, crop_shorts=(), test_size=(160, 272),
        drop_path={"mask_rcnn": 0.0, "cascade_mask_rcnn": 0.0},
        widths={"channels": 64, "hidden": 256, "rois": 64, "proposals": (200, 200)},
    ),
}  # fmt: skip


def preset(name: str, **changes: Any) -> Schedule:
    """A schedule by name ("1x", "3x", "small") with some fields changed; drops move with the number of epochs.

    Raises `Unknown`.
    """
    if name not in PRESETS:
        raise Unknown("detection schedule", name, PRESETS)
    published = PRESETS[name]
    if "epochs" in changes and "drops" not in changes:
        changes["drops"] = tuple(round(d * changes["epochs"] / published.epochs) for d in published.drops)
    return replace(published, **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})


def learning_rate(schedule: Schedule, step: int, per_epoch: int) -> float:
    """The rate of optimiser step `step`, counted from 0: `warmup_ratio` rising to 1 over `warmup_steps`, then drops."""
    rate = schedule.lr * 0.1 ** sum(step // per_epoch >= drop for drop in schedule.drops)
    if step < schedule.warmup_steps:
        rate *= 1 - (1 - step / schedule.warmup_steps) * (1 - schedule.warmup_ratio)
    return rate


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What is trained, in two groups: decayed, and not (norms, relative-position tables, absolute positions)."""
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups[id(p) in norms or name.endswith(POSITIONS)]["params"].append(p)
    return groups
