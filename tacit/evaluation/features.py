"""Features of a data set: what every protocol that leaves the encoder alone starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError
from tacit.views import Inputs, Plain

RAW_SIDE = 32  # raw pixels of larger inputs are averaged down to this side


@dataclass(frozen=True)
class Features:
    """x: [N, D] float32; y: [N] int64 or None; index: [N] the records' numbers; bad: (name, reason) of the others."""

    x: Tensor
    y: Tensor | None
    index: Tensor
    bad: list[tuple[str, str]]


def features(
    encoder: Encoder,
    source: Source,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Pooled features of every readable record, the encoder in eval mode, without gradient.

    Inputs are prepared as `encoder.inputs` says. `progress` is called with (records done, records in all).

    Raises:
        DataError: no record could be read, or features that are no numbers.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    encoder = encoder.to(device).eval()
    return _collect(
        source, encoder.inputs, lambda x: encoder(encoder.inputs.prepare(x)).float(),
        batch_size=batch_size, workers=workers, device=device, progress=progress,
    )  # fmt: skip


def raw(
    source: Source, inputs: Inputs, *, batch_size: int = 256, workers: int = 0, progress: Callable | None = None
) -> Features:
    """The prepared pixels themselves, flattened; averaged down to 32 x 32 where they are larger."""

    def flatten(x: Tensor) -> Tensor:
        x = inputs.prepare(x)
        if inputs.size > RAW_SIDE:
            x = F.interpolate(x, size=(RAW_SIDE, RAW_SIDE), mode="area")
        return x.flatten(1)

    return _collect(
        source, inputs, flatten, batch_size=batch_size, workers=workers, device=torch.device("cpu"), progress=progress
    )


@torch.no_grad()
def _collect(source: Source, inputs: Inputs, make, *, batch_size, workers, device, progress) -> Features:
    loader = DataLoader(Plain(source, inputs), batch_size=batch_size, num_workers=workers, collate_fn=Plain.collate)
    xs, ys, indices, bad, done = [], [], [], [], 0
    for batch in loader:
        bad += [(source.name(index), reason) for index, reason in batch["bad"]]
        if batch["image"] is not None:
            xs.append(make(batch["image"].to(device)).cpu())
            ys.append(batch["label"])
            indices.append(batch["index"])
        done += len(batch["index"]) + len(batch["bad"])
        if progress is not None:
            progress(done, len(source))
    if not xs:
        raise DataError(f"None of the {len(source):,} records can be read; the first: {bad[0][0]}: {bad[0][1]}.")
    x, index = torch.cat(xs), torch.cat(indices)
    if not torch.isfinite(x).all():
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise DataError(f"The features of {source.name(int(index[row]))} are not numbers: the encoder is broken.")
    return Features(x, torch.cat(ys) if source.labels is not None else None, index, bad)
