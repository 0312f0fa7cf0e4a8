"""Films, their sound and what is said in them as feature sequences: frames through an encoder, log-mels, and words.

Time 0 is where the clip begins, for all three.

vision: the pooled feature of one frame in each 1/fps seconds, the one that is shown in the middle of them
audio:  `MELS` log-mel energies (`views.kaldi_fbank`) of 25 ms each 10 ms, of the sound at `RATE` Hz
text:   words; those of a sentence spread evenly over its time
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tacit.data import Recording, Source
from tacit.data.film import Film, FilmCut
from tacit.data.recording import Segment, Silence, length_at
from tacit.data.transcript import Transcript
from tacit.encoders import Encoder
from tacit.errors import BadRecord, DataError
from tacit.evaluation.features import all_devices
from tacit.views import Inputs
from tacit.views.dataset import stack
from tacit.views.filterbank import kaldi_fbank
from tacit.views.words import words_of

RATE, MELS = 16_000, 40
LENGTH, SHIFT = 0.025, 0.01  # seconds, of frames of sound
SAMPLES, STEP = int(RATE * LENGTH), int(RATE * SHIFT)
SOUND = 2000  # frames of sound made at once: 20 seconds of it are held
BATCH = 64  # frames of films that go through an encoder together, and are held of a film

Arrays = dict[str, np.ndarray]  # by the names of `sequence_folder`: vision, vision_times, …


class Piece(NamedTuple):
    """Of one record: some frames uint8 [n, 3, H, W]; or, at its end, the other modalities; or why it cannot be read."""

    index: int
    frames: Tensor | None = None
    rest: Arrays | None = None
    why: str = ""


@torch.no_grad()
def read_clips(
    encoder: Encoder | None, source: Source, rows: Sequence[int], fps: float, bad: list[tuple[str, str]], *,
    workers: int = 0, device: torch.device | str | None = None, progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Arrays]]:  # fmt: skip
    """(number of the record, its arrays) of every record that can be read, as they are done. A film is decoded once,
    and no more than some frames of it are held.

    Args:
        encoder: of images; without one films are not looked at.
        rows: the records to read. bad: gets (name, reason) of those that cannot be.
        progress: called with how many of them are done.

    Raises:
        DataError: features that are no numbers.
    """
    device = torch.device(device) if device else all_devices()[0]
    if encoder is not None:
        encoder.to(device).eval()
    pieces = _Pieces(source, list(rows), None if encoder is None else encoder.inputs, fps)
    seen: dict[int, list[np.ndarray]] = {}
    waiting: list[Piece] = []
    done = 0

    def look() -> Iterator[tuple[int, Arrays]]:
        nonlocal done
        frames = [piece.frames for piece in waiting if piece.frames is not None]
        if frames:
            found = encoder(encoder.inputs.prepare(torch.cat(frames).to(device))).float().cpu()
            features = iter(found.split([len(f) for f in frames]))
        for index, shown, rest, why in waiting:
            if shown is not None:
                feature = next(features).numpy()
                if not np.isfinite(feature).all():
                    raise DataError(f"The features of {source.name(index)} are not numbers: the encoder is broken.")
                seen.setdefault(index, []).append(feature)
                continue
            done += 1
            vision = seen.pop(index, None)
            if why:
                bad.append((source.name(index), why))
            else:
                yield index, rest if vision is None else {"vision": np.concatenate(vision), **rest}
        waiting.clear()

    for piece in DataLoader(pieces, None, num_workers=min(workers, len(rows))) if len(rows) else ():
        waiting.append(piece)
        if sum(len(p.frames) for p in waiting if p.frames is not None) >= BATCH or len(waiting) > 2 * BATCH:
            yield from look()
            if progress is not None:
                progress(done)
    yield from look()
    if progress is not None:
        progress(done)


class _Pieces(IterableDataset):
    """`Piece`s of the records, those of one in their order; with several workers each takes every so many records."""

    def __init__(self, source: Source, rows: list[int], inputs: Inputs | None, fps: float):
        self.source, self.rows, self.inputs, self.fps = source, rows, inputs, fps

    def __iter__(self) -> Iterator[Piece]:
        worker = get_worker_info()
        for index in self.rows if worker is None else self.rows[worker.id :: worker.num_workers]:
            try:
                yield from self._of(index)
            except BadRecord as error:
                yield Piece(index, why=str(error))

    def _of(self, index: int) -> Iterator[Piece]:
        rest: Arrays = {}
        if (film := self._field(index, "video")) is not None:
            rest["vision_times"] = times = frame_times(film.seconds, self.fps)
            held: list[np.ndarray] = []
            cut = FilmCut(times.mean(1), *self.inputs.centre(film.height, film.width)[:6])
            for pixels in film.each(cut):
                held.append(pixels)
                if len(held) == BATCH:
                    yield Piece(index, stack(held))
                    held = []
            if held:
                yield Piece(index, stack(held))
        rest |= sound_of(self._field(index, "audio")) | words_and_times(self._field(index, "text"))
        if not rest:
            raise BadRecord("no film that is looked at, no sound and no words")
        yield Piece(index, rest=rest)

    def _field(self, index: int, field: str) -> Film | Recording | Transcript | None:
        if field not in self.source.fields or (field == "video" and self.inputs is None):
            return None
        try:
            return self.source.record(index, (field,))[field]
        except BadRecord:
            if field == "text":  # no sentence, or none in this part of the film: nobody speaks
                return None
            raise


def frame_times(seconds: float, fps: float) -> np.ndarray:
    """[T, 2]: begin and end of stretches of 1/fps seconds, within the film; the last may be cut by half."""
    count = max(math.ceil(seconds * fps - 0.5), 1)
    edges = np.arange(count + 1) / fps
    edges[-1] = min(edges[-1], seconds)
    return np.stack([edges[:-1], edges[1:]], 1)


def sound_of(recording: Recording | None) -> Arrays:
    """Log-mels [T, MELS] and their times; nothing of silence, and of less than a frame."""
    count = 0 if recording is None else 1 + (length_at(recording.samples, recording.rate, RATE) - SAMPLES) // STEP
    if count < 1:
        return {}
    parts = []
    for first in range(0, count, SOUND):
        frames = min(SOUND, count - first)
        try:
            wave = recording.crops([Segment(first * STEP, (frames - 1) * STEP + SAMPLES, RATE)])[0]
        except Silence:
            return {}
        parts.append(kaldi_fbank(torch.from_numpy(wave), RATE, mels=MELS, length=LENGTH, shift=SHIFT)[0].numpy())
    begins = np.arange(count) * SHIFT
    return {"audio": np.concatenate(parts), "audio_times": np.stack([begins, begins + LENGTH], 1)}


def words_and_times(transcript: Transcript | None) -> Arrays:
    """Words [T] in lower case, sentence by sentence, and the times [T, 2] of those whose middle lies in the clip; all
    of them, and no times, where any sentence has none."""
    if transcript is None:
        return {}
    sentences = transcript.sentences
    if any(s.start is None for s in sentences):
        words = [word for s in sentences for word in words_of(s.text)]
        return {"text": np.array(words)} if words else {}
    found: list[tuple[str, float, float]] = []
    for s in sorted(sentences, key=lambda s: s.start):
        words = words_of(s.text)
        edges = np.linspace(s.start, s.end, len(words) + 1).tolist()
        found += [
            (word, begin, end)
            for word, begin, end in zip(words, edges, edges[1:], strict=False)
            if 0 <= (begin + end) / 2 <= transcript.seconds
        ]
    if not found:
        return {}
    words, begins, ends = zip(*found, strict=True)
    return {"text": np.array(words), "text_times": np.stack([begins, ends], 1)}
