"""How long records take, told alike by every program that benchmarks/views.py and benchmarks/jobs.py run."""

import json
import resource
import time
from collections.abc import Callable


def seconds(batch: Callable[[int, int], object], count: int, size: int = 16) -> float:
    """Of one core for a photograph: `batch(start, size)` until there are `count`, after one that does not count."""
    batch(0, size)
    begun = time.process_time()
    for start in range(0, count, size):
        batch(start, min(size, count - start))
    return (time.process_time() - begun) / count


class Steps:
    """A training told step by step: `tick(loss)` at the end of each; the first two, where things warm up, do not count.

    `core` is the time of this process's threads, which what else the machine does does not lengthen much; `wall` is
    what a user waits.
    """

    def __init__(self, batch: int):
        self.batch, self.losses, self.begun = batch, [], None

    def tick(self, loss: float) -> None:
        self.losses.append(float(loss))
        if len(self.losses) == 2:
            self.begun = time.perf_counter(), time.process_time()
        self.ended = time.perf_counter(), time.process_time()

    def say(self) -> None:
        """One line of JSON: seconds a record, the highest memory in bytes, the losses."""
        records = self.batch * (len(self.losses) - 2)
        wall, core = ((end - begun) / records for begun, end in zip(self.begun, self.ended, strict=True))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"wall": wall, "core": core, "memory": memory, "losses": self.losses}))
