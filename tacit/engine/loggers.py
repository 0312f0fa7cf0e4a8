"""Where a run's numbers also go, beside metrics.csv: TensorBoard always, W&B and MLflow as settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from tacit.distributed import rank
from tacit.errors import MissingExtra, UsageError
from tacit.run import write_json

REMEDY = {
    "wandb": "Log in by `wandb login`, or set WANDB_MODE=offline to keep the files here and send them later",
    "mlflow": "Set MLFLOW_TRACKING_URI to a server that answers, or unset it to keep a database in the run folder",
}


def open_loggers(names: tuple[str, ...], run: Path, start: int) -> list[Any]:
    """The loggers of one run, reached at once, so that what refuses them is known before the run begins.

    A run that goes on from step `start` goes on in the services too: `loggers.json` keeps their names for it.

    Raises:
        MissingExtra: the package is not there. UsageError: it is, and cannot log, as without a login.
    """
    loggers: list[Any] = [TensorBoardLogger(run, name="", version="tensorboard", purge_step=start or None)]
    kept = run / "loggers.json"
    known = json.loads(kept.read_text("utf-8")) if start and kept.is_file() else {}
    for name in names:
        run.mkdir(parents=True, exist_ok=True)
        try:
            logger = _wandb(run, known.get(name)) if name == "wandb" else _mlflow(run, known.get(name))
            _ = logger.experiment
        except ImportError as error:
            raise MissingExtra(f"--set loggers={name}", name, name) from error
        except Exception as error:  # each service has errors of its own
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(". ")
            raise UsageError(f"loggers = {name}: cannot start ({said}). {REMEDY[name]}.") from error
        known[name] = logger.version
        loggers.append(logger)
    if names and rank() == 0:
        write_json(kept, known)
    return loggers


def close_loggers(loggers: list[Any]) -> None:
    """End what a process has only one of, so that the next run of this process is not taken for the same."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and rank() == 0:
            logger.experiment.finish()


def _wandb(run: Path, known: str | None) -> WandbLogger:
    return WandbLogger(project="tacit", name=run.name, save_dir=run, id=known, resume="allow" if known else None)


def _mlflow(run: Path, known: str | None) -> MLFlowLogger:
    """In the user's server where one is set, else in a database in the run folder."""
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        return MLFlowLogger("tacit", run_name=run.name, tracking_uri=server, run_id=known)
    kept = run.resolve() / "mlflow"
    kept.mkdir(exist_ok=True)
    return MLFlowLogger(
        "tacit", run_name=run.name, run_id=known,
        tracking_uri=f"sqlite:///{kept / 'mlflow.db'}", artifact_location=kept.as_uri(),
    )  # fmt: skip
