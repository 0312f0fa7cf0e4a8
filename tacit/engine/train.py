"""A run from settings to a trained encoder: everything around the method, and the Trainer in the middle."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from tacit import encoders
from tacit.data import Batches, Source, epoch_order, note_rates, unvisited
from tacit.distributed import rank
from tacit.engine.bad import BadFiles
from tacit.engine.checkpoints import AtomicCheckpointIO
from tacit.engine.journal import Journal, duration, size
from tacit.engine.loggers import close_loggers, open_loggers
from tacit.engine.memory import bytes_a_record, free_memory, keep_memory, peak_memory
from tacit.engine.method import Method
from tacit.engine.module import Training
from tacit.engine.plan import PRODUCTS, Plan, hardware, precision
from tacit.engine.recipe import Recipe, per_device_batch, steps_per_epoch
from tacit.engine.samples import save_reconstructions, save_sample_views
from tacit.engine.stops import Interrupted, clear_errors, interrupts
from tacit.engine.watch import Watch
from tacit.errors import BadRecord, BadSettings
from tacit.precision import unfuse_attention
from tacit.run import Run, write_json
from tacit.views import Views, collate, field_of, finish

# What Lightning says of hardware and tips is no news to a user of this program; its errors are.
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"lightning\.")


GLANCE = 64  # records that a method looks at at once, before it begins


class Prepared(NamedTuple):
    """A run with everything checked, and nothing of it written but what a logging service keeps."""

    module: Training
    loader: DataLoader
    start: int  # the first step to take
    initialised: encoders.Initialised | None
    loggers: list[Any]


def prepare(
    cls: type[Method], settings: Recipe, source: Source, plan: Plan, *, steps: int, take: int | None = None
) -> Prepared:
    """Build the method and the stream of batches from where the run stands; only `take` steps of it to rehearse.

    Raises:
        BadSettings: a step would not fit into memory. DataError: `plan.init` does not fit the encoder.
        UsageError: a logging service that cannot be reached.
    """
    module = build(cls, settings, plan, steps=steps, per_epoch=steps_per_epoch(settings, len(source)))
    last = _last_checkpoint(plan)
    start = _steps_done(last) if plan.resume and last.is_file() else 0
    initialised = None
    if plan.init and not start:  # also when a run goes on that was killed before its first save
        initialised = encoders.initialise(module.method.encoder, plan.init)
        module.method.after_init()
    loader = make_loader(source, settings, plan, module, start=start, steps=steps if take is None else take)
    if not start and cls.look is not Method.look:
        torch.manual_seed(plan.seed)
        module.method.look(glances(loader.dataset, module, plan))
    check_memory(module, loader.dataset, settings, plan)
    loggers = open_loggers(settings.loggers, plan.run, start) if take is None else []
    return Prepared(module, loader, start, initialised, loggers)


def train(
    prepared: Prepared,
    settings: Recipe,
    source: Source,
    plan: Plan,
    journal: Journal,
    *,
    steps: int,
    val: Source | None,
) -> dict[str, Any]:
    """Train to step `steps` and leave the run folder complete. Returns the summary.

    Raises:
        RunFailed: a loss that is no number, a collapse, a dead worker, a full disk.
        DataError: more unreadable records than allowed.
    """
    begun = time.monotonic()
    module, loader, start, initialised, loggers = prepared
    last = _last_checkpoint(plan)
    if start == steps:
        journal.say("This run is already complete.")
        told = Run(plan.run).summary
        if told and told["steps"] == steps:
            return told
    bad = BadFiles(plan.run, source, plan.max_bad, resume=plan.resume)
    bad.check()
    bad.write()
    if initialised is not None:
        journal.say(f"--init {plan.init}: {initialised}")
    if start:
        journal.say(f"Resuming at step {start} of {steps}.")
    if rank() == 0:
        for left_over in plan.run.rglob(".*.part"):  # of a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
    _say_notes(module, source, journal)
    if not start:
        save_sample_views(plan.run / "views.npz", loader.dataset, module.pipelines)
    watch = Watch(module, plan, settings, source, val, bad, journal, start=start)
    trainer = L.Trainer(
        **hardware(plan),
        max_epochs=1,  # the stream is the whole run, whatever is left of it
        accumulate_grad_batches=settings.accumulate,
        callbacks=[watch],
        logger=loggers,
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
        with interrupts(watch), clear_errors():
            try:
                trainer.fit(module, loader, ckpt_path=last if start else None, weights_only=True)
            except SIGTERMException:  # Lightning's own answer to a polite kill; the run was saved by ours
                watch.interrupted = True
            finally:
                close_loggers(loggers)
    else:
        _after_the_last_save(module, watch, last, plan)
    if watch.interrupted:
        raise Interrupted(f"Stopped at step {module.step} of {steps}, saved. Go on with the same command and --resume.")

    if plan.world == 1 and steps >= len(source) // settings.batch_size:
        bad.add(_read_the_rest(source, settings, plan, steps))
        bad.check()
    bad.write()
    if trainer.is_global_zero:
        save_reconstructions(plan.run / "reconstructions.npz", module.method, loader.dataset)
    summary = watch.summary(time.monotonic() - begun)
    if trainer.is_global_zero:
        write_json(plan.run / "summary.json", summary)
    return summary


def _after_the_last_save(module: Training, watch: Watch, last: Path, plan: Plan) -> None:
    """What a run lacks that was killed after its last step was saved: the encoder of that step, and the outcome."""
    checkpoint = torch.load(last, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    watch.recall(Run(plan.run).metrics)
    if rank() == 0:
        module.method.hand_over(plan.run)


def build(cls: type[Method], settings: Recipe, plan: Plan, *, steps: int, per_epoch: int) -> Training:
    """The method with weights that depend on the seed alone, ready to train."""
    if not torch.cuda.is_available():
        keep_memory()
    torch.manual_seed(plan.seed)
    method = cls(settings)
    if not torch.cuda.is_available():
        unfuse_attention(method, "cpu", "bf16" if precision(plan.precision) == "bf16-mixed" else "32")
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
    batches = Batches(
        source, batch_size=settings.batch_size, seed=plan.seed, total_steps=steps, start_step=start,
        accumulate=settings.accumulate, rank=rank() if plan.world > 1 else 0, world=plan.world,
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


def glances(dataset: Views, module: Training, plan: Plan) -> Iterator[list[dict[str, Tensor]]]:
    """Views of the records, each once, in the order of the first epoch; the same on every device."""
    order = [(0, int(index)) for index in epoch_order(dataset.source, plan.seed, 0)]
    parts = [order[i : i + GLANCE] for i in range(0, len(order), GLANCE)]
    loader = DataLoader(
        dataset, batch_sampler=parts, num_workers=plan.workers, collate_fn=collate, worker_init_fn=_quiet_worker
    )
    for batch in loader:
        yield finish(batch, module.pipelines)


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which saves first


def _last_checkpoint(plan: Plan) -> Path:
    return plan.run / "checkpoints" / "last.ckpt"


def _steps_done(path: Path) -> int:
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["tacit"]["step"])


def _say_notes(module: Training, source: Source, journal: Journal) -> None:
    for note in {note.partition(": ")[2]: note for view in module.pipelines for note in view.notes()}.values():
        journal.say(f"Note: {note}")
    for rate in sorted({view.inputs.rate for view in module.pipelines if field_of(view.inputs) == "audio"}):
        note_rates(source, rate)
    for note in source.notes:
        journal.say(f"Note: {note}")


def check_memory(module: Training, dataset: Views, settings: Recipe, plan: Plan) -> None:
    """Refuse a step that cannot fit, before the system ends the run without a word."""
    free = free_memory()
    if free is None:
        return
    views = finish(collate([dataset[(0, i)] for i in (0, 1)]), module.pipelines)
    part = per_device_batch(settings, plan.world)
    need = bytes_a_record(module.method, views, PRODUCTS[precision(plan.precision)]) * part
    if need <= free:
        return
    split = next((n for n in range(2, part // 2 + 1) if part % n == 0 and need / n < free / 2), None)
    ways = [f"--set accumulate={split * settings.accumulate} (parts of {part // split})"] if split else []
    raise BadSettings(
        [
            f"batch_size = {settings.batch_size}: {part} records at once keep about {size(need)} for the backward "
            f"pass, and {size(free)} are free. Try {', or '.join([*ways, 'a smaller --batch-size', '--preset small'])}."
        ]
    )


def _read_the_rest(source: Source, settings: Recipe, plan: Plan, steps: int) -> list[tuple[str, str]]:
    """Records that fell off the end of every epoch, read once, so that the list of bad files is whole."""
    bad = []
    for index in unvisited(source, batch_size=settings.batch_size, seed=plan.seed, total_steps=steps):
        try:
            source.check(int(index))
        except BadRecord as error:
            bad.append((source.name(int(index)), str(error)))
    return bad


def rehearse(cls: type[Method], settings: Recipe, source: Source, plan: Plan, *, steps: int) -> dict[str, Any]:
    """Two real optimiser steps, the second timed, nothing written: parameters, memory and the whole run's time."""
    module, loader, *_ = prepare(cls, settings, source, plan, steps=steps, take=min(2, steps))
    clock = _Clock()
    trainer = L.Trainer(
        **hardware(plan), max_epochs=1, accumulate_grad_batches=settings.accumulate, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    with clear_errors():
        trainer.fit(module, loader)
    step_time = clock.times[-1]
    trained = sum(p.numel() for p in module.method.parameters() if p.requires_grad)
    return {
        "parameters": trained,
        "encoder_parameters": sum(p.numel() for p in module.method.encoder.parameters()),
        "steps": steps,
        "steps_per_epoch": module.steps_per_epoch,
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
