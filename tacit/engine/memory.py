"""How much memory a run takes, and how the C library hands it out where that stands in the way on a CPU."""

from __future__ import annotations

import ctypes
import platform
import resource
from pathlib import Path

import torch
from torch import Tensor

from tacit.engine.method import Method
from tacit.engine.schedules import Progress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Have glibc keep freed memory rather than return it to the system after every large tensor.

    A training step frees and asks for the same large blocks over and over, and by default each is mapped anew and
    filled with zeros page by page: on two cores that took half of a MoBY step's time. Returns whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(*pair) for pair in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 << 20)))


def peak_memory() -> int:
    """Bytes, of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Linux has `ru_maxrss` begin at the peak of the program that started this one.
    return _said("/proc/self/status", "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_a_record(method: Method, views: list[dict[str, Tensor]], dtype: torch.dtype | None = None) -> float:
    """What one record's forward pass keeps for the backward pass, in bytes, found by running it on those of `views`.

    Args:
        dtype: that products are in, by autocast; as they come when left out.
    """
    before = [buffer.clone() for buffer in method.buffers()]  # a forward pass moves the statistics of BatchNorm
    kept, count = _kept(method, views, dtype), len(views[0]["image"])
    if dtype is not None:  # weights are kept in that type as well, once for all records
        kept = _kept(method, [{name: torch.cat([x, x]) for name, x in view.items()} for view in views], dtype) - kept
    with torch.no_grad():
        for buffer, value in zip(method.buffers(), before, strict=True):
            buffer.copy_(value)
    return kept / count


def _kept(method: Method, views: list[dict[str, Tensor]], dtype: torch.dtype | None) -> int:
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()  # an output that its own operation keeps is a circle otherwise, and never freed

    weights = {p.untyped_storage().data_ptr() for p in [*method.parameters(), *method.buffers()]}
    products = torch.autocast(views[0]["image"].device.type, dtype, enabled=dtype is not None)
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), products:
        step = method.loss(views, Progress(0, 1, 1))
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    del step  # until here it holds what was kept, so that no address is counted for two
    return total


def free_memory() -> int | None:
    """Bytes that may still be had on the device that trains; None where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return _said("/proc/meminfo", "MemAvailable")


def _said(file: str, what: str) -> int | None:
    """Bytes, of a line of one of Linux' own files; None where there is none."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), None)
