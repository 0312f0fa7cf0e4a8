"""Inputs of every kind: of pictures, sounds, films, sentences and feature sequences."""

from __future__ import annotations

from typing import Any

from tacit.errors import UsageError
from tacit.views.film import FilmInputs
from tacit.views.inputs import Inputs
from tacit.views.sequences import SequenceInputs
from tacit.views.sound import SoundInputs
from tacit.views.wave import WaveInputs
from tacit.views.words import TextInputs

AnyInputs = Inputs | SoundInputs | WaveInputs | FilmInputs | TextInputs | SequenceInputs
KINDS = {
    "sound": SoundInputs,
    "wave": WaveInputs,
    "film": FilmInputs,
    "text": TextInputs,
    "sequences": SequenceInputs,
}
FIELDS = {
    SoundInputs: "audio",
    WaveInputs: "audio",
    FilmInputs: "video",
    TextInputs: "text",
    SequenceInputs: "sequences",
}


def inputs_from_dict(values: dict[str, Any]) -> AnyInputs:
    """What `to_dict` of any inputs gave: of pictures where no "kind" is said.

    Raises:
        UsageError: a kind that this version does not know.
    """
    kind = values.get("kind")
    if kind is None:
        return Inputs.from_dict(values)
    if kind not in KINDS:
        raise UsageError(f"Inputs of kind {kind!r} are not known to this version. Update with: pip install -U tacit")
    return KINDS[kind].from_dict(values)


def field_of(inputs: AnyInputs) -> str:
    """What of a record these inputs are made of: "image", "audio", "video", "text" or "sequences"."""
    return next((field for kind, field in FIELDS.items() if isinstance(inputs, kind)), "image")
