"""How feature sequences of text, audio and vision are prepared for an encoder: one row of numbers a record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.data import Source
from tacit.data.sequences import MODALITIES, UNKNOWN, Clip, Packing
from tacit.errors import BadRecord, DataError


@dataclass(frozen=True)
class SequenceInputs:
    """Text, audio and vision packed into [1, n] float32, position by position; NaN is padding, or a missing modality.

    lengths:    most positions of text, audio and vision; dims: numbers of a position, 0 for a modality that is not read
    vocabulary: ids that a word may have, 0 (padding) and the unknown word included; 0 where text is vectors or none
    words:      those that ids stand for, from 2 on; empty where the data holds ids
    mean, std:  of every dimension of text (of vectors), audio and vision, one after another, of the training data
    """

    lengths: tuple[int, int, int]
    dims: tuple[int, int, int]
    vocabulary: int = 0
    words: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    channels: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int]:
        return 1, self.packing.size

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.lengths, self.dims, self.vocabulary > 0, self.words)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that are read."""
        return tuple(name for name, dim in zip(MODALITIES, self.dims, strict=True) if dim)

    def centre(self, clip: Clip) -> Packing:
        return self.packing

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """Rows [B, 1, n] -> [B, T, D] of every modality that is read."""
        return unpack(x, self.lengths, self.dims)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> Tensor:
        """Rows [B, 1, n] as packed -> float32 with every dimension normalised; ids and NaN stay as they are."""
        mean, std = self._levels
        return (x.float() - mean.to(x.device)) / std.to(x.device)

    @cached_property
    def _levels(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every number of a row [n]; 0 and 1 of ids."""
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        start = 0
        for name, length, dim in zip(MODALITIES, self.lengths, self.dims, strict=True):
            ids = name == "text" and self.vocabulary
            for out, values, plain in zip(rows, (self.mean, self.std), (0.0, 1.0), strict=True):
                own = torch.full((dim,), plain) if ids or not values else torch.tensor(values[start : start + dim])
                out.append(own.repeat(length))
            start += 0 if ids else dim
        return torch.cat(rows[0]), torch.cat(rows[1])

    @torch.no_grad()
    def summary(self, x: Tensor) -> Tensor:
        """Prepared rows [B, 1, n] -> [B, D]: of each modality the mean and the deviation of every dimension over time,
        0 where it is missing; of ids how often each occurs, as a share."""
        found = []
        for name, part in self.parts(x).items():
            valid = ~part.isnan().any(-1)
            count = valid.sum(1, keepdim=True).clamp_min(1)
            if name == "text" and self.vocabulary:
                bag = part.new_zeros(len(part), self.vocabulary)
                ids = part[..., 0].nan_to_num(0).long().clamp(0, self.vocabulary - 1)
                found.append(bag.scatter_add_(1, ids, valid.to(part.dtype)) / count)
                continue
            values = part.nan_to_num(0)
            mean = values.sum(1) / count
            spread = ((values - mean[:, None]).square() * valid[..., None]).sum(1) / count
            found += [mean, spread.sqrt()]
        return torch.cat(found, 1)

    def without(self, x: Tensor, absent: tuple[str, ...]) -> Tensor:
        """Rows [B, 1, n] in which these modalities are missing."""
        x, start = x.clone(), 0
        for name, length, dim in zip(MODALITIES, self.lengths, self.dims, strict=True):
            if name in absent:
                x[..., start : start + length * dim] = float("nan")
            start += length * dim
        return x

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sequences"} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SequenceInputs:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "kind"})


def unpack(x: Tensor, lengths: tuple[int, ...], dims: tuple[int, ...]) -> dict[str, Tensor]:
    """Rows [B, …, n] -> [B, T, D] of every modality whose dimension is not 0; no copies."""
    x, found, start = x.flatten(1), {}, 0
    for name, length, dim in zip(MODALITIES, lengths, dims, strict=True):
        if dim:
            found[name] = x[:, start : start + length * dim].unflatten(1, (length, dim))
        start += length * dim
    return found


@dataclass(frozen=True)
class Measured:
    """What is read off the training data: the inputs, and how many positions a second has, 0 where unknown."""

    inputs: SequenceInputs
    rates: tuple[float, float, float]


def measure(source: Source, *, most: int = 500, words: int = 10_000, least: int = 2, look: int = 20_000) -> Measured:
    """The inputs that fit a training set, from its first `look` readable records.

    Args:
        most: positions of any modality, at most; what is longer is cut.
        words: most words of the vocabulary, those that occur in `least` records or more, the frequent ones first.

    Raises:
        DataError: no record can be read, or dimensions that differ.
    """
    lengths, dims, sums = {}, {}, {}
    often: dict[str, int] = {}
    rates: dict[str, list[float]] = {}
    largest, ids, seen = 0, False, 0
    for index in range(min(len(source), look)):
        try:
            clip = source.record(index)["sequences"]
            clip.check()
        except BadRecord:
            continue
        seen += 1
        for name, track in clip.tracks.items():
            values = track.values
            lengths[name] = max(lengths.get(name, 0), min(len(values), most))
            dim = 1 if values.ndim == 1 else values.shape[1]
            if dims.setdefault(name, (dim, values.ndim)) != (dim, values.ndim):
                raise DataError(
                    f"{source.title}: {name} of {source.name(index)} has {dim} numbers a position, and others have "
                    f"{dims[name][0]}. Features of one kind are needed, by the same extractor."
                )
            if track.times is not None and len(values) > 1 and (span := track.times[-1, 0] - track.times[0, 0]) > 0:
                rates.setdefault(name, []).append((len(values) - 1) / span)
            if values.dtype.kind == "U":
                for word in set(values[track.valid].tolist()):
                    often[word] = often.get(word, 0) + 1
            elif values.ndim == 1:
                largest = max(largest, int(values.max()))
            else:
                x = values[track.valid].astype(np.float64)
                count, total, square = sums.get(name, (0, 0.0, 0.0))
                sums[name] = count + len(x), total + x.sum(0), square + np.square(x).sum(0)
            ids |= values.ndim == 1
    if not seen:
        raise DataError(f"{source.title}: no record can be read.")
    known = sorted((w for w, n in often.items() if n >= least), key=lambda w: (-often[w], w))[:words]
    mean, std = [], []
    for name in MODALITIES:
        if name in sums:
            count, total, square = sums[name]
            centre = total / count
            mean += [float(f"{v:.6g}") for v in centre]
            std += [float(f"{v:.6g}") for v in np.sqrt(np.maximum(square / count - centre**2, 0)).clip(1e-3)]
    inputs = SequenceInputs(
        lengths=tuple(lengths.get(m, 0) for m in MODALITIES),
        dims=tuple(dims.get(m, (0, 0))[0] for m in MODALITIES),
        vocabulary=(len(known) + UNKNOWN + 1 if often else max(largest, UNKNOWN) + 1) if ids else 0,
        words=tuple(known),
        mean=tuple(mean), std=tuple(std),
    )  # fmt: skip
    return Measured(inputs, tuple(float(np.median(rates[m])) if m in rates else 0.0 for m in MODALITIES))
