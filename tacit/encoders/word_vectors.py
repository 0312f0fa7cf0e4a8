"""Vectors of words from a text file, as word2vec and GloVe write them: a word and its numbers a line."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tacit.errors import DataError


def word_vectors(path: str | os.PathLike, wanted: Collection[str], width: int) -> dict[str, Tensor]:
    """{word: [width]} of the words `wanted` that the file has, of one that stands there twice the first.

    A word that the file has with capitals only is found in lower case, too. The file is read once, line by line.

    Args:
        path: UTF-8 text. A first line of two numbers, as word2vec's has it, says how many words of what width follow.

    Raises:
        DataError: no such file, vectors of another width, or a line that holds none.
    """
    path, wanted = Path(path), frozenset(wanted)
    exact: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    met = False  # any vector
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                word, *numbers = line.rstrip().rsplit(" ", width)
                if number == 1 and len(line.split()) == 2:
                    if int(line.split()[1]) != width:
                        raise DataError(_width(path, int(line.split()[1]), width))
                    continue
                if len(numbers) != width or " " in word:  # some of GloVe's words hold a blank
                    found = len(line.split()) - 1
                    if found != width and not met:
                        raise DataError(_width(path, found, width))
                    if found < width:
                        raise DataError(f"{path}, line {number}: {found} numbers and not {width}. Is the file whole?")
                    continue
                met = True
                if word in wanted and word not in exact:
                    exact[word] = _vector(numbers, path, number)
                elif word.lower() in wanted and word.lower() not in other:
                    other[word.lower()] = _vector(numbers, path, number)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} holds no word vectors in text form ({error}). Each line: a word, {width} numbers."
        ) from error
    if not exact and not other:
        raise DataError(f"{path} has a vector of none of the {len(wanted):,} words of the transcripts.")
    return other | exact


def _vector(numbers: list[str], path: Path, line: int) -> Tensor:
    try:
        return torch.from_numpy(np.array(numbers, dtype=np.float32))
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}. Each line must be a word and its numbers.") from error


def _width(path: Path, found: int, width: int) -> str:
    return f"word_width = {width}: {path} holds vectors of {found} numbers. Set word_width={found}."
