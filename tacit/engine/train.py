"""A run from settings to a trained encoder: everything around the method, and the Trainer in the middle."""

from __future__ import annotations

import logging
import os
import resource
import signal
import statistics
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from tacit import encoders
from tacit.data import Batches, Source, unvisited
from tacit.distributed import gather_items
from tacit.engine import monitors
from tacit.engine.bad import BadFiles
from tacit.engine.checkpoints import AtomicCheckpointIO, Saver
from tacit.engine.journal import Journal, duration, size
from tacit.engine.memory import keep_memory
from tacit.engine.method import Method
from tacit.engine.metrics import MetricsFile
from tacit.engine.module import Training
from tacit.engine.online import OnlineNeighbours
from tacit.engine.recipe import Recipe
from tacit.errors import BadRecord, MissingExtra, RunFailed
from tacit.run import atomic, write_json
from tacit.views import Views, collate

PRECISIONS = {"auto": "", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # ours and Lightning's names


# What Lightning says of hardware and tips is no news to a user of this program; its errors are.
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"lightning\.")


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


def train(
    cls: type[Method], settings: Recipe, source: Source, plan: Plan, journal: Journal, *, steps: int, val: Source | None
) -> dict[str, Any]:
    """Train `cls` on `source` for `steps` optimiser steps and leave the run folder complete. Returns the summary.

    Raises:
        RunFailed: a loss that is no number, a collapse, a dead worker, a full disk.
        DataError: more unreadable records than allowed.
    """
    begun = time.monotonic()
    per_epoch = len(source) // settings.batch_size
    bad = BadFiles(plan.run, source, plan.max_bad, resume=plan.resume)
    bad.check()
    bad.write()
    module = build(cls, settings, plan, steps=steps, per_epoch=per_epoch)
    if plan.init and not plan.resume:
        journal.say(f"--init {plan.init}: {encoders.initialise(module.method.encoder, plan.init)}")
        module.method.after_init()
    last = plan.run / "checkpoints" / "last.ckpt"
    start = _steps_done(last) if plan.resume and last.is_file() else 0
    if start:
        journal.say(f"Resuming at step {start} of {steps}.")
    loader = make_loader(source, settings, plan, module, start=start, steps=steps)
    _warn_about_views(module, source, journal)
    if not start:
        save_sample_views(plan.run / "views.npz", loader.dataset, module.pipelines)

    watch = Watch(module, plan, settings, source, val, bad, journal, start=start)
    trainer = L.Trainer(
        **_hardware(settings, plan),
        max_epochs=1,  # the stream is the whole run, whatever is left of it
        accumulate_grad_batches=settings.accumulate,
        callbacks=[watch],
        logger=_loggers(settings, plan, start),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=plan.run,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
    if start < steps:
        with _interrupts(watch), _clear_errors():
            trainer.fit(module, loader, ckpt_path=last if start else None, weights_only=True)
    else:
        journal.say("This run is already complete.")
        module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
    if watch.interrupted:
        raise Interrupted(f"Stopped at step {module.step} of {steps}, saved. Go on with the same command and --resume.")

    if plan.world == 1 and steps >= per_epoch:
        bad.add(_read_the_rest(source, settings, plan, steps))
        bad.check()
    bad.write()
    summary = watch.summary(time.monotonic() - begun)
    if trainer.is_global_zero:
        write_json(plan.run / "summary.json", summary)
    return summary


class Interrupted(RunFailed):
    """The user asked to stop; the run is saved."""

    exit_code = 1


def build(cls: type[Method], settings: Recipe, plan: Plan, *, steps: int, per_epoch: int) -> Training:
    """The method with weights that depend on the seed alone, ready to train."""
    if not torch.cuda.is_available():
        keep_memory()
    torch.manual_seed(plan.seed)
    method = cls(settings)
    if settings.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if settings.compile:
        for part in method.children():
            if isinstance(part, encoders.Encoder):
                part.compile()
    return Training(method, seed=plan.seed, steps=steps, steps_per_epoch=per_epoch)


def make_loader(
    source: Source, settings: Recipe, plan: Plan, module: Training, *, start: int, steps: int
) -> DataLoader:
    """Batches of views from step `start` on, for this device, read by `plan.workers` processes."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", 0))))
    batches = Batches(
        source, batch_size=settings.batch_size, seed=plan.seed, total_steps=steps, start_step=start,
        accumulate=settings.accumulate, rank=rank if plan.world > 1 else 0, world=plan.world,
    )  # fmt: skip
    return DataLoader(
        Views(source, module.pipelines, plan.seed),
        batch_sampler=batches,
        num_workers=plan.workers,
        collate_fn=collate,
        worker_init_fn=_quiet_worker,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if plan.workers else None,
    )


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which saves first


def _hardware(settings: Recipe, plan: Plan) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    accelerator = "gpu" if gpu else "mps" if torch.backends.mps.is_available() and plan.world == 1 else "cpu"
    distributed = plan.world > 1
    strategy: Any = "auto"
    if distributed:
        from lightning.pytorch.strategies import DDPStrategy

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
    if asked != "auto":
        return PRECISIONS[asked]
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    capable = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if capable else "32-true"


def _loggers(settings: Recipe, plan: Plan, start: int) -> list[Any]:
    loggers: list[Any] = [
        TensorBoardLogger(plan.run, name="", version="tensorboard", purge_step=start if start else None)
    ]
    for name in settings.loggers:
        try:
            if name == "wandb":
                from lightning.pytorch.loggers import WandbLogger

                loggers.append(WandbLogger(project="tacit", name=plan.run.name, save_dir=plan.run))
            else:
                from lightning.pytorch.loggers import MLFlowLogger

                loggers.append(
                    MLFlowLogger("tacit", run_name=plan.run.name, tracking_uri=f"file:{plan.run / 'mlflow'}")
                )
        except (ImportError, ModuleNotFoundError) as error:
            raise MissingExtra(f"--set loggers={name}", name, name) from error
    return loggers


def _steps_done(path: Path) -> int:
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["tacit"]["step"])


def _warn_about_views(module: Training, source: Source, journal: Journal) -> None:
    for note in {note.partition(": ")[2]: note for view in module.pipelines for note in view.notes()}.values():
        journal.say(f"Note: {note}")
    if source.duplicates:
        journal.say(f"Note: {source.duplicates:,} links name a file twice and were left out.")


def save_sample_views(path: Path, dataset: Views, pipelines: list, count: int = 8) -> None:
    """A few records as the method sees them, for the report: uint8 [V, n, H, W, C]."""
    samples = []
    for index in range(min(len(dataset), 4 * count)):
        try:
            dataset.source[index]["image"].array()
            samples.append(dataset[(0, index)])
        except BadRecord:
            continue
        if len(samples) == count:
            break
    if not samples:
        return
    batch = collate(samples)
    shown = []
    for view, part in zip(pipelines, batch["views"], strict=True):
        x = view.finish(part["image"], part["params"])["image"]
        mean, std = (x.new_tensor(v).view(1, -1, 1, 1) for v in (view.inputs.mean, view.inputs.std))
        shown.append(((x * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    with atomic(path) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, views=np.stack(shown), names=np.array([view.name for view in pipelines]))


def _read_the_rest(source: Source, settings: Recipe, plan: Plan, steps: int) -> list[tuple[str, str]]:
    """Records that fell off the end of every epoch, read once, so that the list of bad files is whole."""
    bad = []
    for index in unvisited(source, batch_size=settings.batch_size, seed=plan.seed, total_steps=steps):
        try:
            source[int(index)]["image"].array()
        except BadRecord as error:
            bad.append((source.name(int(index)), str(error)))
    return bad


class _interrupts:
    """Ctrl-C or a polite kill asks the run to save and stop at the end of the step; a second one stops it at once."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.old: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.watch.asked:
            raise KeyboardInterrupt
        self.watch.asked = True


class _clear_errors:
    """What torch raises for a dead worker or a full memory, in words a user can act on."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, error, _) -> None:
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise RunFailed(
                f"A process that reads files died: {str(error).splitlines()[0]}. It may have run out of memory: try "
                "fewer --workers, or --workers 0 to see the cause. Then go on with --resume."
            ) from error
        if isinstance(error, torch.cuda.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        ):
            raise RunFailed(
                "The device's memory is full. Split the step with --set accumulate=2 (the same in smaller parts, "
                "except for BatchNorm), or lower --batch-size, and go on in a new run folder."
            ) from error
        if isinstance(error, OSError) and error.errno == 28:
            raise RunFailed(f"The disk is full: {error}. Make room and go on with --resume.") from error


class Watch(L.Callback):
    """Everything seen of a run while it runs: bar, metrics, monitors, bad files, saves and stops."""

    def __init__(
        self, module: Training, plan: Plan, settings: Recipe, source: Source, val: Source | None, bad: BadFiles,
        journal: Journal, *, start: int,
    ):  # fmt: skip
        self.module, self.plan, self.settings, self.bad, self.journal = module, plan, settings, bad, journal
        self.saver = Saver(plan.run, settings, module.steps_per_epoch)
        self.metrics = MetricsFile(plan.run / "metrics.csv", until=start) if plan.run.is_dir() else None
        self.neighbours = OnlineNeighbours.of(source, val, module.method.encoder.inputs, seed=plan.seed)
        self.check_every = max(round(settings.check_every * module.steps_per_epoch), 1) if settings.check_every else 0
        self.collapse = monitors.CollapseWatch()
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

    def on_train_start(self, trainer: L.Trainer, module: Training) -> None:
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
        values["lr"] = learning_rate_of(trainer)
        values["grad_norm"] = self.module.grad_norm
        values |= monitors.health(terms[-1].signals)
        values["throughput"] = self.settings.batch_size / statistics.median(self.times[recent])
        values["data_wait"] = sum(self.waits[recent]) / sum(self.times[recent])
        values["peak_memory"] = peak_memory()
        self.values |= values
        self._write(trainer, step, values)
        self.bad.add(gather_items(list(self.bad.found.items())))
        self.bad.check()
        if trainer.is_global_zero:
            self.bad.write()
        if reason := self.collapse.see(values):
            self._collapsed(trainer, reason)

    def _write(self, trainer: L.Trainer, step: int, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        self.metrics.append(step, values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step)

    def _check(self, trainer: L.Trainer, module: Training, step: int) -> None:
        if self.neighbours is not None:
            accuracy = self.neighbours.accuracy(module.method.encoder, module.device)
            self.values["knn"] = accuracy
            self._write(trainer, step, {"knn": accuracy})
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


def learning_rate_of(trainer: L.Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def peak_memory() -> int:
    """Bytes, of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rehearse(cls: type[Method], settings: Recipe, source: Source, plan: Plan, *, steps: int) -> dict[str, Any]:
    """One real optimiser step, nothing written: parameters, memory and the time the whole run would take."""
    per_epoch = len(source) // settings.batch_size
    module = build(cls, settings, plan, steps=steps, per_epoch=per_epoch)
    loader = make_loader(source, settings, plan, module, start=0, steps=min(2, steps))
    clock = _Clock()
    trainer = L.Trainer(
        **_hardware(settings, plan), max_epochs=1, accumulate_grad_batches=settings.accumulate, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    with _clear_errors():
        trainer.fit(module, loader)
    step_time = clock.times[-1]
    trained = sum(p.numel() for p in module.method.parameters() if p.requires_grad)
    return {
        "parameters": trained,
        "encoder_parameters": sum(p.numel() for p in module.method.encoder.parameters()),
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "step_time": step_time,
        "estimated_seconds": step_time * steps,
        "estimated_time": duration(step_time * steps),
        "peak_memory": peak_memory(),
        "peak_memory_text": size(peak_memory()),
        "checkpoint": sum(t.numel() * t.element_size() for t in module.state_dict().values()) + 8 * trained,
        "precision": precision(plan.precision),
    }


class _Clock(L.Callback):
    def __init__(self):
        self.times: list[float] = []
        self.mark = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if not module.parts:
            self.times.append(time.perf_counter() - self.mark)
            self.mark = time.perf_counter()
