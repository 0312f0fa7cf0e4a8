"""A folder of files, as people keep them: nested, mixed, with links and leftovers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tacit.data.containers import FILMS as FILMS_OF_PYAV
from tacit.data.index import Index, stored, write
from tacit.data.kinds import FILES, KNOWN, choose
from tacit.data.labels import class_folders, parts_note, parts_of, stray_note
from tacit.errors import BadRecord, DataError


@dataclass
class Files:
    """Files below a folder. Pictures are read as bytes; sounds, which may be long, are given by their paths."""

    root: str
    index: Index

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.index.facts["kind"],)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        return self.index.at("name", index)

    def read(self, index: int) -> bytes | Path:
        path = os.path.join(self.root, self.name(index))
        if self.index.facts["kind"] == "audio":
            return Path(path)
        try:
            with open(path, "rb") as f:
                return f.read()
        except OSError as error:
            raise BadRecord.of(error) from error

    def stamp(self) -> str:
        """Size and time of every file: some microseconds each."""
        digest = hashlib.blake2b(digest_size=16)
        for i in range(len(self)):
            try:
                stat = os.stat(os.path.join(self.root, self.name(i)))
                digest.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
            except OSError:
                digest.update(b"gone ")
        return digest.hexdigest()


def index_folder(root: Path, cache: str | os.PathLike | None = None, kind: str | None = "image") -> Index:
    """Names relative to `root` in sorted order, with a class for each where every file lies in a class folder.

    The index is kept and used again while no folder has changed. Raises `DataError` when there is nothing to read.

    Args:
        kind: of the files, "image" or "audio", if there are such; None for what there is more of.
    """

    def unchanged(facts: dict) -> bool:
        try:
            return all(os.stat(root / folder).st_mtime_ns == stamp for folder, stamp in facts["folders"])
        except OSError:
            return False

    path, index = stored("folder", f"{root.resolve()}\n{kind}", cache, unchanged)
    return index if index is not None else _build(root, path, kind)


def _build(root: Path, path: Path, kind: str | None) -> Index:
    names, skipped, links, folders, other = [], [], [], [], set()
    for found, name in _walk(root, folders, skipped):
        if found == "file":
            names.append(name)
        elif found == "link":
            links.append(name)
        else:
            other.add(found)
    names, duplicates = _with_links(root, names, links, skipped)
    if not names:
        raise DataError(_nothing(root, skipped, other))
    kind, rows, beside = choose(names, kind)
    names = [names[row] for row in rows]
    names.sort(key=lambda name: name.replace(os.sep, "/"))  # the same order on every system
    column = pa.array(names, pa.large_string())
    columns, classes = {"name": column}, None
    if (found := class_folders(names, os.sep)) is not None:
        columns["label"], classes = pa.array(found[0]), found[1]
    facts = {
        "classes": classes,
        "skipped": sorted(skipped),
        "notes": beside + _repeats(duplicates) + parts_note(parts_of(names, os.sep)) + stray_note(names, os.sep),
        "kind": kind,
        "folders": folders,
    }
    return write(path, columns, facts)


def _walk(root: Path, folders: list, skipped: list) -> Iterator[tuple[str, str]]:
    """("file" or "link", name) of every picture and sound, by its extension; (extension, "") of what is not one."""
    pending, seen = [""], set()
    while pending:
        folder = pending.pop()
        try:
            stat = os.stat(root / folder)
            if (stat.st_dev, stat.st_ino) in seen:  # a link that leads back
                continue
            seen.add((stat.st_dev, stat.st_ino))
            folders.append((folder, stat.st_mtime_ns))
            entries = list(os.scandir(root / folder))
        except OSError as error:
            skipped.append((folder or ".", f"folder cannot be read ({error.strerror})"))
            continue
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            name = os.path.join(folder, entry.name)
            extension = os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():
                pending.append(name)
            elif extension not in FILES:
                yield extension or "no extension", ""
            else:
                yield "link" if entry.is_symlink() else "file", name


def _with_links(root: Path, names: list[str], links: list[str], skipped: list) -> tuple[list[str], int]:
    """Add the links that name a file of their own; say which are broken; count those that repeat a file."""
    if not links:
        return names, 0
    seen = {os.path.realpath(root / name) for name in names}
    duplicates = 0
    for link in sorted(links):
        target = os.path.realpath(root / link)
        if not os.path.exists(target):
            skipped.append((link, "broken link"))
        elif target in seen:
            duplicates += 1
        else:
            seen.add(target)
            names.append(link)
    return names, duplicates


def _repeats(count: int) -> list[str]:
    if not count:
        return []
    what = "links name a file twice and were" if count > 1 else "link names a file twice and was"
    return [f"{count:,} {what} left out."]


def _nothing(root: Path, skipped: list, other: set[str]) -> str:
    if skipped:
        return f"{root} holds no readable image or sound: {skipped[0][0]}: {skipped[0][1]}" + (
            f" (and {len(skipped) - 1} more)." if len(skipped) > 1 else "."
        )
    found = f" It holds files of other kinds: {', '.join(sorted(other)[:6])}." if other else " It is empty."
    films = " Films are read by clips:PATH." if other & FILMS_OF_PYAV else ""
    return f"{root} holds no image and no sound.{found} {KNOWN}.{films}"
