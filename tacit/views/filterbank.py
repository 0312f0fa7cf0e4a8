"""Log-mel filterbanks of batches of sound, where the model is: Kaldi's, as AST and ASiT take them, and ATST's in dB."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.views.crop import has_compiler

WINDOWS = ("hanning", "povey")
FLOOR = float(np.finfo(np.float32).eps)  # of mel energies, Kaldi's
QUIET = 1e-10  # the same in dB: nothing lies below -100
HELD = 3 * 2**17  # samples of frames that a core works on at a time, so that they stay in its cache


@torch.no_grad()
def kaldi_fbank(
    waves: Tensor, rate: int, *, mels: int = 128, window: str = "hanning", length: float = 0.025, shift: float = 0.01,
    low: float = 20.0, high: float = 0.0, preemphasis: float = 0.97, remove_dc: bool = True, snip_edges: bool = True,
) -> Tensor:  # fmt: skip
    """`compute-fbank-feats` of Kaldi without dither and energy: float [B, n] in [-1, 1] -> float32 [B, frames, mels].

    Every frame loses its mean, is pre-emphasised, windowed and filled up with zeros to a power of two; the power
    spectrum goes through triangles in the mel scale, and the natural logarithm is taken of at least `FLOOR`.

    Args:
        rate: samples a second. mels: number of triangles, between `low` and `high` Hz; 0 or less counts from Nyquist.
        window: "hanning", as AST and ASiT have it, or "povey", Kaldi's own. length, shift: of frames, in seconds.
        snip_edges: only frames that lie inside are there, 1 + (n - length) // shift of them; otherwise (n + shift / 2)
            // shift, centred, and what hangs out is mirrored at the ends.

    Raises:
        UsageError: no such window, no frame fits, or the range of frequencies is empty.
    """
    size, step = int(rate * length), int(rate * shift)
    padded = 1 << (size - 1).bit_length()
    x = waves.float()
    if not snip_edges:
        x = _mirrored(x, size, step)
    elif x.shape[1] < size:
        raise UsageError(f"{x.shape[1]} samples hold no frame of {length:g} s at {rate:,} Hz, which is {size} samples.")
    weights = _constant(_window, x.device, size, window)
    bank = _filters(_kaldi_bank, str(x.device), mels, padded, rate, low, high)

    def spectra(frames: Tensor) -> Tensor:
        frames = frames - frames.mean(2, keepdim=True) if remove_dc else frames.clone()
        if preemphasis:
            first = frames[..., :1] * (1 - preemphasis)
            frames = torch.cat([first, frames[..., 1:].sub(frames[..., :-1], alpha=preemphasis)], dim=2)
        return torch.fft.rfft(frames.mul_(weights), n=padded)

    return _energies(x.unfold(1, size, step), spectra, bank).clamp_min_(FLOOR).log_()


@torch.no_grad()
def mel_db(
    waves: Tensor, rate: int, *, mels: int = 64, length: float = 0.064, shift: float = 0.01, low: float = 60.0,
    high: float = 7800.0, top_db: float | None = 80.0,
) -> Tensor:  # fmt: skip
    """ATST's mel power in dB: float [B, n] in [-1, 1] -> float32 [B, 1 + n // shift, mels], of -100 and more.

    Frames of `length` seconds, centred at multiples of `shift` with the ends mirrored, under a periodic Hann window;
    triangles in Hz at equal distances on the mel scale; 10 log10, and nothing lies `top_db` or more below the loudest
    value of its own excerpt.

    Raises:
        UsageError: an excerpt of half a frame or less, or the range of frequencies is empty.
    """
    size, step = round(rate * length), round(rate * shift)
    x = waves.float()
    if x.shape[1] <= size // 2:
        raise UsageError(f"{x.shape[1]} samples are not more than half a frame, {size // 2} samples at {rate:,} Hz.")
    weights = _constant(_window, x.device, size, "periodic")
    bank = _filters(_htk_bank, str(x.device), mels, size, rate, low, high)

    half = size // 2
    x = torch.cat([x[:, 1 : half + 1].flip(1), x, x[:, -half - 1 : -1].flip(1)], dim=1)
    energies = _energies(x.unfold(1, size, step), lambda frames: torch.fft.rfft(frames * weights), bank)
    db = energies.clamp_min_(QUIET).log10_().mul_(10)
    return db if top_db is None else torch.maximum(db, db.amax((1, 2), keepdim=True) - top_db, out=db)


def _energies(
    frames: Tensor, spectra: Callable[[Tensor], Tensor], filters: tuple[tuple[int, int, Tensor], ...]
) -> Tensor:
    """Frames [B, F, size], by their `spectra` [B, F, K] and `_filters` -> energies [B, F, mels]; on a CPU of some waves
    at a time (see `HELD`), in float32 under autocast, too."""
    waves, count, size = frames.shape
    some = HELD * torch.get_num_threads() // (count * size) if frames.device.type == "cpu" else waves
    widths = [part.shape[1] for *_, part in filters]
    made = frames.new_empty(waves, count, sum(widths))
    with torch.autocast(frames.device.type, enabled=False):
        for part, its in zip(frames.split(max(some, 1)), made.split(max(some, 1)), strict=True):
            power = _power(spectra(part)).flatten(0, 1)
            for (first, end, heights), bands in zip(filters, its.flatten(0, 1).split(widths, 1), strict=True):
                torch.mm(power[:, first:end], heights, out=bands)
    return made


def _power(spectrum: Tensor) -> Tensor:
    """Of complex [B, F, K], which may be overwritten."""
    if spectrum.device.type == "cpu" and has_compiler():
        from tacit.views import fused

        return fused.power(spectrum)
    real, imaginary = torch.view_as_real(spectrum).square_().unbind(-1)
    return real + imaginary


def _mirrored(x: Tensor, size: int, step: int) -> Tensor:
    """What centred frames need on both sides; the first and last sample are there twice, as in Kaldi."""
    frames, left = (x.shape[1] + step // 2) // step, size // 2 - step // 2
    right = max((frames - 1) * step + size - left - x.shape[1], 0)
    if max(left, right) > x.shape[1] or not frames:
        raise UsageError(f"{x.shape[1]} samples are too few for centred frames of {size} samples.")
    flipped = x.flip(1)
    x = torch.cat([x, flipped[:, :right]], dim=1)
    return torch.cat([flipped[:, x.shape[1] - right - left :], x], dim=1) if left > 0 else x[:, -left:]


def _constant(make: Callable[..., np.ndarray], device: torch.device, *how) -> Tensor:
    return _kept(make, str(device), *how)


@lru_cache(maxsize=64)
def _kept(make: Callable[..., np.ndarray], device: str, *how) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(make(*how).astype(np.float32)).to(device)


@lru_cache(maxsize=64)
def _filters(make: Callable[..., np.ndarray], device: str, *how) -> tuple[tuple[int, int, Tensor], ...]:
    """A bank [K, mels] in parts, each with the first and the end of the rows that it reads: on a CPU sixteen filters at
    a time, which read few of all bins."""
    bank, found = make(*how).astype(np.float32), []
    width = 16 if device == "cpu" else bank.shape[1]
    for start in range(0, bank.shape[1], width):
        part = bank[:, start : start + width]
        read = np.flatnonzero(part.any(1))
        first, end = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 1)
        with torch.inference_mode(False):
            found.append((first, end, torch.from_numpy(part[first:end].copy()).to(device)))
    return tuple(found)


def _window(size: int, kind: str) -> np.ndarray:
    if kind == "periodic":
        return np.hanning(size + 1)[:-1]
    if kind not in WINDOWS:
        raise UsageError(f"window = {kind!r}: choose one of {', '.join(WINDOWS)}.")
    return np.hanning(size) ** (0.85 if kind == "povey" else 1.0)


def _kaldi_bank(mels: int, size: int, rate: int, low: float, high: float) -> np.ndarray:
    """[size / 2 + 1, mels]: triangles over the mel of each bin's frequency; the last bin, at Nyquist, is not read."""
    high = _checked(low, high, rate, mels)
    edges = np.linspace(_kaldi_mel(low), _kaldi_mel(high), mels + 2)
    mel = _kaldi_mel(np.arange(size // 2) * (rate / size))[:, None]
    return np.concatenate([_triangles(mel, edges), np.zeros((1, mels))])


def _kaldi_mel(hertz):
    return 1127.0 * np.log(1 + np.asarray(hertz) / 700.0)


def _htk_bank(mels: int, size: int, rate: int, low: float, high: float) -> np.ndarray:
    """[size / 2 + 1, mels]: triangles over frequency, whose corners are equally far apart in mel."""
    high = _checked(low, high, rate, mels)
    edges = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), mels + 2)
    return _triangles(np.linspace(0, rate // 2, size // 2 + 1)[:, None], 700 * (10 ** (edges / 2595) - 1))


def _triangles(at: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Heights at `at` [K, 1] of triangles over `edges` [mels + 2]; each begins and ends where its neighbours peak."""
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rising, falling), 0.0)


def _checked(low: float, high: float, rate: int, mels: int) -> float:
    """The upper frequency in Hz."""
    top = high + rate / 2 if high <= 0 else high
    if not 0 <= low < top <= rate / 2 or mels < 1:
        raise UsageError(
            f"{mels} mel bands from {low:g} to {top:g} Hz: at {rate:,} samples a second they must rise from 0 or more "
            f"to at most {rate / 2:g}."
        )
    return top
