"""How long batches take one core, told alike by every program that benchmarks/views.py runs."""

import time
from collections.abc import Callable


def seconds(batch: Callable[[int, int], object], count: int, size: int = 16) -> float:
    """Of one core for a photograph: `batch(start, size)` until there are `count`, after one that does not count."""
    batch(0, size)
    begun = time.process_time()
    for start in range(0, count, size):
        batch(start, min(size, count - start))
    return (time.process_time() - begun) / count
