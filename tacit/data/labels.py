"""Labels from how people lay out files: class folders, and the parts of a labelled set above them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LABEL_NAMES = ("label", "labels", "target", "class", "fine_label")  # of columns
PARTS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])


def class_folders(names: Sequence[str], separator: str = "/") -> tuple[np.ndarray, list[str]] | None:
    """Labels [N] and class names from first-level folders, or from those below train/, test/ and the like.

    None unless every name lies in such a folder and there are two of them.
    """
    level = 1 if parts_of(names, separator) else 0
    found = []
    for name in names:
        folders = name.split(separator, level + 1)
        found.append(folders[level] if len(folders) > level + 1 else None)
    return as_numbers(found)


def parts_of(names: Sequence[str], separator: str = "/") -> list[str]:
    """The first-level folders, if they are all parts of a labelled set: `["test", "train"]`, else none."""
    first = {name.partition(separator)[0] if separator in name else "" for name in names}
    return sorted(first) if {folder.lower() for folder in first} <= PARTS else []


def stray_note(names: Sequence[str], separator: str = "/") -> list[str]:
    """Why class folders are no labels: a few files, a twentieth at most, lie beside them."""
    level = 1 if parts_of(names, separator) else 0
    outside = [name for name in names if name.count(separator) <= level]
    folders = {name.split(separator, level + 1)[level] for name in names if name.count(separator) > level}
    if not outside or len(folders) < 2 or len(outside) > len(names) / 20:
        return []
    what = f"{len(outside):,} files lie" if len(outside) > 1 else "1 file lies"
    return [f"{what} in no class folder ({outside[0]}), so folders are not taken as labels; move or remove what does."]


def parts_note(parts: list[str]) -> list[str]:
    """What a user should know who gives such a set whole."""
    if len(parts) < 2:
        return []
    said = f"{', '.join(parts[:-1])} and {parts[-1]}"
    train = next((part for part in parts if part.lower().startswith("train")), parts[0])
    return [f"The data holds {said}, and all of it is used. Give {train} alone to keep the rest unseen."]


def as_numbers(texts: Sequence[str | None]) -> tuple[np.ndarray, list[str]] | None:
    """Labels as numbers, in the order of numbers or of the alphabet; None unless all are there and two differ."""
    distinct = set(texts)
    if None in distinct or len(distinct) < 2:
        return None
    classes = sorted(distinct, key=int) if all(t.isdecimal() for t in distinct) else sorted(distinct)
    number = {text: i for i, text in enumerate(classes)}
    return np.fromiter((number[t] for t in texts), np.int64, len(texts)), classes
