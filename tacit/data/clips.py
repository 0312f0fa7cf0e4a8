"""Records of several modalities: films with their sound and what is said in them, any of which may be missing."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tacit.data import clip_lists
from tacit.data.clip_lists import PREFIX, Clip
from tacit.data.containers import Held, probe, pyav
from tacit.data.film import Film
from tacit.data.index import Index, stored, write
from tacit.data.kinds import LACKING, MODALITIES
from tacit.data.labels import as_numbers, class_folders, parts_note, parts_of, stray_note
from tacit.data.recording import Recording
from tacit.data.source import Place
from tacit.data.transcript import Transcript
from tacit.errors import BadRecord, DataError, Unknown, UsageError

THREADS = 8  # that look into files


@dataclass
class Clips:
    """Clips by number: of each modality its `Place`, or None where the clip lacks it."""

    root: str
    index: Index
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return self.index.at("name", index)

    def seconds(self, index: int) -> float:
        return self.index.at("seconds", index)

    @property
    def row_numbers(self) -> np.ndarray:
        """[N]: of the table's rows."""
        return self.index.table.column("row").to_numpy()

    def read(self, index: int, field: str | None = None) -> Place | None:
        field = field or self.fields[0]
        words = self.index.at("words", index) if field == "text" else ""
        name = self.index.at(field, index)
        if not words and not name:
            return None
        if words:
            return Place(words, seconds=self.seconds(index))
        start, end, rate = (self.index.at(column, index) for column in ("start", "end", "rate"))
        return Place(Path(self.root, name), start, end, rate or None, self.seconds(index))

    def has(self, field: str) -> list[bool]:
        """[N]: which clips have it."""
        table = self.index.table
        words = table.column("words").to_pylist() if field == "text" else [""] * len(self)
        return [bool(a or b) for a, b in zip(table.column(field).to_pylist(), words, strict=True)]

    def stamp(self) -> str:
        return stamp_of(self.root, self.index)


def open_clips(text: str, cache: str | os.PathLike | None, only: str | None = None) -> tuple[Clips, list[str]]:
    """A folder or a table of clips, `PATH` or `PATH:rate=25`, and what to tell of it.

    Every file is looked into once, at its heading, to know what it holds and how long it is.

    Args:
        only: one modality, if no other is to be read.

    Raises:
        DataError: nothing there, or no clip that can be read. MissingExtra: PyAV is not installed.
    """
    path, rate = parse(text)
    pyav()
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    kind = "listing" if path.is_file() else "folder"
    if kind == "listing" and path.suffix.lower() not in clip_lists.TABLES:
        raise DataError(
            f"{path} is a single file. Give the folder it lies in ({path.parent}), or a table of films "
            f"({', '.join(clip_lists.TABLES)}); an archive must be unpacked first."
        )
    where, index = stored("clips", f"{path.resolve()} {rate}", cache, _unchanged)
    if index is not None and index.facts["stamp"] != stamp_of(index.facts["root"], index):
        index = None
    if index is None:
        index = _build(path, where, rate)
    facts = index.facts
    fields = tuple(facts["fields"]) if only is None else (only,)
    return Clips(facts["root"], index, fields), facts["notes"]


def parse(text: str) -> tuple[Path, float]:
    """`PATH` or `PATH:rate=25`, of folders of frames. Raises `UsageError`."""
    path, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest or os.sep in rest:
        return Path(text), 0.0
    name, _, value = rest.partition("=")
    if name != "rate":
        raise Unknown("option of clips", name, ["rate"])
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise UsageError(f"{PREFIX}{text}: rate must be frames a second, above 0, is {value!r}.")
    return Path(path), rate


def stamp_of(root: str, index: Index) -> str:
    """Size and time of every file."""
    digest = hashlib.blake2b(digest_size=16)
    for column in MODALITIES:
        for name in dict.fromkeys(index.table.column(column).to_pylist()):
            try:
                stat = os.stat(os.path.join(root, name)) if name else None
                digest.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns) if stat else b"- ")
            except OSError:
                digest.update(b"gone ")
    return digest.hexdigest()


def _unchanged(facts: dict) -> bool:
    try:
        return all(os.stat(path).st_mtime_ns == stamp for path, stamp in facts["stamps"])
    except OSError:
        return False


def _build(path: Path, where: Path, rate: float) -> Index:
    listed = clip_lists.of_table(path) if path.is_file() else clip_lists.of_folder(path)
    clips, skipped, notes = _looked_into(listed.clips, Path(listed.root), rate)
    skipped = sorted([*listed.skipped, *skipped])
    if not clips:
        what = f" The first: {skipped[0][0]}: {skipped[0][1]}." if skipped else ""
        raise DataError(f"{path}: none of {len(skipped):,} clips can be read.{what}")
    if not path.is_file():
        clips.sort(key=lambda clip: clip.name.replace(os.sep, "/"))
        names = [clip.name for clip in clips]
        found = class_folders(names, os.sep)
        notes += parts_note(parts_of(names, os.sep)) + stray_note(names, os.sep)
    else:
        found = as_numbers([clip.label for clip in clips])
    columns: dict[str, Any] = {"row": pa.array([c.row for c in clips], pa.int64())}
    for name in ("name", "video", "audio", "text", "words"):
        columns[name] = pa.array([getattr(c, name) for c in clips], pa.large_string())
    for name in ("start", "end", "rate", "seconds"):
        columns[name] = pa.array([getattr(c, name) for c in clips], pa.float64())
    if found is not None:
        columns["label"] = pa.array(found[0])
    has = {f: sum(bool(getattr(c, f) or (f == "text" and c.words)) for c in clips) for f in MODALITIES}
    fields = [f for f in MODALITIES if has[f]]
    for f in fields:
        if lacking := len(clips) - has[f]:
            notes.append(f"{lacking:,} of {len(clips):,} clips have no {LACKING[f]}.")
    facts = {
        "classes": None if found is None else found[1], "skipped": skipped, "notes": [*listed.notes, *notes],
        "kind": "video", "fields": fields, "root": listed.root, "stamps": listed.stamps, "stamp": "",
    }  # fmt: skip
    index = write(where, columns, facts)
    facts["stamp"] = stamp_of(listed.root, index)
    digest = hashlib.blake2b(digest_size=16)  # of what else there is to a clip than its name
    for name in (*MODALITIES, "words", "start", "end", "rate"):
        digest.update(repr(columns[name].to_pylist()).encode())
    facts["content"] = digest.hexdigest()
    return write(where, columns, facts)


def _looked_into(clips: Iterable[Clip], root: Path, rate: float) -> tuple[list[Clip], list[tuple[str, str]], list[str]]:
    """Clips that can be read, with what they hold and how long they are; (name, reason) of the others; and notes."""
    clips = list(clips)
    with ThreadPoolExecutor(THREADS) as pool:
        paths = list(dict.fromkeys((c.video, c.rate or rate) for c in clips if c.video))
        films = dict(zip(paths, pool.map(lambda p: _tried(lambda: _held(root / p[0], p[1])), paths), strict=True))
        names = list(dict.fromkeys(c.audio for c in clips if c.audio))
        sounds = dict(zip(names, pool.map(lambda n: _tried(lambda: _length(root / n)), names), strict=True))
        names = list(dict.fromkeys(c.text for c in clips if c.text))
        texts = dict(zip(names, pool.map(lambda n: _tried(lambda: Transcript(root / n).seconds), names), strict=True))
    good, bad, silent = [], [], {}
    for clip in clips:
        clip.rate = clip.rate or rate
        film = films[clip.video, clip.rate] if clip.video else Held(False, False, 0.0)
        sound = sounds[clip.audio] if clip.audio else 0.0
        wrong = next((x for x in (film, sound) if isinstance(x, BadRecord)), None)
        if wrong is None and clip.text and isinstance(texts[clip.text], BadRecord):
            silent[clip.text] = str(texts[clip.text])  # nobody speaks, or nobody can read it: the film is there
            clip.text = ""
        if wrong is None:
            wrong = _settled(clip, film, sound, texts.get(clip.text, 0.0))
        if wrong is None:
            good.append(clip)
        else:
            bad.append((clip.name, str(wrong)))
    if not silent:
        return good, bad, []
    name, reason = next(iter(silent.items()))
    many = f"{len(silent):,} transcripts are" if len(silent) > 1 else "1 transcript is"
    return good, bad, [f"{many} left out, as there is no sentence to be read ({name}: {reason})."]


def _settled(clip: Clip, film: Held, sound: float, text: float) -> BadRecord | None:
    """Sets what a clip holds and how long it is, or says why it is none."""
    if clip.video and film.audio and not clip.audio and (clip.own_sound or not film.video):
        clip.audio, sound = clip.video, film.seconds
    if clip.video and not film.video:
        clip.video = ""
    whole = film.seconds if clip.video else sound if clip.audio else text
    if whole:
        end = whole if clip.end is None else min(clip.end, whole)
        if end <= clip.start:
            return BadRecord(f"ends before {clip.start:g} s")
        clip.seconds = end - clip.start
    if not (clip.video or clip.audio or clip.text or clip.words):
        return BadRecord("nothing in it")
    return None


def _tried(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except BadRecord as error:
        return error


def _held(path: Path, rate: float) -> Held:
    if path.is_dir():
        return Held(True, False, Film(path, rate).seconds)
    return probe(path)


def _length(path: Path) -> float:
    found = Recording(path)
    return found.samples / found.rate
