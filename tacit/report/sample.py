"""A run's encoder on a sample of records: what the maps, the spectrum and the neighbours are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tacit import encoders
from tacit.data import Source, mix, open_source
from tacit.encoders import Encoder
from tacit.errors import DataError
from tacit.report.pictures import Thumbnails
from tacit.run import Run
from tacit.views import Inputs, Plain, SoundInputs, field_of

BATCH = 64


@dataclass(frozen=True)
class Sample:
    """Readable records and their features.

    x:      [N, D] float32, the pooled features as they are
    labels: [N] class numbers or None; never seen in training, only used to colour and to name
    """

    x: np.ndarray
    names: list[str]
    labels: np.ndarray | None
    classes: list[str] | None
    thumbnails: Thumbnails
    records: int
    unreadable: int

    def said(self, row: int) -> str:
        """The record's name, and its class where it has one."""
        return self.names[row] if self.labels is None else f"{self.names[row]} ({self.classes[self.labels[row]]})"


def take(
    run: Run, data: Any, *, limit: int, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> Sample:
    """Features of at most `limit` records, drawn by `seed`, of `data` or of what the run was trained on.

    Raises:
        DataError: no encoder yet, no data where the run had it, or none of it readable.
    """
    encoder = encoders.load(run.path)
    source = _open(run, data, encoder.inputs, of_clips=(run.path / "joint" / "joint.json").is_file())
    rows = np.sort(np.random.default_rng(seed).permutation(len(source))[:limit])
    chosen = source.select(rows)
    tell = progress and (lambda done: progress(f"features, {run.path.name}", done, len(rows)))
    x, kept = _features(encoder, chosen, tell)
    return Sample(
        x=x,
        names=[chosen.name(int(i)) for i in kept],
        labels=None if chosen.labels is None else chosen.labels[kept],
        classes=chosen.classes,
        thumbnails=Thumbnails(chosen, kept, encoder.inputs),
        records=len(source),
        unreadable=len(rows) - len(kept),
    )


def _open(run: Run, data: Any, inputs: Inputs | SoundInputs, of_clips: bool) -> Source:
    kind = "video" if of_clips else field_of(inputs)  # of clips all that they hold is shown, whatever is encoded
    how = {"channels": inputs.channels, "kind": kind}
    if data is not None:
        return open_source(data, **how)
    return mix([open_source(one, **how) for one in run.settings["data"]])


@torch.no_grad()
def _features(
    encoder: Encoder, source: Source, tell: Callable[[int], None] | None
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """[N, D] features of the readable records, and their [N] numbers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    inputs, parts, kept = encoder.inputs, [], []
    for batch in DataLoader(Plain(source, inputs), batch_size=BATCH, collate_fn=Plain.collate):
        if batch["image"] is not None:
            parts.append(encoder(inputs.prepare(batch["image"].to(device))).float().cpu())
            kept.append(batch["index"])
        if tell is not None:
            tell(sum(map(len, kept)))
    if not parts:
        raise DataError(f"none of {len(source):,} records drawn from the data can be read")
    x = torch.cat(parts).numpy()
    if not np.isfinite(x).all():
        raise DataError("the encoder's features are no numbers: the run broke, see its curves")
    return x, torch.cat(kept).numpy()
