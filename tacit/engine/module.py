"""Any method as a LightningModule. The Trainer owns loop, devices and precision; the maths stays in the method."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from tacit.engine.method import Method, Step
from tacit.engine.optim import clip, learning_rate, optimiser, weight_decay
from tacit.engine.schedules import Progress
from tacit.engine.stability import layers_of
from tacit.errors import RunFailed
from tacit.views import finish


class Training(L.LightningModule):
    """One optimiser step of `method` at a time. `step` counts those done; everything scheduled follows from it alone.

    Nothing random outlives a micro-batch: torch's generator is seeded from (seed, micro-batch, device) before each, so
    a resumed run draws what an unbroken one would have drawn.
    """

    def __init__(self, method: Method, *, seed: int, steps: int, steps_per_epoch: int):
        super().__init__()
        self.method = method
        self.recipe = method.s
        self.seed, self.steps, self.steps_per_epoch = seed, steps, steps_per_epoch
        self.pipelines = method.views()
        self.step = 0
        self.parts: list[Step] = []  # of the optimiser step under way
        self.last: list[Step] = []  # of the one just done
        self.grad_norm = float("nan")
        self.layers = layers_of(method)
        self.layer_norms: dict[str, float] = {}  # of the gradients of the last step, before clipping
        self.records: Tensor | None = None
        self.restored: dict[str, Any] = {}

    @property
    def progress(self) -> Progress:
        return Progress(self.step, self.steps, self.steps_per_epoch)

    @property
    def lr(self) -> float:
        return learning_rate(self.recipe, self.step, self.steps, self.steps_per_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimiser(self.method, self.recipe, fused=self.trainer.precision != "16-mixed")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        views = finish(batch, self.pipelines)
        if self.recipe.channels_last:
            for view in views:
                view["image"] = view["image"].contiguous(memory_format=torch.channels_last)
        return {**batch, "views": views}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        micro = self.step * self.recipe.accumulate + len(self.parts)
        torch.manual_seed(int(np.random.SeedSequence([self.seed, micro, self.global_rank]).generate_state(1)[0]))
        progress = self.progress
        if not self.parts:
            self.method.before_step(progress)
        part = self.method.loss(batch["views"], progress)
        self.parts.append(Step({name: term.detach() for name, term in part.terms.items()}, part.signals))
        self.records = batch["index"]
        return sum(part.terms.values())

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm=None
    ) -> None:
        """Clip, and stop before a value that is no number reaches the weights."""
        named = [(n, p.grad) for n, p in self.method.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([g for _, g in named])
        lengths = torch.stack([norm.float() for norm in norms]).tolist()  # one wait for the device
        self.grad_norm = math.hypot(*lengths)
        self.layer_norms = {
            layer: math.hypot(*(length for (n, _), length in zip(named, lengths, strict=True) if n in names))
            for layer, names in self.layers.items()
        }
        for part in self.parts:
            for name, term in part.terms.items():
                if not torch.isfinite(term):
                    raise RunFailed(self._not_finite(f"loss term {name!r} is {float(term)}"))
        scaled = self.trainer.precision == "16-mixed"  # fp16 finds its scale by overflowing; torch skips such a step
        if not np.isfinite(self.grad_norm) and not scaled:
            raise RunFailed(self._not_finite(f"gradient norm is {self.grad_norm}"))
        clip(self.recipe, [n for n, _ in named], [g for _, g in named], norms, lengths)
        self.method.before_update(self.progress)

    def _not_finite(self, what: str) -> str:
        records = ", ".join(str(int(i)) for i in self.records[:8])
        return (
            f"At step {self.step} the {what}. The weights were left as they were; checkpoints/last.ckpt is sound. "
            f"Usual remedies, in a new --out: a lower --set lr=… , a longer --set warmup_epochs=… , --precision 32. Or "
            f"look at the records of that batch (by number: {records}, …) and go on with --resume."
        )

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer, optimizer_closure=None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.lr * group.get("share", 1.0)  # none in checkpoints of before there were shares
            if group["decayed"]:
                group["weight_decay"] = weight_decay(self.recipe, self.step, self.steps)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.method.after_step([part.signals for part in self.parts], self.progress)
        self.last, self.parts = self.parts, []
        self.step += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tacit"] = {"step": self.step, "steps": self.steps, "saved": time.time()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The stream of batches already starts at the right record, so the loops start afresh.
        checkpoint.pop("loops", None)
        self.restored = checkpoint["tacit"]
        self.step = int(self.restored["step"])
