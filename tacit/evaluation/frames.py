"""Vectors of every frame of recordings of any length, which are read in pieces of the encoder's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tacit.data import Source
from tacit.encoders import Encoder, step, token_grid
from tacit.errors import DataError, UsageError
from tacit.evaluation import choices
from tacit.evaluation.features import Features, all_devices
from tacit.views import Grid, Lengths, Piece, Pieces, SoundInputs, field_of

BLOCK = 1024  # recordings whose lengths are looked up at once
BATCH = 32  # pieces that go through an encoder together


def check_pieces(encoder: Encoder) -> None:
    """Raises `UsageError` unless the encoder looks at spectrograms of one length."""
    if field_of(encoder.inputs) != "audio":
        raise UsageError(f"Frames and whole recordings are of sounds, and {encoder.name} looks at images.")
    if not isinstance(encoder.inputs, SoundInputs):
        raise UsageError(
            f"{encoder.name} takes the waveform, and recordings are read in pieces for encoders of spectrograms alone. "
            "Without --frames and --whole it hears the middle."
        )


def check_frames(encoder: Encoder) -> None:
    """Raises `UsageError` unless the encoder gives tokens of sounds."""
    check_pieces(encoder)
    if "tokens" not in encoder.can:
        raise UsageError(
            f"{encoder.name} gives one vector a sound and no tokens. Take the run or the encoder's folder itself."
        )


def grid_of(encoder: Encoder, overlap: float = 0.0) -> Grid:
    """The encoder's frames: one a column of patches, which all end and begin at the same times."""
    return Grid.of(encoder.inputs, step(encoder), overlap)


def of_encoder(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """Prepared [B, 1, rows, mels] -> [B, frames, D]: tokens after the last norm; of several bands' patches of a time
    the mean."""
    check_frames(encoder)
    return lambda x: token_grid(encoder, x).mean(2)


def of_bands(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """Prepared [B, 1, rows, mels] -> [B, frames, mels]: log-mel bands, the mean over a frame's rows."""
    rows = step(encoder)

    def means(x: Tensor) -> Tensor:
        return x[:, 0, : x.shape[2] // rows * rows].unflatten(1, (-1, rows)).mean(2)

    return means


@torch.no_grad()
def read_pieces(
    make: Callable[[Tensor], Tensor],
    encoder: Encoder,
    source: Source,
    grid: Grid,
    bad: list[tuple[str, str]],
    *,
    batch_size: int = BATCH,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Piece, Tensor]]:
    """(number of the record, piece, what `make` says of it) in the order of records and of time.

    Args:
        make: prepared [B, 1, rows, mels] -> float [B, ...]. encoder: prepares the inputs; it is put into eval mode.
        bad: gets (name, reason) of recordings, or parts of them, that are not read, which are left out.
        progress: called with (recordings done, in all).

    Raises:
        DataError: images, vectors that are no numbers, or not one recording that can be read.
    """
    some_read = False
    device = torch.device(device) if device else all_devices()[0]
    encoder.to(device).eval()
    lengths = Lengths(source, encoder.inputs, grid)
    for begin in range(0, len(source), BLOCK):
        some = range(begin, min(begin + BLOCK, len(source)))
        look = torch.utils.data.Subset(lengths, some)
        found = [one for part in DataLoader(look, 64, num_workers=workers, collate_fn=list) for one in part]
        unread = {i: [why] for i, (n, why) in zip(some, found, strict=True) if not n}
        sizes = {i: n for i, (n, _) in zip(some, found, strict=True) if n}
        data = Pieces(source, encoder.inputs, grid, list(sizes), list(sizes.values()))
        for batch in DataLoader(data, batch_size, num_workers=workers, collate_fn=Pieces.collate) if sizes else ():
            for number, why in batch["bad"]:
                record, piece = data.at(number)
                unread.setdefault(record, []).append(_where(piece, grid, why))
            made = make(encoder.inputs.prepare(batch["waves"].to(device))) if batch["numbers"] else ()
            for number, y in zip(batch["numbers"], made, strict=True):
                record, piece = data.at(number)
                if not torch.isfinite(y).all():
                    raise DataError(f"The features of {source.name(record)} are not numbers: the encoder is broken.")
                some_read = True
                yield record, piece, y.float().cpu()
            if progress is not None:
                last = max([*batch["numbers"], *(number for number, _ in batch["bad"])])
                progress(data.at(last)[0] + 1, len(source))
        bad += [(source.name(i), _reason(whys)) for i, whys in sorted(unread.items())]
        if progress is not None:
            progress(some[-1] + 1, len(source))
    if not some_read:
        said = f"; the first: {': '.join(bad[0])}" if bad else ""
        raise DataError(f"None of the {len(source):,} recordings can be read{said}.")


def _where(piece: Piece, grid: Grid, why: str) -> str:
    return f"from {piece.start * grid.seconds:.1f} s on: {why}" if piece.start else why


def _reason(whys: list[str]) -> str:
    return whys[0] if len(whys) == 1 else f"{whys[0]} (and {len(whys) - 1:,} more parts of it)"


def frames_of(
    make: Callable[[Tensor], Tensor], encoder: Encoder, source: Source, grid: Grid, bad: list[tuple[str, str]], **how
) -> Iterator[tuple[int, int, Tensor]]:
    """(number of the record, first frame, vectors [n, D]) of stretches, `make` and the rest as for `read_pieces`.

    Frame k lasts from k to k + 1 times `grid.seconds`. What fills no frame at the end is left out, of a recording of
    one frame and more.
    """
    for index, (start, first, stop), y in read_pieces(make, encoder, source, grid, bad, **how):
        yield index, first, y[first - start : stop - start]


def wholes_of(
    make: Callable[[Tensor], Tensor], encoder: Encoder, source: Source, grid: Grid, bad: list[tuple[str, str]], **how
) -> Iterator[tuple[int, Tensor]]:
    """(number of the record, vector [D]): the mean of what `make` says of its pieces, by the frames they add; the rest
    as for `read_pieces`."""
    current, total, weight = -1, torch.zeros(()), 0
    for index, piece, y in read_pieces(make, encoder, source, grid, bad, **how):
        if index != current and weight:
            yield current, total / weight
        if index != current:
            current, total, weight = index, torch.zeros_like(y), 0
        total, weight = total + y * (piece.stop - piece.first), weight + piece.stop - piece.first
    if weight:
        yield current, total / weight


def whole_features(
    encoder: Encoder, source: Source, names: Sequence[str] = ("pooled",), *, bands: bool = False, **how
) -> Features:
    """Features of all of every recording, as `features` gives them of its middle: the means over its pieces.

    Args:
        names: choices of feature. bands: of no encoder, but mean and standard deviation over a piece of every log-mel
            band. how: as for `read_pieces`.

    Raises:
        UsageError: an encoder of images, or one that takes the waveform. DataError: nothing can be read.
    """
    check_pieces(encoder)
    choices.check(encoder, names)
    widths: list[int] = []

    def make(x: Tensor) -> Tensor:
        if bands:
            found = [torch.cat([x[:, 0].mean(1), x[:, 0].std(1, correction=0)], 1)]
        else:
            found = list(choices.choose(encoder, x, names).values())
        widths[:] = [y.shape[1] for y in found]
        return torch.cat(found, 1)

    bad: list[tuple[str, str]] = []
    rows = list(wholes_of(make, encoder, source, grid_of(encoder), bad, **how))
    index, x = torch.tensor([i for i, _ in rows]), torch.stack([y for _, y in rows])
    more = dict(zip(("pooled",) if bands else names, x.split(widths, 1), strict=True))
    y = None if source.labels is None else torch.from_numpy(source.labels[index.numpy()])
    return Features(next(iter(more.values())), y, index, bad, more)
