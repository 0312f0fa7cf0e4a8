"""Records as small pictures: images, sounds one can listen to, films as strips of frames with their sound and words."""

from __future__ import annotations

from collections.abc import Iterable

from tacit.report.clips import Clip
from tacit.report.markup import Html, join, tag
from tacit.report.numbers import short
from tacit.report.pictures import FRAMES, GAP
from tacit.report.sample import Sample

SMALL, WIDE = 64, 112  # tiles in pixels; players of sounds need more room
FRAME = 96  # a frame of a film
MOST_WORDS = 90  # characters of a sentence
HOW_SOUNDS = (
    "Below each spectrogram is what the encoder heard of that recording: the middle {0} s or all of a shorter one, "
    "one channel at {1:,} Hz, no louder and no softer than in the file."
)
HOW_FILMS = (
    "Of each film {1} frames of what the encoder looked at are shown, the earliest at the top: the middle {0} s or "
    "all of a shorter one, the central square."
)
HOW_HEARD = " Below are its sound and the sentence nearest to its middle, where it has them; the encoder got neither."
HOW_SHORTENED = (
    " To keep the page small, {0} of these {1} clips are shortened to their middle; the name of the player says so."
)


def tiles(sample: Sample, rows: set[int], most: int, *, beside: bool = True) -> tuple[dict[int, Html], Html | None]:
    """A picture for each row, of sounds with a player below, and what a reader must know of them.

    Args:
        most: characters that a clip of sound may take.
        beside: of films also their sound and what is said in them.
    """
    if sample.thumbnails.of_films:
        return _films(sample, rows, most, beside)
    if sample.thumbnails.of_sounds:
        return _sounds(sample, rows, most)
    return {row: _image(sample.thumbnails(row, SMALL), sample.said(row), SMALL, SMALL) for row in rows}, None


def strip_class(sample: Sample) -> str:
    kind = " films" if sample.thumbnails.of_films else " sounds" if sample.thumbnails.of_sounds else ""
    return f"strip{kind}"


def words(text: str) -> Html:
    shown = text if len(text) <= MOST_WORDS else text[: MOST_WORDS - 1] + "…"
    return tag("q", shown, title=text if shown != text else None)


def _image(uri: str, said: str, width: int, height: int) -> Html:
    return tag("img", src=uri, alt=said, title=said, width=width, height=height)


def _films(sample: Sample, rows: Iterable[int], most: int, beside: bool) -> tuple[dict[int, Html], Html]:
    thumbnails, made, clips = sample.thumbnails, {}, {}
    for row in rows:
        said = sample.said(row)
        parts = [_image(thumbnails.strip(row, FRAME), said, FRAME, FRAMES * (FRAME + GAP) - GAP)]
        if beside and thumbnails.has("audio") and (clip := thumbnails.sound(row, most)) is not None:
            clips[row] = clip
            parts.append(player(clip, said))
        if beside and thumbnails.has("text") and (text := thumbnails.words(row)) is not None:
            parts.append(words(text))
        made[row] = join(parts)
    how = HOW_FILMS.format(short(thumbnails.inputs.seconds), FRAMES)
    heard = HOW_HEARD if beside and (thumbnails.has("audio") or thumbnails.has("text")) else None
    return made, tag("p", how, heard, _shortened(clips), class_="quiet")


def _sounds(sample: Sample, rows: Iterable[int], most: int) -> tuple[dict[int, Html], Html]:
    made, clips = {}, {}
    for row in rows:
        said = sample.said(row)
        picture, clips[row] = sample.thumbnails.with_clip(row, WIDE, most)
        made[row] = join([_image(picture, said, WIDE, WIDE), player(clips[row], said)])
    inputs = sample.thumbnails.inputs
    how = HOW_SOUNDS.format(short(inputs.seconds), inputs.rate)
    return made, tag("p", how, _shortened(clips), class_="quiet")


def player(clip: Clip, said: str) -> Html:
    if clip.seconds < clip.whole:
        said = f"{said}: the middle {short(clip.seconds)} s of {short(clip.whole)} s"
    # Without preload="none" a browser would start a decoder for each of them.
    return tag("audio", src=clip.uri, controls="", preload="none", title=said, aria_label=f"Sound of {said}")


def _shortened(clips: dict[int, Clip]) -> str | None:
    found = sum(clip.seconds < clip.whole for clip in clips.values())
    return HOW_SHORTENED.format(found, len(clips)) if found else None


def mark(tile: Html, below: str, kind: str | None) -> Html:
    """An item of a strip: a "query", its "own" answer, one of the "same" or another class, or none of these."""
    sign = {"same": " ✓", "own": " ✓✓", "other": " ✗"}.get(kind, "")
    said = {"same": "same class", "own": "the query's own", "other": "other class"}.get(kind)
    return tag("li", tile, tag("span", below, tag("span", sign, title=said) if sign else None), class_=kind)
