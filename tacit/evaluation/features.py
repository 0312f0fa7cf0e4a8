"""Features of a data set: what every protocol that leaves the encoder alone starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from tacit.data import Source
from tacit.encoders import Encoder
from tacit.errors import DataError
from tacit.evaluation import cache as kept
from tacit.evaluation import choices
from tacit.views import FilmInputs, Plain, SequenceInputs, SoundInputs, TextInputs, WaveInputs
from tacit.views.kinds import AnyInputs

RAW_SIDE = 32  # raw pixels of larger inputs are averaged down to this side
PART = 8192  # records computed between two saves of the cache


@dataclass(frozen=True)
class Features:
    """x: [N, D] float32; y: [N] int64 or None; index: [N] the records' numbers; bad: (name, reason) of the others.

    `more` holds every choice of feature that was asked for, by name; x is the first of them.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    bad: list[tuple[str, str]]
    more: dict[str, Tensor] = field(default_factory=dict)

    def pick(self, rows: Tensor) -> Features:
        """Those at these positions [n] of its own, or where a mask [N] is true."""
        return Features(
            self.x[rows],
            None if self.y is None else self.y[rows],
            self.index[rows],
            self.bad,
            {name: x[rows] for name, x in self.more.items()},
        )


def features(
    encoder: Encoder,
    source: Source,
    *,
    names: Sequence[str] = ("pooled",),
    batch_size: int = 256,
    workers: int = 0,
    devices: Sequence[torch.device | str] | None = None,
    cache: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of every readable record, the encoder in eval mode, without gradient.

    Inputs are prepared as `encoder.inputs` says. `progress` is called with (records done, records in all).

    Args:
        names: choices of feature, see `choices.CHOICES`; `x` is the first.
        devices: that share every batch; all GPUs when left out, or the CPU.
        cache: take what was computed before for this encoder and these records, and keep what is computed now, so
            that a broken-off extraction goes on where it was.

    Raises:
        DataError: no record could be read, or features that are no numbers.
    """
    choices.check(encoder, names)
    devices = [torch.device(d) for d in devices or all_devices()]
    store = kept.Parts.of(encoder, source, names) if cache else None
    encoder = encoder.to(devices[0]).eval()
    copies = [encoder, *(copy.deepcopy(encoder).to(device) for device in devices[1:])]

    def one(job: tuple[Encoder, torch.device, Tensor]) -> dict[str, Tensor]:
        replica, device, x = job
        with torch.no_grad():  # which every thread has of its own
            found = choices.choose(replica, replica.inputs.prepare(x.to(device)), names)
        return {name: y.cpu() for name, y in found.items()}

    with ThreadPoolExecutor(len(devices)) as pool:

        def make(x: Tensor) -> dict[str, Tensor]:
            found = list(pool.map(one, zip(copies, devices, x.chunk(len(devices)))))  # noqa: B905 a batch may be short
            return {name: torch.cat([part[name] for part in found]) for name in names}

        return _collect(
            source,
            encoder.inputs,
            make,
            batch_size=batch_size,
            workers=workers,
            progress=progress,
            store=store,
            names=names,
        )


def all_devices() -> list[torch.device]:
    """Every GPU, or the CPU."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return gpus or [torch.device("cpu")]


def raw(
    source: Source,
    inputs: AnyInputs,
    *,
    batch_size: int = 256,
    workers: int = 0,
    progress: Callable | None = None,
) -> Features:
    """The prepared pixels themselves, flattened; averaged down to 32 x 32 where they are larger.

    Of sounds the mean and the standard deviation over time of every log-mel band: [N, 2 mels]; of films those of every
    pixel, of sentences how often each word comes, of feature sequences `SequenceInputs.summary`.
    """
    inputs = inputs.log_mel if isinstance(inputs, WaveInputs) else inputs
    vectors = plain(inputs)
    how = {"batch_size": batch_size, "workers": workers, "progress": progress}
    return _collect(source, inputs, lambda x: {"pooled": vectors(inputs.prepare(x))}, **how)


def plain(inputs: AnyInputs) -> Callable[[Tensor], Tensor]:
    """What `raw` makes of prepared inputs [B, ...]: [B, D]."""

    def of_spectrograms(x: Tensor) -> Tensor:
        return torch.cat([x[:, 0].mean(1), x[:, 0].std(1, correction=0)], 1)

    def of_pictures(x: Tensor) -> Tensor:
        if inputs.size > RAW_SIDE:
            x = F.interpolate(x, size=(RAW_SIDE, RAW_SIDE), mode="area")
        return x.flatten(1)

    def of_words(x: Tensor) -> Tensor:
        counts = torch.zeros(len(x), len(inputs.words) + 1)
        return counts.scatter_add_(1, x.cpu().flatten(1), torch.ones(x.shape).flatten(1))[:, 1:]

    if isinstance(inputs, WaveInputs):
        return lambda x: of_spectrograms(inputs.log_mel.prepare(x))
    if isinstance(inputs, FilmInputs):
        return lambda x: of_pictures(torch.cat([x.mean(2), x.std(2, correction=0)], 1))
    if isinstance(inputs, TextInputs):
        return of_words
    if isinstance(inputs, SequenceInputs):
        return inputs.summary
    return of_spectrograms if isinstance(inputs, SoundInputs) else of_pictures


@torch.no_grad()
def _collect(
    source: Source, inputs: AnyInputs, make, *, batch_size, workers, progress, store=None, names=("pooled",)
) -> Features:
    parts = store.load() if store else []
    done = kept.records_in(parts)
    rest = Subset(Plain(source, inputs), range(done, len(source)))
    loader = DataLoader(rest, batch_size=batch_size, num_workers=workers, collate_fn=Plain.collate)
    part = kept.Part.empty()
    for batch in loader if len(rest) else ():
        found = make(batch["image"]) if batch["image"] is not None else {}
        part.add(batch["index"], found, [(int(i), why) for i, why in batch["bad"]])
        done += len(batch["index"]) + len(batch["bad"])
        if part.records >= PART or done == len(source):
            parts.append(part.closed())
            if store:
                store.save(parts[-1])
            part = kept.Part.empty()
        if progress is not None:
            progress(done, len(source))
    return _joined(source, parts, names)


def _joined(source: Source, parts: list[kept.Part], names: Sequence[str]) -> Features:
    bad = [(source.name(i), why) for part in parts for i, why in part.bad]
    full = [part for part in parts if len(part.index)]
    if not full:
        raise DataError(f"None of the {len(source):,} records can be read; the first: {bad[0][0]}: {bad[0][1]}.")
    index = torch.cat([part.index for part in full])
    more = {name: torch.cat([part.x[name] for part in full]) for name in names}
    for name, x in more.items():
        if not torch.isfinite(x).all():
            row = int((~torch.isfinite(x)).any(1).nonzero()[0])
            raise DataError(
                f"The features ({name}) of {source.name(int(index[row]))} are not numbers: the encoder is broken."
            )
    y = None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])
    return Features(more[names[0]], y, index, bad, more)
