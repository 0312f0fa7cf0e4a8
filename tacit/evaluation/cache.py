"""Features kept on disk, by what they were made of and with: in parts, so that a broken-off extraction goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tacit.data import Source
from tacit.data.index import cache_folder
from tacit.encoders import Encoder, describe, write_tensors

VERSION = 1
LIMIT = 20 * 2**30  # bytes kept of all features; the least recently used go first


@dataclass
class Part:
    """Some records that follow each other: numbers [n] of the readable ones, their features, and the others."""

    index: Tensor
    x: dict[str, Tensor]
    bad: list[tuple[int, str]]
    pending: list[tuple[Tensor, dict[str, Tensor]]]

    @classmethod
    def empty(cls) -> Part:
        return cls(torch.empty(0, dtype=torch.int64), {}, [], [])

    @property
    def records(self) -> int:
        return len(self.index) + sum(len(index) for index, _ in self.pending) + len(self.bad)

    def add(self, index: Tensor, x: dict[str, Tensor], bad: list[tuple[int, str]]) -> None:
        self.bad += bad
        if len(index):
            self.pending.append((index, x))

    def closed(self) -> Part:
        """The same in one piece."""
        if not self.pending:
            return self
        index, xs = zip(*self.pending, strict=True)
        return Part(torch.cat(index), {name: torch.cat([x[name] for x in xs]) for name in xs[0]}, self.bad, [])


def records_in(parts: list[Part]) -> int:
    return sum(part.records for part in parts)


@dataclass
class Parts:
    """The folder of one extraction; a part's file is named by its first record."""

    folder: Path

    @classmethod
    def of(cls, encoder: Encoder, source: Source, names: Sequence[str]) -> Parts:
        about = json.dumps([VERSION, describe(encoder), fingerprint(encoder), source.stamp(), list(names)])
        key = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
        root = cache_folder(None) / "features"
        _make_room(root, key)
        return cls(root / key)

    def load(self) -> list[Part]:
        """What is there without a gap from the first record on."""
        found: list[Part] = []
        while (path := self._path(records_in(found))).is_file():
            try:
                with safe_open(path, framework="pt") as f:
                    tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 it is no dict
                    bad = [(int(i), why) for i, why in json.loads(f.metadata()["bad"])]
            except (OSError, SafetensorError, KeyError, ValueError):
                break  # made again
            path.touch()  # lately used
            index = tensors.pop("index")
            found.append(Part(index, tensors, bad, []))
        self.done = records_in(found)
        return found

    def save(self, part: Part) -> None:
        tensors = {**part.x, "index": part.index}
        write_tensors(self._path(self.done), tensors, {"bad": json.dumps(part.bad)})
        self.done += part.records

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:012d}.safetensors"


def fingerprint(encoder: nn.Module) -> str:
    """Of every weight and buffer, to the bit."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _make_room(root: Path, keep: str) -> None:
    """Remove the features that were not used for longest, whole folders, until all fit into LIMIT."""
    if not root.is_dir():
        return
    folders = []
    for folder in root.iterdir():
        stats = [p.stat() for p in folder.glob("*.safetensors")] if folder.is_dir() else []
        folders.append((max((s.st_mtime for s in stats), default=0.0), sum(s.st_size for s in stats), folder))
    total = sum(size for _, size, _ in folders)
    for _, size, folder in sorted(folders):
        if total <= LIMIT:
            break
        if folder.name != keep:
            for path in folder.glob("*"):
                path.unlink(missing_ok=True)
            folder.rmdir()
            total -= size
