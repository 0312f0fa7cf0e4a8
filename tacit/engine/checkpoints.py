"""When a run is saved, and how: whole files only."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tacit.errors import RunFailed
from tacit.run import atomic

SHORT = 100  # steps; a save takes as long as some of them do


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint takes the place of the last one only when it is whole and on the disk; it is read without pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        try:
            with atomic(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            if getattr(error, "errno", None) == errno.ENOSPC or "write" in str(error).lower():
                raise RunFailed(
                    f"{path} cannot be written: {error}. The disk may be full; the checkpoint before it is untouched. "
                    "Make room and go on with --resume."
                ) from error
            raise

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class Saver(L.Callback):
    """last.ckpt every `save_every` epochs or `save_minutes`, step-*.ckpt every `keep_every`, best.ckpt on request.

    Without `save_every` it is an epoch, or as many as hold `SHORT` steps.

    With every save the encoder is handed over too, so that a run under way can be evaluated.
    """

    def __init__(self, run: Path, recipe, steps_per_epoch: int):
        self.folder, self.run = run / "checkpoints", run
        epochs = -(-SHORT // steps_per_epoch) if recipe.save_every is None else recipe.save_every
        self.last_every = max(round(epochs * steps_per_epoch), 1)
        self.keep_every = recipe.keep_every * steps_per_epoch
        self.keep, self.minutes, self.log_every = recipe.keep, recipe.save_minutes, recipe.log_every
        self.best = float("-inf")
        self.saved = time.monotonic()
        self.wanted = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def offer(self, trainer: L.Trainer, value: float) -> None:
        """Keep this moment as best.ckpt if `value` is the highest so far."""
        if value > self.best:
            self.best = value
            trainer.save_checkpoint(self.folder / "best.ckpt")

    def after_step(self, trainer: L.Trainer, module) -> None:
        """Save what is due after step `module.step`. Every device comes here, so that all agree."""
        step = module.step
        if self.keep_every and step % self.keep_every == 0:
            trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
            if trainer.is_global_zero:
                for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                    old.unlink(missing_ok=True)
        if self.wanted or step % self.last_every == 0 or step == module.steps or self._overdue(trainer, step):
            self.save(trainer, module)

    def _overdue(self, trainer: L.Trainer, step: int) -> bool:
        overdue = time.monotonic() - self.saved > self.minutes * 60
        if trainer.world_size == 1:
            return overdue
        # Clocks differ, and one device that saved alone would wait for the others for ever.
        return step % self.log_every == 0 and trainer.strategy.reduce_boolean_decision(overdue, all=False)

    def save(self, trainer: L.Trainer, module) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")
        if trainer.is_global_zero:
            module.method.hand_over(self.run)
        self.saved, self.wanted = time.monotonic(), False
