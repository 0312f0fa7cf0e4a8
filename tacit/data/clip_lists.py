"""Which files make a clip: by their names in a folder, or as a table says."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.data import recording, transcript
from tacit.data.containers import FILMS
from tacit.data.episodes import PICTURES
from tacit.data.labels import LABEL_NAMES
from tacit.data.listing import SOUND_NAMES, read_listing
from tacit.errors import DataError

PREFIX = "clips:"
TABLES = (".csv", ".tsv", ".json", ".jsonl")
TEXTS = (".srt", ".vtt", ".txt", ".json")  # that belong to the film of the same name
VIDEO_NAMES = ("video", "film", "clip", "video_path", "path", "file", "file_name", "filename", "filepath", "name")
TEXT_NAMES = ("text", "caption", "transcript", "sentence", "captions", "subtitles", "words")
RATE_NAMES = ("rate", "fps", "frame_rate")
PLACES = ("video", "videos", "clips", "films", "../video", "../videos", "../clips")


@dataclass
class Clip:
    """Files relative to a root, or the words themselves; "" for what is not there."""

    name: str
    video: str = ""
    audio: str = ""
    text: str = ""
    words: str = ""
    start: float = 0.0
    end: float | None = None
    rate: float = 0.0
    label: str | None = None
    row: int = 0
    own_sound: bool = True  # whether the film's own sound is its sound, where no other is named
    seconds: float = 0.0


@dataclass
class Listed:
    root: str
    clips: list[Clip]
    stamps: list[tuple[str, int]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_folder(root: Path) -> Listed:
    """Films, folders of frames, and sounds by themselves; with the sounds and transcripts of the same name.

    `a/x.mp4` goes with `a/x.wav` and with `a/x.srt` or `a/x.en.srt`. A folder of frames `a/x/` goes with `a/x.wav` and
    `a/x.srt`, or with the only ones inside it, or, where it is the only one in its folder, with the only ones beside
    it. Pictures that lie beside films, or in `root` itself, are no frames.
    """
    found, stamps, skipped = _walk(root)
    films = [name for name in found if _ending(name) in FILMS]
    sounds = _Beside([name for name in found if _ending(name) in recording.EXTENSIONS])
    texts = _Beside([name for ending in TEXTS for name in found if _ending(name) == ending])
    clips = [Clip(name, name, sounds.named(_stem(name)), texts.named(_stem(name))) for name in films]
    folders = {os.path.dirname(name) for name in found if _ending(name) in PICTURES}
    folders = sorted(folders - {os.path.dirname(name) for name in films} - {""})
    inside = Counter(map(os.path.dirname, folders))
    for folder in folders:
        parent = os.path.dirname(folder)
        alone = bool(parent) and inside[parent] == 1
        own = [files.named(folder) or files.only(folder) for files in (sounds, texts)]
        beside = [files.only(parent) if alone and not o else "" for files, o in zip((sounds, texts), own, strict=True)]
        clips.append(Clip(parent if any(beside) else folder, folder, own[0] or beside[0], own[1] or beside[1]))
    used = {clip.audio for clip in clips}
    clips += [Clip(n, audio=n, text=texts.named(_stem(n))) for n in sounds.names if n not in used]
    if not clips:
        pictures = any(_ending(name) in PICTURES for name in found)
        raise DataError(_nothing(root, found, skipped, pictures))
    return Listed(str(root), clips, stamps, skipped, _stray(texts.names, clips))


class _Beside:
    """Files of one kind, by their names without endings and by their folders."""

    def __init__(self, names: list[str]):
        self.names = names
        self.by_name: dict[str, str] = {}
        self.by_folder: dict[str, list[str]] = {}
        for name in names:
            self.by_name.setdefault(_stem(name), name)
            self.by_folder.setdefault(os.path.dirname(name), []).append(name)
        for name in names:  # x.en.srt, where there is no x.srt
            if 2 < len(_ending(_stem(name))) <= 6:
                self.by_name.setdefault(_stem(_stem(name)), name)

    def named(self, stem: str) -> str:
        return self.by_name.get(stem, "")

    def only(self, folder: str) -> str:
        inside = self.by_folder.get(folder, [])
        return inside[0] if len(inside) == 1 else ""


def of_table(path: Path) -> Listed:
    """A row a clip: columns `video`, `audio`, `text` (a path or the words), `start`, `end`, `rate` and a label.

    Raises:
        DataError: no such column, or none of the files is there.
    """
    table = read_listing(path)
    lower = {name.strip().lower(): name for name in reversed(table)}
    by = {
        what: next((table[lower[name]] for name in names if name in lower), None)
        for what, names in {
            "video": VIDEO_NAMES, "audio": SOUND_NAMES, "text": TEXT_NAMES, "start": transcript.STARTS,
            "end": transcript.ENDS, "rate": RATE_NAMES, "label": LABEL_NAMES,
        }.items()
    }  # fmt: skip
    if by["video"] is None and by["audio"] is None:
        raise DataError(
            f"{path} has no column of films (columns: {', '.join(list(table)[:8])}); name one of them `video`, and "
            "others `audio`, `text`, `start`, `end` where there are such."
        )
    count = len(next(iter(table.values()), []))
    if not count:
        raise DataError(f"{path} lists no clip.")
    cells = {what: [""] * count if column is None else [_cell(c) for c in column] for what, column in by.items()}
    root = _root_of(path, [*cells["video"], *cells["audio"]])
    clips, skipped, there = [], [], {"": True}
    for row in range(count):
        video, audio, text, start, end, rate, label = (cells[what][row] for what in cells)
        name = video or audio or f"row {row + 2}"
        file, words = (text, "") if text and transcript.is_file(text) else ("", text)
        missing = next((n for n in (video, audio, file) if not there.setdefault(n, (root / n).exists())), None)
        try:
            times = _number(start) or 0.0, _number(end), _number(rate) or 0.0
        except ValueError:
            skipped.append((name, f"row {row + 2}: start, end and rate must be numbers or h:mm:ss"))
            continue
        if start or end:
            name = f"{name}#{start or 0}-{end}"
        if missing is not None:
            skipped.append((name, f"no such file ({missing})" if missing != video else "no such file"))
            continue
        if video and not file and not words and by["text"] is None:
            file = _next_to(root, video)
        clips.append(
            Clip(name, video, audio, file, words, *times, label or None, row, by["audio"] is None)
        )  # fmt: skip
    if not clips:
        raise DataError(
            f"{path}: none of the {count:,} files it names is there, the first is {skipped[0][0]}. Paths are relative "
            f"to {root}; put the table where they begin, or write them in full."
        )
    stat = path.stat()
    return Listed(str(root), clips, [(str(path), stat.st_mtime_ns)], skipped)


def _walk(root: Path) -> tuple[list[str], list[tuple[str, int]], list[tuple[str, str]]]:
    """Names of files relative to the root, in order; (folder, time) of every folder; folders that cannot be read."""
    found, stamps, skipped, seen = [], [], [], set()

    def refused(error: OSError) -> None:
        skipped.append((os.path.relpath(error.filename, root), f"folder cannot be read ({error.strerror})"))

    for folder, below, files in os.walk(root, followlinks=True, onerror=refused):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:  # a link that leads back
            below.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below[:] = sorted(b for b in below if not b.startswith((".", "__MACOSX")))
        stamps.append((folder, stat.st_mtime_ns))
        inside = os.path.relpath(folder, root)
        found += [os.path.normpath(os.path.join(inside, f)) for f in sorted(files) if not f.startswith(".")]
    return found, stamps, skipped


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stray(texts: list[str], clips: Iterable[Clip]) -> list[str]:
    used = {clip.text for clip in clips}
    stray = [name for name in texts if name not in used and _ending(name) in (".srt", ".vtt")]
    if not stray:
        return []
    what = f"{len(stray):,} transcripts have" if len(stray) > 1 else "1 transcript has"
    return [f"{what} no film or sound of the same name ({stray[0]})."]


def _nothing(root: Path, found: list[str], skipped: list[tuple[str, str]], pictures: bool) -> str:
    if skipped:
        return f"{root} holds no film that can be read: {skipped[0][0]}: {skipped[0][1]}."
    endings = sorted({_ending(name) or "no extension" for name in found})
    inside = f"It holds files of other kinds: {', '.join(endings[:6])}." if endings else "It is empty."
    hint = " Frames belong into a folder for each film." if pictures else ""
    return (
        f"{root} holds no film, no folder of frames and no sound. {inside}{hint} Films are: {' '.join(sorted(FILMS))}."
    )


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _number(text: str) -> float | None:
    return transcript.time_of(text) if text else None


def _root_of(path: Path, names: list[str]) -> Path:
    """The folder that a table's files are named from: its own, or one of `PLACES` if the first is there."""
    first = next((name for name in names if name), "")
    own = path.parent
    return Path(os.path.normpath(next((own / p for p in ("", *PLACES) if first and (own / p / first).exists()), own)))


def _next_to(root: Path, video: str) -> str:
    return next((_stem(video) + ending for ending in TEXTS if (root / (_stem(video) + ending)).is_file()), "")
