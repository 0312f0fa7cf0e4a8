"""How much memory a run takes, and how the C library hands it out where that stands in the way on a CPU."""

from __future__ import annotations

import ctypes
import platform
import resource

import torch

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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
