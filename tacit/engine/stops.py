"""How a run ends before its end: asked to, or by something torch says in words only torch understands."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tacit.errors import RunFailed


class Interrupted(RunFailed):
    """The user asked to stop; the run is saved."""


@contextmanager
def interrupts(watch: Any) -> Iterator[None]:
    """Ctrl-C or a polite kill sets `watch.asked`: save and stop after this step. A second one stops at once."""

    def ask(number: int, frame: Any) -> None:
        if watch.asked:
            raise KeyboardInterrupt
        watch.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What is raised for a dead worker, a full memory or a full disk, in words a user can act on."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RunFailed(FULL_MEMORY) from error
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise RunFailed(
                f"A process that reads files died: {str(error).splitlines()[0]}. It may have run out of memory: try "
                "fewer --workers, or --workers 0 to see the cause. Then go on with --resume."
            ) from error
        if "can't allocate memory" in str(error):
            raise RunFailed(FULL_MEMORY) from error
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunFailed(f"The disk is full: {error}. Make room and go on with --resume.") from error
        raise


FULL_MEMORY = (
    "The device's memory is full. Split the step with --set accumulate=2 (the same in smaller parts, except for "
    "BatchNorm), or lower --batch-size, and begin again in a new run folder."
)
