"""What methods share that learn from clips: films, the sound of them, and what is said or written beside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tacit import encoders
from tacit.data import Source
from tacit.data.kinds import MODALITIES
from tacit.encoders import Encoder
from tacit.engine.recipe import Recipe
from tacit.errors import BadSettings
from tacit.settings import again, setting
from tacit.views import FilmInputs, TextInputs, WaveInputs, texts_of, vocabulary


@dataclass(frozen=True)
class ClipRecipe(Recipe):
    """Films are `frames` of `size` x `size` at `fps`; sounds as long as these; texts `sentences` of `length` words."""

    encoder: str = again(Recipe, "encoder", "vatt_video_medium")
    audio_encoder: str = setting("vatt_audio_base", "trunk of sounds")
    text_encoder: str = setting("vatt_text_small", "trunk of texts")
    agnostic: bool = setting(False, "one stack of blocks for all, of one size, between Linears of each one's own")
    dropout: float = setting(0.1, "of attention, residual branches, hidden layers and embedded tokens", low=0, high=0.9)
    patch: int | None = again(Recipe, "patch", 16)
    channels: int = setting(3, "of the frames: red, green and blue", low=3, high=3)
    frames: int = setting(32, "frames of a clip", low=1)
    fps: float = setting(10.0, "frames a second; together with `frames` the length of a clip", low=0.01)
    stem: float | None = setting(
        None, "deviation of the first weights that read pixels and samples, times the root of their inputs; "
        "none: as Keras draws them, less than a tenth", low=0,
    )  # fmt: skip
    patch_frames: int = setting(4, "frames of a patch", low=1)
    rate: int = setting(48_000, "samples a second; sounds of another rate are resampled", low=1000)
    patch_samples: int = setting(128, "samples of a patch of sound", low=1)
    sentences: int = setting(
        5, "candidates: the sentence that overlaps the clip most, and its next ones in time", low=1
    )
    length: int = setting(16, "words of a sentence; what comes after is left out", low=1)
    words: int = setting(65_536, "rows of the table of words: the most frequent ones, and one for padding", low=2)
    least: int = setting(1, "how often a word must occur to have a row", low=1)
    word_width: int = setting(300, "width of word vectors", low=1)
    word_vectors: str | None = setting(None, "file of word vectors, as text of word2vec or GloVe; none: random ones")
    train_words: bool = setting(False, "train the word vectors, too")
    vocabulary: tuple[str, ...] = setting((), "the words themselves; none: read off the transcripts")
    fields: tuple[str, ...] = setting(MODALITIES, "what records have of video, audio and text; read off the data")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames, self.size, self.size

    @property
    def cells(self) -> tuple[int, ...]:
        return self.patch_frames, self.patch, self.patch

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def inputs(self) -> dict[str, FilmInputs | WaveInputs | TextInputs]:
        return {
            "video": FilmInputs(self.frames, self.size, self.fps),
            "audio": WaveInputs(self.rate, self.seconds, normalise=False, fixed=True),
            "text": TextInputs(self.vocabulary, self.sentences, self.length),
        }

    @property
    def compared(self) -> list[tuple[str, str, float]]:
        """(X, Y, weight) of the pairs of modalities that a loss is of."""
        raise NotImplementedError

    @property
    def trunks(self) -> dict[str, tuple[str, dict[str, object]]]:
        """Name and arguments of the encoder of each modality that is compared with another."""
        how: dict[str, dict[str, object]] = {
            "video": {"patch": self.cells, "stem": self.stem},
            "audio": {"patch": (self.patch_samples,), "stem": self.stem, "channels": 1},
            "text": {"words": len(self.vocabulary) + 1, "dims": self.word_width, "train_words": self.train_words},
        }
        names = {"video": self.encoder, "audio": self.audio_encoder, "text": self.text_encoder}
        used = {of for x, y, _ in self.compared for of in (x, y)}
        both = {"shared": self.agnostic, "drop_rate": self.dropout}
        return {of: (names[of], how[of] | both) for of in MODALITIES if of in used}

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.trunks.values())

    def measured(self, source: Source) -> ClipRecipe:
        """With what records have, and the words of the transcripts, the most frequent first."""
        found = replace(self, fields=tuple(name for name in MODALITIES if name in source.fields))
        if "text" not in found.fields or found.vocabulary:
            return found
        words = vocabulary(texts_of(source), self.words - 1, self.least)
        if self.word_vectors:
            known = encoders.word_vectors(self.word_vectors, words, self.word_width)
            words = tuple(word for word in words if word in known)
        if not words:
            raise BadSettings([f"least = {self.least}: no word of the transcripts occurs so often. Set least=1."])
        return replace(found, vocabulary=words)


def clip_problems(s: ClipRecipe) -> list[str]:
    """Nothing to compare, encoders of another modality, patches that do not fit, sizes that one stack cannot have."""
    if not s.compared:
        return [
            f"No two of {', '.join(s.fields)} are compared. Give a pair of them a weight, as --set audio_text=1 does."
        ]
    found = []
    for of, (name, how) in s.trunks.items():
        if not name.startswith(f"vatt_{of}_"):
            setting = "encoder" if of == "video" else f"{of}_encoder"
            found.append(f"{setting} = {name}: reads no {of}. Try vatt_{of}_base, or _small, _medium, _large, _mini.")
        else:
            found += encoders.problems(name, encoders.input_shape(s.inputs[of]), **how)
    sizes = {name.rpartition("_")[2] for name, _ in s.trunks.values()}
    if s.agnostic and len(sizes) > 1:
        found.append(f"agnostic = True: one stack has one size, and the encoders are {', '.join(sorted(sizes))}.")
    return found


def clip_encoders(s: ClipRecipe) -> dict[str, Encoder]:
    """Encoders of what is compared, in the order of `MODALITIES`, with the vectors of words that a file has."""
    made = {}
    for of, (name, how) in s.trunks.items():
        made[of] = encoders.build(name, inputs=s.inputs[of], **{k: v for k, v in how.items() if k != "channels"})
    if s.agnostic:
        encoders.share_stack(list(made.values()))
    if "text" in made and s.word_vectors and s.vocabulary:
        known = encoders.word_vectors(s.word_vectors, s.vocabulary, s.word_width)
        table = made["text"].trunk.words.weight.data
        for row, word in enumerate(s.vocabulary, 1):
            if word in known:
                table[row] = known[word]
    return made


def encode_there(encoder: Encoder, x: Tensor, there: Tensor) -> Tensor:
    """Features [N, D] of the rows of x [N, ...] that are there [N] bool, each of the others that of one before it.

    So what a missing record is filled up with costs nothing and moves no statistic of a BatchNorm; losses mask it. If
    none is there the first one is encoded, so that every weight has a gradient, of 0.
    """
    if bool(there.all()):
        return encoder(x)
    rows = there.nonzero()[:, 0] if bool(there.any()) else there.new_zeros(1, dtype=torch.long)
    return encoder(x[rows])[(there.long().cumsum(0) - 1).clamp_min(0)]
