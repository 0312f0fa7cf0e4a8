"""How a run is carried out: devices, processes, precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy

from tacit.precision import resolved

PRECISIONS = {"auto": "", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # ours and Lightning's names
PRODUCTS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # what they multiply in


@dataclass(frozen=True)
class Plan:
    """How a run is carried out. Nothing here changes what is learnt, except `seed` and `precision`."""

    run: Path
    seed: int = 0
    devices: int = 1
    nodes: int = 1
    precision: str = "auto"
    workers: int = 0
    max_bad: float = 0.01
    resume: bool = False
    init: str | None = None

    @property
    def world(self) -> int:
        return self.devices * self.nodes


def hardware(plan: Plan) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    accelerator = "gpu" if gpu else "mps" if torch.backends.mps.is_available() and plan.world == 1 else "cpu"
    distributed = plan.world > 1
    strategy: Any = "auto"
    if distributed:
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "accelerator": accelerator,
        "devices": plan.devices,
        "num_nodes": plan.nodes,
        "strategy": strategy,
        "precision": precision(plan.precision),
        "sync_batchnorm": distributed
        and gpu,  # torch has none for CPUs: there each process normalises by its own batch
    }


def precision(asked: str) -> str:
    """`auto` is bf16 where the hardware multiplies it, else fp32: Lightning's name of it."""
    if asked == "auto":
        asked = resolved(asked, "cuda" if torch.cuda.is_available() else "cpu")
    return PRECISIONS[asked]
