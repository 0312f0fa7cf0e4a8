"""How the C library hands out memory, where it stands in the way of training on a CPU."""

from __future__ import annotations

import ctypes
import platform

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
