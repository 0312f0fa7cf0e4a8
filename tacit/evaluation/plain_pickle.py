"""Pickles of plain values and numeric arrays, read without running anything that they name."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from tacit.errors import DataError

NUMBERS = "biuf"  # kinds of array that hold no pointers


def read_plain(data: bytes) -> Any:
    """The dicts, lists, strings, numbers and arrays of a pickle, of Python 2 or 3; arrays and tuples as lists.

    Nothing is called but what is defined here: not even NumPy's own functions for unpickling, which trust the memory
    layout that a file claims.

    Raises:
        DataError: the pickle names anything else, or is damaged.
    """
    try:
        return _plain(_Reader(io.BytesIO(data), encoding="latin1").load())
    except DataError:
        raise
    except Exception as error:  # hostile bytes raise nearly anything
        raise DataError(f"it is no pickle, or a damaged one ({type(error).__name__})") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _KNOWN:
            raise DataError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


class _Type:
    """A dtype of numbers: its code, as "i8", and its byte order."""

    def __init__(self, code: str = "", *_: Any):
        kind, size = code[:1], code[1:]
        if kind not in NUMBERS or size not in ("1", "2", "4", "8"):
            raise DataError(f"it holds an array of type {code!r}, and not of numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def read(self, shape: tuple, data: bytes | str, order: str = "C") -> np.ndarray:
        data = data.encode("latin1") if isinstance(data, str) else data
        values = np.frombuffer(data, np.dtype(self.order + self.code))
        if math.prod(shape) != len(values):
            raise DataError(f"it holds an array said to be {list(shape)} with {len(values)} values")
        return values.reshape(shape, order=order)


class _Array:
    """What stands for an array until its values come."""

    def __init__(self, *_: Any):
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, data = state
        self.values = kind.read(shape, data, "F" if by_columns else "C")


def _scalar(kind: _Type, data: bytes | str) -> Any:
    return kind.read((), data).item()


def _buffer(data: bytes, kind: _Type, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.values = kind.read(shape, bytes(data), order)
    return array


def _encode(text: str, *_: str) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # how old pickles say that an array is empty


_KNOWN: dict[tuple[str, str], Callable] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _Array), ("multiarray", "scalar", _scalar), ("numeric", "_frombuffer", _buffer),
    )
}  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, _Array) and value.values is not None:
        return value.values.tolist()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    raise DataError(f"it holds a {type(value).__name__.lstrip('_').lower()}, and not plain values")
