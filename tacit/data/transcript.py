"""What is said in a record, sentence by sentence, with times where they are known: .srt, .vtt, .txt, .json, .csv."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tacit.errors import BadRecord

EXTENSIONS = (".srt", ".vtt", ".txt", ".json", ".csv", ".tsv")
TEXTS = ("text", "sentence", "caption", "transcript", "words")  # names of columns
STARTS, ENDS = ("start", "begin", "from", "start_time"), ("end", "stop", "to", "end_time")
MOST = 1 << 24  # bytes: more is no transcript
CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)"
CUE = re.compile(rf"^\s*{CLOCK}\s*-->\s*{CLOCK}[^\n]*$", re.MULTILINE)
BREAK = re.compile(r"<br\s*/?>|\\N", re.IGNORECASE)
TAG = re.compile(r"<[^<>\n]{0,200}>|\{\\[^{}\n]*\}")


class Sentence(NamedTuple):
    """Times in seconds; None for a caption of the whole record."""

    start: float | None
    end: float | None
    text: str


class SentenceCut(NamedTuple):
    """The sentence that overlaps [start, end) most and its nearest in time, `count` in all; without times those in the
    middle."""

    start: float | None
    end: float | None
    count: int


class Transcript:
    """Sentences from a file, or from their words themselves.

    Raises `BadRecord` where there is no sentence at all. `seconds` is how long the record is, or else the last time.

    Args:
        data: the path of a file; a list of sentences; or the words.
        start, end: the part of the file, in seconds, that is the record; times are then from `start` on.
        seconds: how long the record is, where that is known.
    """

    extent = ()

    def __init__(
        self,
        data: str | Path | Sequence[Sentence],
        start: float = 0.0,
        end: float | None = None,
        seconds: float | None = None,
    ):
        found = _read(data) if isinstance(data, Path) else _words(data) if isinstance(data, str) else list(data)
        last = math.inf if end is None else end
        self.sentences = [
            s if s.start is None else Sentence(s.start - start, s.end - start, s.text)
            for s in found
            if s.start is None or (s.end > start and s.start < last)
        ]
        if not self.sentences:
            raise BadRecord("no text")
        self.seconds = seconds or max((s.end for s in self.sentences if s.end is not None), default=0.0)

    def check(self) -> None:
        """There is nothing more that could be wrong."""

    def crops(self, cuts: list[SentenceCut]) -> list[list[str]]:
        """Of each cut the sentences, the one that overlaps it most first, then by their distance in time; fewer than
        `count` where there are no more. Captions without times are as near as can be."""
        return [self._crop(cut) for cut in cuts]

    def _crop(self, cut: SentenceCut) -> list[str]:
        start = self.seconds / 2 if cut.start is None else cut.start
        end = start if cut.end is None else cut.end
        best = min(self.sentences, key=lambda s: _distance(s, start, end))
        if best.start is not None:
            start, end = best.start, best.end
        others = sorted((s for s in self.sentences if s is not best), key=lambda s: _distance(s, start, end))
        return [s.text for s in [best, *others][: cut.count]]


def _distance(s: Sentence, start: float, end: float) -> tuple[float, float]:
    """Smaller is nearer: seconds in between, or less than none where they overlap; then of the middles."""
    if s.start is None:
        return (-math.inf, 0.0)
    return (max(s.start, start) - min(s.end, end), abs(s.start + s.end - start - end))


def read_text(path: Path) -> str:
    """Of any Unicode, by its mark or as UTF-8; else as Windows' Latin. Raises `BadRecord`."""
    try:
        if path.stat().st_size > MOST:
            raise BadRecord("too large for a transcript")
        data = path.read_bytes()
    except OSError as error:
        raise BadRecord.of(error) from error
    if not data.strip():
        raise BadRecord("empty file")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise BadRecord("not a text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> list[Sentence]:
    text, suffix = read_text(path), path.suffix.lower()
    try:
        if suffix == ".json":
            return _of_rows(_listed(json.loads(text)))
        if suffix in (".csv", ".tsv"):
            return _of_rows(list(csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",")))
    except (ValueError, csv.Error, RecursionError) as error:
        raise BadRecord(f"no sentences that can be read ({str(error)[:60]})") from error
    if CUE.search(text):
        return _of_cues(text)
    if suffix in (".srt", ".vtt"):
        raise BadRecord("no cue with times")
    return _words(text)


def _words(text: str) -> list[Sentence]:
    """Every line is a caption of the whole record."""
    return [Sentence(None, None, line) for line in map(_clean, text.split("\n")) if line]


def _of_cues(text: str) -> list[Sentence]:
    """SubRip and WebVTT: what stands between a line of times and the next blank line."""
    cues, found = list(CUE.finditer(text)), []
    for cue, after in zip(cues, [*cues[1:], None], strict=True):
        body = text[cue.end() : after.start() if after else len(text)]
        lines = body.lstrip("\n").split("\n\n")[0] if body.startswith("\n") and body[1:2] != "\n" else ""
        start, end = _seconds(*cue.groups()[:3]), _seconds(*cue.groups()[3:])
        if (words := _clean(lines)) and end > start:
            found.append(Sentence(start, end, words))
    return found


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))


def _clean(text: str) -> str:
    """Without tags and entities, in one line."""
    return " ".join(html.unescape(TAG.sub("", BREAK.sub(" ", text))).split())


def _listed(value: Any) -> list[Any]:
    """The list of objects in it: by itself, or under a name ("segments", "sentences", …)."""
    if isinstance(value, dict):
        inside = next((v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)), None)
        if inside is None and any(isinstance(v, list) for v in value.values()):
            return _columns(value)
        value = [value] if inside is None else inside
    if not isinstance(value, list):
        raise ValueError("it must be a list of objects with text, start and end")
    return [{"text": row} if isinstance(row, str) else row for row in value]


def _columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Lists side by side, as HowTo100M has them: {"start": […], "end": […], "text": […]}."""
    lists = {name: v for name, v in value.items() if isinstance(v, list)}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _of_rows(rows: list[Any]) -> list[Sentence]:
    found = []
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError("it must be a list of objects with text, start and end")
        lower = {str(name).strip().lower(): value for name, value in row.items()}
        text, start, end = (_first(lower, names) for names in (TEXTS, STARTS, ENDS))
        if text is None:
            raise ValueError(f"no column {', '.join(TEXTS)}")
        if start is not None and end is None and lower.get("duration") not in (None, ""):
            end = time_of(start) + time_of(lower["duration"])
        timed = start is not None and end is not None
        times = (time_of(start), time_of(end)) if timed else (None, None)
        if (words := _clean(str(text))) and (not timed or times[1] > times[0]):
            found.append(Sentence(*times, words))
    return found


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def time_of(value: Any) -> float:
    """Seconds as a number, or as h:mm:ss."""
    match = re.fullmatch(rf"\s*{CLOCK}\s*", str(value))
    seconds = _seconds(*match.groups()) if match else float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"the time {value}")
    return seconds


def is_file(cell: str) -> bool:
    """Whether a cell of a table names a file, rather than being the words."""
    return os.path.splitext(cell.strip())[1].lower() in EXTENSIONS and "\n" not in cell
