"""torchvision's v2 transforms on tensors of bytes: seconds of one core for a photograph. Run by benchmarks/views.py."""

import sys
from pathlib import Path

import torch
from timing import seconds  # beside this file
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
END = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def view(
    size: int, scale: tuple[float, float], blur: float, solarize: float, colours=(0.4, 0.4, 0.2, 0.1)
) -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=scale, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*colours)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23 if size > 100 else 9, (0.1, 2.0))], blur),
            v2.RandomSolarize(128, solarize),
            *END,
        ]
    )


JOBS = {
    "two views": [view(224, (0.08, 1), 1.0, 0.0), view(224, (0.08, 1), 0.1, 0.2)],
    "2 + 6 views": [
        view(224, (0.4, 1), 1.0, 0.0), view(224, (0.4, 1), 0.1, 0.2), *[view(96, (0.05, 0.4), 0.5, 0.0)] * 6
    ],
    "one view": [v2.Compose([v2.RandomResizedCrop(224, (0.2, 1), antialias=True), v2.RandomHorizontalFlip(), *END])],
}  # fmt: skip

torch.set_num_threads(1)
job, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
views, files = JOBS[job], [str(path) for path in sorted(folder.glob("*.jpg"))]


def batch(start: int, size: int) -> None:
    made = []
    for i in range(size):
        image = decode_jpeg(read_file(files[(start + i) % len(files)]), ImageReadMode.RGB)
        made.append([transform(image) for transform in views])
    for parts in zip(*made, strict=True):
        torch.stack(parts)


print(seconds(batch, count))
