"""What methods share that read feature sequences: lengths, dimensions and levels, read off the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tacit.data import Source
from tacit.data.sequences import MODALITIES
from tacit.engine.recipe import Recipe
from tacit.errors import UsageError
from tacit.settings import setting
from tacit.views import SequenceInputs
from tacit.views.sequences import measure

SECONDS = (0.1, 0.3)  # that a span of audio or vision covers


@dataclass(frozen=True)
class SequenceRecipe(Recipe):
    size: int = setting(500, "most positions of a modality; longer sequences are cut", low=1)
    channels: int = setting(1, "of the input: all modalities are one row of numbers", low=1, high=1)
    max_words: int = setting(10_000, "most words of the vocabulary, where text is words", low=1)
    least_words: int = setting(2, "records that a word of the vocabulary occurs in, at least", low=1)
    audio_span: int | None = setting(
        None, "frames of a span of audio; none: 7, moved to cover .1 to .3 seconds where the data has times", low=1
    )
    vision_span: int | None = setting(None, "frames of a span of vision; none: as of audio", low=1)

    # Read off the data, when a run begins.
    lengths: tuple[int, ...] = setting((), "most positions of text, audio and vision; none: measured", low=0)
    dims: tuple[int, ...] = setting((), "numbers of a position of each, 0 for none; none: measured", low=0)
    vocabulary: int = setting(0, "ids of words, where text is words; measured with the dimensions", low=0)
    words: tuple[str, ...] = setting((), "the vocabulary; measured with the dimensions")
    mean: tuple[float, ...] = setting((), "of every dimension; measured with the dimensions")
    std: tuple[float, ...] = setting((), "deviation of every dimension; measured with the dimensions", low=0)

    @property
    def shape(self) -> tuple[int, int]:
        return 1, max(sum(n * d for n, d in zip(self.lengths, self.dims, strict=False)), 1)

    @property
    def spans(self) -> tuple[int, int, int]:
        return 1, self.audio_span or 7, self.vision_span or 7

    @property
    def inputs(self) -> SequenceInputs:
        """Raises `UsageError` where they are still to be measured."""
        if not (len(self.lengths) == len(self.dims) == len(MODALITIES)):
            raise UsageError("lengths and dims are read off the data: take settings.measured(source).")
        return SequenceInputs(self.lengths, self.dims, self.vocabulary, self.words, self.mean, self.std)

    def measured(self, source: Source) -> SequenceRecipe:
        if self.dims:
            return self
        found = measure(source, most=self.size, words=self.max_words, least=self.least_words)
        spans = [
            given or span_of(rate)
            for given, rate in zip((self.audio_span, self.vision_span), found.rates[1:], strict=True)
        ]
        i = found.inputs
        return replace(
            self, lengths=i.lengths, dims=i.dims, vocabulary=i.vocabulary, words=i.words, mean=i.mean, std=i.std,
            audio_span=spans[0], vision_span=spans[1],
        )  # fmt: skip


def span_of(rate: float) -> int:
    """7 frames, or as near to it as covers `SECONDS` at so many frames a second; 0 where that is unknown."""
    if not rate:
        return 7
    low, high = (rate * seconds for seconds in SECONDS)
    return max(round(min(max(7, low), high)), 1)
