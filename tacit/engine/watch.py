"""Everything seen of a run while it runs: bar, metrics, monitors, unreadable files, saves and stops."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning as L
import numpy as np

from tacit.data import Source
from tacit.distributed import gather_items
from tacit.engine import monitors
from tacit.engine.bad import BadFiles
from tacit.engine.checkpoints import Saver
from tacit.engine.journal import Journal
from tacit.engine.memory import peak_memory
from tacit.engine.metrics import MetricsFile
from tacit.engine.module import Training
from tacit.engine.online import OnlineNeighbours
from tacit.engine.plan import Plan
from tacit.engine.recipe import Recipe
from tacit.engine.stability import DipWatch, SpikeWatch
from tacit.errors import RunFailed
from tacit.run import write_json


class Watch(L.Callback):
    """The one callback of a run. Its own state, in every checkpoint, is what the best save was worth."""

    def __init__(
        self, module: Training, plan: Plan, settings: Recipe, source: Source, val: Source | None, bad: BadFiles,
        journal: Journal, *, start: int,
    ):  # fmt: skip
        self.module, self.plan, self.settings, self.bad, self.journal = module, plan, settings, bad, journal
        self.saver = Saver(plan.run, settings, module.steps_per_epoch)
        self.neighbours = OnlineNeighbours.of(source, val, module.method.handed_over.inputs, seed=plan.seed)
        self.check_every = max(round(settings.check_every * module.steps_per_epoch), 1) if settings.check_every else 0
        self.collapse = monitors.CollapseWatch()
        self.spikes = SpikeWatch()
        self.dips = DipWatch(len(self.neighbours.query) if self.neighbours else 0)
        self.asked = self.interrupted = False
        self.start = start
        self.times: list[float] = []
        self.waits: list[float] = []
        self.loss = float("nan")
        self.values: dict[str, float] = {}
        self.verdict = "healthy"

    def state_dict(self) -> dict[str, Any]:
        return self.saver.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saver.load_state_dict(state)

    def on_save_checkpoint(self, trainer: L.Trainer, module: Training, checkpoint: dict[str, Any]) -> None:
        self._share_bad()  # a run that goes on from here does not meet these records again

    def recall(self, metrics: dict[str, list[tuple[int, float]]]) -> None:
        """Take the last values from the log of a run that has no step left to take."""
        self.values = {name: curve[-1][1] for name, curve in metrics.items()}
        self.loss = self.values.get("loss", float("nan"))

    def on_train_start(self, trainer: L.Trainer, module: Training) -> None:
        if trainer.is_global_zero:
            self.metrics = MetricsFile(self.plan.run / "metrics.csv", before=self.start)
        self.journal.start(f"{trainer.accelerator.__class__.__name__[:3]}", module.step, module.steps)
        self.mark = time.perf_counter()
        self.waited = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, module: Training, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.mark

    def on_train_batch_end(self, trainer: L.Trainer, module: Training, outputs, batch: Any, batch_idx: int) -> None:
        self.bad.add([(name, reason) for _, name, reason in batch["bad"]])
        if self.plan.world == 1:  # several processes count together, when they log
            self.bad.check()
        if module.parts:  # in the middle of a step
            self.mark = time.perf_counter()
            return
        self._note_time()
        self.loss = float(sum(sum(part.terms.values()) for part in module.last)) / len(module.last)
        step = module.step
        if said := self.spikes.see(module.layer_norms):
            self.journal.say(f"At step {step - 1}: {said}", style="yellow")
        if step % self.settings.log_every == 0 or step == module.steps or step == self.start + 1:
            self._log(trainer, step - 1)
        if self.check_every and (step % self.check_every == 0 or step == module.steps):
            self._check(trainer, module, step - 1)
        stop = self._stop_asked(trainer, step)
        self.saver.wanted |= stop
        self.saver.after_step(trainer, module)
        if stop and step < module.steps:
            self.interrupted = trainer.should_stop = True
        self.journal.advance(step, module.steps, self._state())
        self.mark, self.waited = time.perf_counter(), 0.0

    def on_train_end(self, trainer: L.Trainer, module: Training) -> None:
        self.journal.stop()

    def on_exception(self, trainer: L.Trainer, module: Training, exception: BaseException) -> None:
        self.journal.stop()
        self.bad.write()

    def _note_time(self) -> None:
        now = time.perf_counter()
        busy = now - self.mark
        self.times.append(busy + self.waited)
        self.waits.append(self.waited)

    def _stop_asked(self, trainer: L.Trainer, step: int) -> bool:
        if self.plan.world == 1:
            return self.asked
        if step % self.settings.log_every:
            return False
        return trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def _state(self) -> str:
        rate = self.settings.batch_size / statistics.median(self.times[-50:])
        epoch = self.module.progress.epoch
        return f"epoch {epoch:.1f}  loss {self.loss:.3f}  {rate:,.0f} records/s"

    def _log(self, trainer: L.Trainer, step: int) -> None:
        terms = self.module.last
        recent = slice(-self.settings.log_every, None)
        values = {"loss": self.loss}
        for name in terms[0].terms:
            values[f"loss/{name}"] = float(sum(part.terms[name] for part in terms)) / len(terms)
        values["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        values["grad_norm"] = self.module.grad_norm
        values |= {f"grad/{layer}": norm for layer, norm in self.module.layer_norms.items()}
        values["grad_spikes"] = self.spikes.count
        values |= monitors.health(terms[-1].signals)
        values["throughput"] = self.settings.batch_size / statistics.median(self.times[recent])
        values["data_wait"] = sum(self.waits[recent]) / sum(self.times[recent])
        values["peak_memory"] = peak_memory()
        values = _together(values)
        self.loss = values["loss"]
        self.values |= values
        self._write(trainer, step, values)
        self._share_bad()
        self.bad.check()
        if reason := self.collapse.see(values):
            self._collapsed(trainer, reason)

    def _share_bad(self) -> None:
        """List what all devices found. Every device must call it."""
        self.bad.add(gather_items(list(self.bad.found.items())))
        self.bad.write()

    def _write(self, trainer: L.Trainer, step: int, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        self.metrics.append(step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    def _check(self, trainer: L.Trainer, module: Training, step: int) -> None:
        if self.neighbours is not None:
            found = _together({"knn": self.neighbours.accuracy(module.method.handed_over, module.device)})
            self.values |= found
            self._write(trainer, step, found)
            accuracy = found["knn"]
            if said := self.dips.see(accuracy):
                self.journal.say(f"At step {step}: {said}", style="yellow")
            self.saver.offer(trainer, accuracy)
        elif "rankme" in self.values:
            self.saver.offer(trainer, self.values["rankme"])

    def _collapsed(self, trainer: L.Trainer, reason: str) -> None:
        step = self.module.step
        self.verdict = f"collapsed at step {step}: {reason}"
        text = f"Collapse at step {step}: {reason}. {monitors.REMEDY}"
        if self.settings.on_collapse == "stop":
            self.saver.save(trainer, self.module)
            self.write_failure()
            raise RunFailed(f"{text} To train on regardless: --resume --set on_collapse=warn")
        self.journal.say(text, style="bold red")
        self.collapse = monitors.CollapseWatch(patience=10**9)  # said once

    def write_failure(self) -> None:
        write_json(self.plan.run / "summary.json", self.summary(0.0))

    def summary(self, seconds: float) -> dict[str, Any]:
        """What `pretrain --json` prints."""
        steady = self.times[len(self.times) // 10 :]
        step_time = statistics.median(steady) if steady else None
        return {
            "run": str(self.plan.run),
            "steps": self.module.step,
            "loss": self.loss if np.isfinite(self.loss) else None,
            "throughput": self.settings.batch_size / step_time if steady else None,
            "step_time": step_time,
            "data_wait": sum(self.waits[len(self.times) // 10 :]) / sum(steady) if steady else None,
            "peak_memory": peak_memory(),
            "bad_files": len(self.bad),
            "verdict": self.verdict,
            "seconds": round(seconds, 1),
            **{name: self.values[name] for name in ("knn", "rankme", "embedding_rank") if name in self.values},
        }


def _together(values: dict[str, float]) -> dict[str, float]:
    """Means over all devices, so that none stops or saves alone and waits for the others for ever. Every device must
    call it."""
    every = gather_items([values])
    return {name: sum(one[name] for one in every) / len(every) for name in values}
