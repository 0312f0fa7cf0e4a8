"""Pickles of plain values and numeric arrays, read without running anything that they name."""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from tacit.errors import DataError

NUMBERS, TEXTS, OBJECTS = "biuf", "US", "O"  # kinds of array; what an array of objects holds is looked at one by one


def read_plain(data: bytes) -> Any:
    """The dicts, lists, strings, numbers and arrays of a pickle, of Python 2 or 3; arrays and tuples as lists.

    Nothing is called but what is defined here: not even NumPy's own functions for unpickling, which trust the memory
    layout that a file claims.

    Raises:
        DataError: the pickle names anything else, or is damaged.
    """
    return _read(io.BytesIO(data), _plain)


def read_arrays(path: str | os.PathLike) -> Any:
    """The same of a file, arrays staying arrays: of numbers, of text (fixed width), or of plain values (dtype object).

    Raises:
        DataError: as above. OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return _read(file, _with_arrays)


def _read(file: BinaryIO, finish: Callable[[Any], Any]) -> Any:
    try:
        return finish(_Reader(file, encoding="latin1").load())
    except (DataError, OSError):
        raise
    except Exception as error:  # hostile bytes raise nearly anything
        raise DataError(f"it is no pickle, or a damaged one ({type(error).__name__})") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _KNOWN:
            raise DataError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


class _Type:
    """A dtype of numbers, of text or of objects: its code, as "i8", and its byte order."""

    def __init__(self, code: str = "", *_: Any):
        kind, size = code[:1], code[1:]
        numbers = kind in NUMBERS and size in ("1", "2", "4", "8")
        texts = kind in TEXTS and size.isdecimal() and 0 < int(size) < 2**20
        if not code or not (numbers or texts or kind in OBJECTS):
            raise DataError(f"it holds an array of type {code!r}, and not of numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def read(self, shape: tuple, data: bytes | str | list, order: str = "C") -> np.ndarray:
        if self.code[0] in OBJECTS:
            if not isinstance(data, list):
                raise DataError("it holds an array of objects that are not listed")
            values = np.empty(len(data), object)
            for place, value in enumerate(data):  # not by slices, which would go into what the values hold
                values[place] = value
        else:
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
    ("collections", "OrderedDict"): lambda pairs=(): dict(pairs),
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
        if value.values.dtype.kind not in NUMBERS:
            raise DataError(f"it holds an array of type {value.values.dtype.str!r}, and not of numbers")
        return value.values.tolist()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    raise DataError(f"it holds a {type(value).__name__.lstrip('_').lower()}, and not plain values")


def _with_arrays(value: Any) -> Any:
    if isinstance(value, _Array) and value.values is not None:
        if value.values.dtype.kind not in OBJECTS:
            return value.values
        found = np.empty(value.values.shape, object)
        for place, one in enumerate(value.values.flat):
            found.flat[place] = _with_arrays(one)
        return found
    if isinstance(value, dict):
        return {key: _with_arrays(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_with_arrays(v) for v in value]
    return _plain(value)
