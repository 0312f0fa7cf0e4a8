"""How sentences are prepared for an encoder, and the view of what is said in a piece of a record: some sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tacit.data import Source
from tacit.data.transcript import SentenceCut
from tacit.errors import BadRecord

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # letters and digits of any script, with apostrophes inside


def words_of(text: str, lower: bool = True) -> list[str]:
    """ "It's 9 o'clock." -> it's, 9, o'clock."""
    return WORD.findall((text.lower() if lower else text).replace("’", "'"))


def vocabulary(texts: Iterable[str], most: int = 65_535, least: int = 1, lower: bool = True) -> tuple[str, ...]:
    """The `most` words that are most frequent, of those that come `least` times, by frequency and then by alphabet."""
    counts = Counter(word for text in texts for word in words_of(text, lower))
    ranked = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    return tuple(ranked[:most])


def texts_of(source: Source) -> Iterator[str]:
    """Every sentence of every record that has any; what cannot be read is passed over."""
    for index in range(len(source)):
        try:
            found = source.record(index, ("text",))["text"]
        except BadRecord:
            continue
        if found is not None:
            yield from (sentence.text for sentence in found.sentences)


@dataclass(frozen=True)
class TextInputs:
    """Ids of words [sentences, length], int64: word k of `words` is k + 1, and 0 is padding.

    Words that are not among them are left out, and so are those of a sentence beyond `length`. A bag with fewer
    sentences has rows of 0.
    """

    words: tuple[str, ...]
    sentences: int
    length: int
    lower: bool = True

    channels: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int]:
        return self.sentences, self.length

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    def centre(self) -> SentenceCut:
        """Of the middle of the record."""
        return SentenceCut(None, None, self.sentences)

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Sentences -> [sentences, length] int64."""
        out = np.zeros(self.shape, np.int64)
        for row, sentence in zip(out, sentences, strict=False):
            found = [self.ids[word] for word in words_of(sentence, self.lower) if word in self.ids][: self.length]
            row[: len(found)] = found
        return out

    def decode(self, ids: Tensor) -> list[str]:
        """[sentences, length] -> what of each sentence the encoder reads; "" for a row of padding."""
        return [" ".join(self.words[number - 1] for number in row if number) for row in ids.tolist()]

    def prepare(self, ids: Tensor) -> Tensor:
        return ids.long()

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "text"} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextInputs:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "kind"})


@dataclass(frozen=True)
class SentenceBag:
    """The sentence that overlaps the piece of the record most, and its neighbours in time.

    A bag without any known word is not valid: nothing can be learned from it.

    seconds: of the piece; span: of the longest of the views that belong together, from whose beginning this one begins
             too; the piece's own where it is longer
    of:      the number of the view of the same list that this one begins with, if not by itself
    """

    inputs: TextInputs
    seconds: float
    name: str = "text"
    field: str = "text"
    span: float = 0.0
    of: int | None = None

    timed: ClassVar[bool] = True

    def notes(self) -> list[str]:
        return []

    def draw(self, rng: np.random.Generator, *, seconds: float) -> dict[str, Any]:
        start = rng.random() * max(seconds - max(self.span, self.seconds), 0.0)
        return {"start": start, "valid": True}

    def cut(self, params: dict[str, Any]) -> SentenceCut:
        return SentenceCut(params["start"], params["start"] + self.seconds, self.inputs.sentences)

    def change(self, sentences: list[str], params: dict[str, Any]) -> np.ndarray:
        return self.inputs.encode(sentences)

    def absent(self) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(self.inputs.shape, np.int64), {"start": 0.0, "valid": False}

    @torch.no_grad()
    def finish(self, ids: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """[B, L, W] -> `{"image": int64 [B, L, W], "valid": [B] bool}`."""
        return {"image": self.inputs.prepare(ids), "valid": params["valid"] & (ids != 0).flatten(1).any(1)}
