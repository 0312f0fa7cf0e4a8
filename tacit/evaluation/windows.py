"""Records looked at in several pieces, spread evenly over their time: films, waveforms and transcripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import BadRecord, DataError
from tacit.evaluation import choices
from tacit.evaluation.features import Features, all_devices, plain
from tacit.views import FilmInputs, TextInputs, WaveInputs, field_of
from tacit.views.dataset import stack

WINDOWS = 4  # of a clip, as VATT averages them
WINDOWED = FilmInputs | WaveInputs | TextInputs


def windowed(encoder: Encoder) -> bool:
    """Whether records are looked at in pieces of one length, that are no spectrograms."""
    inputs = encoder.inputs
    return isinstance(inputs, FilmInputs | TextInputs) or (isinstance(inputs, WaveInputs) and inputs.fixed)


@torch.no_grad()
def read_windows(
    make: Callable[[Tensor], Tensor], source: Source, inputs: WINDOWED, windows: int, bad: list[tuple[str, str]], *,
    places: int = 1, batch_size: int = 32, workers: int = 0, device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """(number of the record, what `make` says of its pieces [windows x places, D]) of every record that has the
    modality.

    Args:
        make: prepared inputs [B, ...] -> float [B, D].
        windows: pieces of a film or a sound; of a transcript there is one, the sentences nearest to its middle.
        places: crops of each piece of a film, along its longer side.
        bad: gets (name, reason) of what cannot be read.

    Raises:
        DataError: nothing can be read.
    """
    data, done, some_read = _Windows(source, inputs, windows, places), 0, False
    for batch in DataLoader(data, batch_size, num_workers=workers, collate_fn=list):
        good = [(number, pieces) for number, pieces, _ in batch if pieces is not None]
        bad += [(source.name(number), why) for number, _, why in batch if why]
        if good:
            x = stack([piece for _, pieces in good for piece in pieces]).to(device)
            each = make(inputs.prepare(x)).float().cpu().unflatten(0, (len(good), -1))
            some_read = True
            yield from ((number, y) for (number, _), y in zip(good, each, strict=True))
        done += len(batch)
        if progress is not None:
            progress(done, len(source))
    if not some_read:
        raise DataError(f"None of the {len(source):,} records of {source.title} has {data.field} that can be read.")


class _Windows(Dataset):
    """`self[i]`: (i, the record's pieces, ""), (i, None, "") where it lacks the modality, or (i, None, why)."""

    def __init__(self, source: Source, inputs: WINDOWED, windows: int, places: int = 1):
        self.source, self.inputs, self.windows, self.field = source, inputs, windows, field_of(inputs)
        self.places = {"places": places} if self.field == "video" else {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, list[np.ndarray] | None, str]:
        try:
            found = self.source.record(index, (self.field,))[self.field]
            if found is None:
                return index, None, ""
            if self.field != "text":
                return index, found.crops(self.inputs.windows(self.windows, *found.extent, **self.places)), ""
            ids = self.inputs.encode(found.crops([self.inputs.centre()])[0])
            return (index, [ids], "") if ids.any() else (index, None, "no word that the run knows")
        except BadRecord as error:
            return index, None, str(error)


def windowed_features(
    encoder: Encoder, source: Source, names: Sequence[str] = ("pooled",), *, raw: bool = False,
    windows: int = WINDOWS, workers: int = 0, device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:  # fmt: skip
    """Features as `features` gives them of the middle of a record: the means over so many pieces of it.

    Args:
        names: choices of feature. raw: of no encoder, but what `features.raw` takes of each piece.

    Raises:
        DataError: nothing can be read, or features that are no numbers.
    """
    inputs = encoder.inputs
    choices.check(encoder, names)
    device = torch.device(device) if device else all_devices()[0]
    widths: list[int] = []
    plainly = plain(inputs) if raw else None
    if not raw:
        encoder.to(device).eval()

    def make(x: Tensor) -> Tensor:
        found = [plainly(x)] if plainly else list(choices.choose(encoder, x, names).values())
        widths[:] = [y.shape[1] for y in found]
        return torch.cat(found, 1)

    bad: list[tuple[str, str]] = []
    how = {"workers": workers, "device": device, "progress": progress}
    rows = [(number, each.mean(0)) for number, each in read_windows(make, source, inputs, windows, bad, **how)]
    index, x = torch.tensor([number for number, _ in rows]), torch.stack([mean for _, mean in rows])
    if not torch.isfinite(x).all():
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise DataError(f"The features of {source.name(int(index[row]))} are not numbers: the encoder is broken.")
    more = dict(zip(("pooled",) if raw else names, x.split(widths, 1), strict=True))
    y = None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])
    return Features(next(iter(more.values())), y, index, bad, more)
