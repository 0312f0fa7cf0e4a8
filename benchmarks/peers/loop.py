"""The loop that libraries of parts ask their users to write: a folder, a DataLoader, AdamW. Run by their scripts."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from timing import Steps  # beside this file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Folder(Dataset):
    def __init__(self, folder: str, transform: Callable):
        self.files, self.transform = sorted(Path(folder).glob("*.jpg")), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def train(
    jobs: dict[str, Callable[[], tuple[Callable | None, nn.Module, Callable[..., Tensor]]]],
    files: Callable[[str, Callable | None], Dataset] = Folder,
) -> None:
    """Run the job that the command line names: its transform, its module, and the loss of a batch of views.

    files: a data set of a folder and the transform.
    """
    job, folder, batch, steps, threads, workers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
    bf16 = sys.argv[7:] == ["bf16"]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    transform, model, loss_of = jobs[job]()
    model.train()
    loader = DataLoader(files(folder, transform), batch, shuffle=True, drop_last=True, num_workers=workers,
                        persistent_workers=workers > 0)  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser, clock = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05), Steps(batch)
    for views in _endless(loader, steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(views)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        clock.tick(loss.item())
    clock.say()


def _endless(loader: DataLoader, steps: int) -> Iterator:
    done = 0
    while True:
        for views in loader:
            if done == steps:
                return
            done += 1
            yield views
