"""The photometry of crops on a CPU, compiled: one record after another, each while it is in the cache; and the power of
spectra.

PyTorch goes through a batch in memory for each step of a formula, these loops once for each formula; the formulas are
the same. numba compiles them when they are first called and keeps the result beside this file, or in the user's
cache.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from tacit.views.crop import JITTERS, Crop


def _can_keep() -> bool:
    """Whether there is a folder to keep compiled code in; numba does without only when told so."""
    try:
        numba.njit(cache=True)(_gaussians)
    except RuntimeError:
        return False
    return True


def _gaussians(sigma: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [B, most + 1] from the middle outwards, and how far they reach: five sigma, where they are a millionth of
    the whole, and `most` pixels at most; 0 for no blur."""
    reach = np.minimum(np.ceil(5 * sigma), most).astype(np.int64)
    offset = np.arange(most + 1)
    weights = np.exp(-0.5 * (offset / np.maximum(sigma, 1e-6)[:, None]) ** 2) * (offset <= reach[:, None])
    return (weights / (weights[:, :1] + 2 * weights[:, 1:].sum(1, keepdims=True))).astype(np.float32), reach


# No "nnan": a picture may hold NaN, which a monitor is to see.
_compiled = numba.njit(
    nogil=True, cache=_can_keep(), boundscheck=False, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)
_inlined = numba.njit(inline="always")
_ZERO, _ONE, _TWO, _SIX = np.float32(0), np.float32(1), np.float32(2), np.float32(6)
_R, _G, _B = np.float32(0.299), np.float32(0.587), np.float32(0.114)


def kept() -> bool:
    """Whether the loops were compiled before and wait in a file, rather than for their compiler, some seconds long."""
    folder = _records.stats.cache_path
    return bool(folder) and any(Path(folder).glob(f"{Path(__file__).stem}.{_records.__name__}-*.nbi"))


def crops(images: Tensor, params: dict[str, Tensor], crop: Crop) -> Tensor:
    """`Crop.photometry`: [B, C, H, W] uint8 or float in [0, 1], on a CPU -> float32, normalised."""
    records, out = len(images), torch.empty(images.shape, dtype=torch.float32)
    images = images if images.dtype == torch.uint8 else images.float()
    last = images.shape[1] == 3 and images.permute(0, 2, 3, 1).is_contiguous()
    images = images.permute(0, 2, 3, 1) if last else images.contiguous()
    threads = min(torch.get_num_threads(), records)
    none = np.zeros(records, dtype=bool)
    jitter, order, amounts = none, np.zeros((records, 4), dtype=np.int64), np.zeros((records, 4), dtype=np.float32)
    if crop.jitter:
        jitter, order = params["jitter"].numpy(), params["order"].numpy()
        amounts = np.stack([params[name].float().numpy() for name in JITTERS], 1)
    sigma = params["blur"].float().numpy() if crop.blur_p else none.astype(np.float32)
    weights, reach = _gaussians(sigma, crop.blur_reach or math.ceil(4 * crop.blur_sigma[1]))
    solarize = params["solarize"].numpy() if crop.solarize_p else none
    mean, std = (np.array(values, dtype=np.float32) for values in (crop.inputs.mean, crop.inputs.std))
    scale = np.float32(255 if images.dtype == torch.uint8 else 1)
    work = np.empty((threads, *out.shape[1:]), dtype=np.float32)

    def run(thread: int) -> None:
        _records(
            images.numpy(), last, scale, out.numpy(), work[thread], thread, threads, jitter, order, amounts,
            crop.brightness_adds, params["gray"].numpy(), weights, reach, solarize,
            np.float32(crop.solarize_threshold), mean, std,
        )  # fmt: skip

    if threads == 1:
        run(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
    return out


def power(spectrum: Tensor) -> Tensor:
    """Squares of the magnitudes of complex64 [...], on a CPU -> float32 [...]."""
    out = torch.empty(spectrum.shape, dtype=torch.float32)
    _power(torch.view_as_real(spectrum).numpy().reshape(-1), out.numpy().reshape(-1))
    return out


@_compiled
def _power(x, out):
    for i in range(len(out)):
        out[i] = x[2 * i] * x[2 * i] + x[2 * i + 1] * x[2 * i + 1]


@_compiled
def _records(
    images, last, scale, out, work, first, stride, jitter, order, amounts, adds, gray, weights, reach, solarize,
    threshold, mean, std,
):  # fmt: skip
    colour = out.shape[1] == 3
    for i in range(first, len(images), stride):
        x = out[i]
        _load(images[i], last, scale, x)
        if jitter[i]:
            for place in range(4):
                which = order[i, place]
                amount = np.float32(amounts[i, which])
                if which == 0:
                    _brightness(x, amount, adds)
                elif which == 1:
                    _contrast(x, amount)
                elif colour and which == 2:
                    _saturation(x, amount)
                elif colour:
                    _hue(x, amount)
        if gray[i] and colour:
            _grayscale(x)
        if reach[i]:
            _blur(x, work, weights[i], reach[i])
        if solarize[i]:
            _solarize(x, threshold)
        _normalise(x, mean, std)


@_inlined
def _unit(value):
    return min(max(value, _ZERO), _ONE)


@_compiled
def _load(image, last, scale, x):
    """[C, H, W], or [H, W, 3] if channels come `last`."""
    values = image.reshape(-1)
    if not last:
        flat = x.reshape(-1)
        for i in range(len(flat)):
            flat[i] = np.float32(values[i]) / scale
        return
    width = x.shape[2]
    for y in range(x.shape[1]):
        row, r, g, b = values[3 * width * y : 3 * width * (y + 1)], x[0, y], x[1, y], x[2, y]
        for i in range(width):
            r[i] = np.float32(row[3 * i]) / scale
            g[i] = np.float32(row[3 * i + 1]) / scale
            b[i] = np.float32(row[3 * i + 2]) / scale


@_compiled
def _brightness(x, amount, adds):
    flat = x.reshape(-1)
    scale, shift = (_ONE, amount) if adds else (amount, _ZERO)
    for i in range(len(flat)):
        flat[i] = _unit(flat[i] * scale + shift)


@_compiled
def _contrast(x, amount):
    colour = len(x) == 3
    total = 0.0
    for c in range(len(x)):
        share = (_R, _G, _B)[c] if colour else _ONE / np.float32(len(x))
        for y in range(x.shape[1]):
            values, row = x[c, y], _ZERO  # single precision for one row only, or a large picture's sum loses digits
            for i in range(len(values)):  # values taken one by one without a number would not be added many at once
                row += values[i]
            total += share * row
    shift = np.float32(total / (x.shape[1] * x.shape[2])) * (_ONE - amount)
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _unit(flat[i] * amount + shift)


@_compiled
def _saturation(x, amount):
    flat = x.reshape(3, -1)
    r, g, b = flat[0], flat[1], flat[2]
    for i in range(len(r)):
        shift = (r[i] * _R + g[i] * _G + b[i] * _B) * (_ONE - amount)
        r[i], g[i], b[i] = _unit(r[i] * amount + shift), _unit(g[i] * amount + shift), _unit(b[i] * amount + shift)


@_inlined
def _channel(value, spread, k):
    """HSV to RGB: value - spread max(0, min(1, 2 - distance of k from the next multiple of 6))."""
    return value - spread * _unit(_TWO - abs(k - _SIX * np.floor(k / _SIX + np.float32(0.5))))


@_compiled
def _hue(x, turn):
    flat = x.reshape(3, -1)
    r, g, b = flat[0], flat[1], flat[2]
    for i in range(len(r)):
        red, green, blue = r[i], g[i], b[i]
        value = max(max(red, green), blue)
        spread = value - min(min(red, green), blue)
        per = _ONE / (spread if spread > _ZERO else _ONE)
        h = np.float32(4) + (red - green) * per
        h = _TWO + (blue - red) * per if value == green else h
        h = (green - blue) * per if value == red else h
        h += _SIX * turn
        r[i] = _channel(value, spread, h + np.float32(3))
        g[i] = _channel(value, spread, h + _ONE)
        b[i] = _channel(value, spread, h - _ONE)


@_compiled
def _grayscale(x):
    flat = x.reshape(3, -1)
    r, g, b = flat[0], flat[1], flat[2]
    for i in range(len(r)):
        luma = r[i] * _R + g[i] * _G + b[i] * _B
        r[i] = g[i] = b[i] = luma


@_compiled
def _blur(x, work, weights, reach):
    """Edges are repeated. Along rows into `work`, then along columns back."""
    height, width = x.shape[1:]
    padded = np.empty(width + 2 * reach, dtype=np.float32)
    for c in range(len(x)):
        for y in range(height):
            source, target = x[c, y], work[c, y]
            padded[:reach] = source[0]
            padded[reach : reach + width] = source
            padded[reach + width :] = source[width - 1]
            _weighted(target, source, source, weights[0] / _TWO, True)
            for k in range(1, reach + 1):
                before, after = padded[reach - k : reach - k + width], padded[reach + k : reach + k + width]
                _weighted(target, before, after, weights[k], False)
        for y in range(height):
            target = x[c, y]
            _weighted(target, work[c, y], work[c, y], weights[0] / _TWO, True)
            for k in range(1, reach + 1):
                _weighted(target, work[c, max(y - k, 0)], work[c, min(y + k, height - 1)], weights[k], False)


@_inlined
def _weighted(target, a, b, weight, anew):
    if anew:
        for i in range(len(target)):
            target[i] = weight * (a[i] + b[i])
    else:
        for i in range(len(target)):
            target[i] += weight * (a[i] + b[i])


@_compiled
def _solarize(x, threshold):
    flat = x.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _ONE - flat[i] if flat[i] >= threshold else flat[i]


@_compiled
def _normalise(x, mean, std):
    for c in range(len(x)):
        flat = x[c].reshape(-1)
        for i in range(len(flat)):
            flat[i] = (flat[i] - mean[c]) / std[c]
