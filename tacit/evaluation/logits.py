"""What a classifier says of every record: of its middle, or of several pieces of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.errors import DataError
from tacit.evaluation.windows import WINDOWS, read_windows
from tacit.views import Plain

PIECES = 32  # that go through an encoder together


@torch.no_grad()
def logits_of(
    model: nn.Module, source: Source, *, workers: int = 0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    """[M, classes] in float32 for the readable records of `source`, from their centre crops; their numbers [M]; and
    what could not be read, as (name, reason). `model` has the `encoder` that says how they are prepared.

    Raises:
        DataError: no record can be read.
    """
    model, inputs = model.to(device).eval(), model.encoder.inputs
    loader = DataLoader(Plain(source, inputs), batch_size=256, num_workers=workers, collate_fn=Plain.collate)
    found, index, bad = [], [], []
    for batch in loader:
        bad += [(source.name(i), reason) for i, reason in batch["bad"]]
        if batch["image"] is not None:
            found.append(model(inputs.prepare(batch["image"].to(device))).float().cpu())
            index.append(batch["index"])
    if not found:
        raise DataError(
            f"None of {len(source):,} records can be read" + (f"; {bad[0][0]}: {bad[0][1]}." if bad else ".")
        )
    return torch.cat(found), torch.cat(index), bad


@torch.no_grad()
def windowed_logits(
    model: nn.Module, source: Source, *, windows: int = WINDOWS, places: int = 1, workers: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:  # fmt: skip
    """The same for films and waveforms: means of the logits of `windows` pieces of each, of films at `places` places.

    Records that lack what the encoder looks at are left out.

    Raises:
        DataError: nothing can be read.
    """
    model, bad = model.to(device).eval(), []
    how = {"places": places, "batch_size": max(PIECES // (windows * places), 1), "workers": workers, "device": device}
    rows = list(read_windows(model, source, model.encoder.inputs, windows, bad, **how))
    return torch.stack([each.mean(0) for _, each in rows]), torch.tensor([number for number, _ in rows]), bad
