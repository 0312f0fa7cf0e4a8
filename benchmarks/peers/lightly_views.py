"""lightly's transforms as it documents them: seconds of one core for a photograph. Run by benchmarks/views.py."""

import sys
from pathlib import Path

import torch
from lightly.transforms import BYOLTransform, DINOTransform, MAETransform
from PIL import Image
from timing import seconds  # beside this file

JOBS = {"two views": BYOLTransform, "2 + 6 views": DINOTransform, "one view": MAETransform}

torch.set_num_threads(1)
job, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
transform, files = JOBS[job](), sorted(folder.glob("*.jpg"))


def batch(start: int, size: int) -> None:
    views = [transform(Image.open(files[(start + i) % len(files)]).convert("RGB")) for i in range(size)]
    for parts in zip(*views, strict=True):
        torch.stack(parts)


print(seconds(batch, count))
