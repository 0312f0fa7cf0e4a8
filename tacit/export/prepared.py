"""In words, for the README of an export: what the program takes, and how it is made from a file."""

from __future__ import annotations

from tacit.encoders import input_shape
from tacit.views import FilmInputs, Inputs, SoundInputs, TextInputs, WaveInputs
from tacit.views.kinds import AnyInputs

ABOUT = "encoder.json"


def shape_of(inputs: AnyInputs) -> tuple[int, ...]:
    """Of one record's inputs, without the batch: of sentences there is no axis of channels."""
    return input_shape(inputs) if isinstance(inputs, TextInputs) else (inputs.channels, *input_shape(inputs))


def name_of(inputs: AnyInputs) -> str:
    """Of the input of a program."""
    named = {FilmInputs: "film", WaveInputs: "wave", TextInputs: "ids"}
    return next((name for kind, name in named.items() if isinstance(inputs, kind)), "image")


def told(inputs: AnyInputs) -> str:
    shape = ", ".join(map(str, shape_of(inputs)))
    of = next(how for kind, how in _HOW.items() if isinstance(inputs, kind))
    return f"{'int64' if isinstance(inputs, TextInputs) else 'float32'} [B, {shape}], made {of(inputs)}"


def _of_image(i: Inputs) -> str:
    return f"""of an image by

1. resizing its short side to {round(i.size / i.crop)} pixels ({i.interpolation}, antialiased),
2. taking the centre {i.size} x {i.size} and scaling its values to 0..1,
3. subtracting the mean {_numbers(i.mean)} and dividing by the standard deviation {_numbers(i.std)}, per channel."""


def _of_sound(i: SoundInputs) -> str:
    """The front end is not part of the program; `encoder.json` has all its numbers."""
    return f"""of a recording by

1. taking the mean of its channels, resampling to {i.rate} Hz and taking {i.seconds:g} seconds,
2. computing {i.mels} log-mel bands of {i.frames} frames ({1000 * i.window:g} ms each {1000 * i.hop:g} ms), a row each,
   as `tacit.views.SoundInputs` with `front="{i.front}"` does; `{ABOUT}` beside this file has all its numbers,
3. subtracting {i.mean[0]:.8g} and dividing by {i.std[0]:.8g}; rows that a short recording does not fill are 0."""


def _of_film(i: FilmInputs) -> str:
    return f"""of a film by

1. taking {i.frames} frames, {i.rate:g} a second ({i.seconds:g} s; Tacit takes the middle, and a shorter film from its
   beginning again),
2. cutting the centre square of each and resizing it to {i.size} x {i.size} ({i.interpolation}, antialiased),
3. scaling red, green and blue to 0..1, subtracting the mean {_numbers(i.mean)} and dividing by the standard deviation
   {_numbers(i.std)}, per channel; the axes are channels, frames, rows, columns."""


def _of_wave(i: WaveInputs) -> str:
    norm = "giving what is left a mean of 0 and a variance of 1" if i.normalise else "leaving the values as they are"
    return f"""of a recording by

1. taking the mean of its channels, in -1..1, and resampling to {i.rate} Hz,
2. taking {i.seconds:g} s, {i.samples} samples; a shorter recording is followed by zeros,
3. {norm}."""


def _of_text(i: TextInputs) -> str:
    return f"""of sentences by

1. {"writing them in small letters and " if i.lower else ""}splitting them into words: letters and digits with
   apostrophes inside,
2. giving each word its number, from 1 on, in `words` under `inputs` of `{ABOUT}` beside this file, and leaving out
   words that are not there,
3. writing one sentence a row, its first {i.length} words, and 0 after the last; rows of {i.sentences} without a
   sentence are 0, and the feature is the mean over the others."""


_HOW = {FilmInputs: _of_film, WaveInputs: _of_wave, TextInputs: _of_text, SoundInputs: _of_sound, Inputs: _of_image}


def _numbers(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in values) + "]"
