"""Exams of slices: each record a slice of a series, every exam drawn as often as the others, however long it is."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tacit.data.index import Index, stored, write
from tacit.data.volumes import (
    PLANES,
    Volume,
    dicom_series,
    is_dicom,
    measured,
    read_dicom,
    read_nifti,
    read_npy,
    scaled,
)
from tacit.errors import BadRecord, DataError, Unknown, UsageError

PREFIX = "exams:"
PARTS = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
OPEN = 8  # series that a process holds decoded, or mapped


@dataclass(frozen=True)
class Options:
    """plane: axial, coronal or sagittal, or all of them mixed; none where there is one. part: train (by default where
    the data has parts), valid, test or all. max_exams: so many exams, always the same ones."""

    plane: str | None = None
    part: str | None = None
    max_exams: int | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[Path, Options]:
        """`PATH` or `PATH:name=value,…`. Raises `UsageError`."""
        path, colon, rest = text.rpartition(":")
        if not colon or "=" not in rest:
            return Path(text), cls()
        given: dict[str, str | int] = {}
        for item in rest.split(","):
            name, _, value = item.partition("=")
            if name not in cls.__dataclass_fields__:
                raise Unknown("option of exams", name, cls.__dataclass_fields__)
            if name == "max_exams" and not (value.isdecimal() and int(value)):
                raise UsageError(f"{PREFIX}{text}: max_exams must be a whole number of at least 1, is {value!r}.")
            given[name] = int(value) if name == "max_exams" else value
        if given.get("plane", "all") not in (*PLANES, "all"):
            raise Unknown("plane", str(given["plane"]), (*PLANES, "all"))
        if given.get("part", "all") not in (*PARTS.values(), "all"):
            raise Unknown("part of exams", str(given["part"]), (*dict.fromkeys(PARTS.values()), "all"))
        return Path(path), cls(**given)


@dataclass
class Slices:
    """A record is a slice of one of `rows` of the index: float32 [H, W], 0 at the .5th percentile of its series and
    below, 1 at the 99.5th and above. `previous` and `next` are its neighbours, or itself at an end."""

    index: Index  # a row a series
    root: str
    rows: np.ndarray
    ends: np.ndarray = field(init=False)
    _open: OrderedDict = field(default_factory=OrderedDict, repr=False)

    fields = ("image", "previous", "next")

    def __post_init__(self) -> None:
        self.ends = np.cumsum(self.column("slices"))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def column(self, name: str) -> np.ndarray:
        """What the index says of every series [len(rows)]."""
        return np.asarray(self.index.table.column(name).to_pylist())[self.rows]

    def of_slices(self, name: str) -> np.ndarray:
        """The same for every record [N]."""
        return np.repeat(self.column(name), np.diff(self.ends, prepend=0))

    def locate(self, index: int) -> tuple[int, int]:
        """The row of the index that a record's series is, and its slice."""
        place = int(np.searchsorted(self.ends, index, side="right"))
        return int(self.rows[place]), index - (int(self.ends[place - 1]) if place else 0)

    def name(self, index: int) -> str:
        row, at = self.locate(index)
        return f"{self.index.at('name', row)}#{at}"

    def read(self, index: int, which: str = "image") -> np.ndarray:
        row, at = self.locate(index)
        slices = self._series(row)
        at = min(max(at + {"image": 0, "previous": -1, "next": 1}[which], 0), len(slices) - 1)
        return scaled(np.array(slices[at]), self.index.at("low", row), self.index.at("high", row))

    def _series(self, row: int) -> np.ndarray:
        if row in self._open:
            self._open.move_to_end(row)
        else:
            files = [os.path.join(self.root, file) for file in self.index.at("files", row)]
            self._open[row] = _read(self.index.at("kind", row), files, self.index.at("plane", row)).slices
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        if len(self._open[row]) != self.index.at("slices", row):
            raise BadRecord("other slices than when the exams were listed; begin again")
        return self._open[row]

    def stamp(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows.tolist():
            for file in self.index.at("files", row):
                try:
                    stat = os.stat(os.path.join(self.root, file))
                    digest.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
                except OSError:
                    digest.update(b"gone ")
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Changes with names, slices and which of them are taken."""
        digest = hashlib.blake2b(self.index.fingerprint().encode(), digest_size=16)
        for numbers in (self.rows, self.ends):
            digest.update(numbers.tobytes())
        return digest.hexdigest()


def open_exams(root: Path, options: Options, cache: str | os.PathLike | None = None) -> tuple[Slices, list[str]]:
    """Series below `root`, and what a user should know of how they were taken.

    A series is a .npy [S, H, W], a NIfTI file, or the DICOM files of one series in a folder. Its exam is its path
    without what names a part (train, valid, test, first), a plane (a folder or a file so called) and the ending;
    of DICOM it is the folder that holds all series of the study. Every series is read once, when it is first listed.

    Raises:
        DataError: no exam, or one in two parts. UsageError: several planes, or a plane or part that is not there.
    """
    root = root.resolve()
    wanted = options.plane if options.plane in PLANES else ""
    path, index = stored("exams", f"{root} {wanted}", cache, lambda facts: _unchanged(root, facts))
    if index is None:
        index = _build(root, path, wanted)
    planes, parts, exams = (np.array(index.table.column(c).to_pylist()) for c in ("plane", "part", "exam"))
    several = sorted(set(planes.tolist()))
    if options.plane is None and len(several) > 1:
        found = ", ".join(p or "unknown" for p in several)
        raise UsageError(
            f"{PREFIX}{root} holds series of different planes ({found}). Name one, as in {PREFIX}{root}:plane="
            f"{next(p for p in several if p)}, or mix them by plane=all."
        )
    sides: dict[str, set[str]] = {}
    for exam, part in zip(exams.tolist(), parts.tolist(), strict=True):
        sides.setdefault(exam, set()).add(part)
    if both := sorted(exam for exam, found in sides.items() if len(found) > 1):
        of = " and ".join(sorted(sides[both[0]]))
        raise DataError(
            f"{root}: {len(both):,} exams lie in two parts, the first is {both[0]} ({of}). Slices of an exam must not "
            "be on both sides of a split: remove or rename one."
        )
    there = set(parts.tolist())
    part = options.part or ("train" if "train" in there else "all")
    if part != "all" and part not in there:
        raise UsageError(f"{PREFIX}{root} has no part {part}; it has {', '.join(sorted(there - {''})) or 'none'}.")
    rows = np.flatnonzero(np.ones(len(parts), bool) if part == "all" else parts == part)
    notes = list(index.facts["notes"])
    if len(there) > 1:
        others = sorted(there - {part})
        notes.append(
            "All parts of the data are used, those for testing too: scores on these are of what was seen unlabelled."
            if part == "all"
            else f"Of the data, {part} is used and {' and '.join(others)} left out (part=all takes all)."
        )
    names = np.unique(exams[rows])
    if options.max_exams is not None and options.max_exams < len(names):
        chosen = np.random.default_rng(0).permutation(len(names))[: options.max_exams]
        rows = rows[np.isin(exams[rows], names[chosen])]
    store = Slices(index, str(root), rows)
    count = store.column("slices")
    mean = float(np.average(store.column("mean"), weights=count))
    std = float(np.average(store.column("square"), weights=count) - mean**2) ** 0.5
    notes.append(
        f"{len(set(store.column('exam').tolist())):,} exams, {len(rows):,} series, {len(store):,} slices; within each "
        f"series' range their mean is {mean:.3f} and their deviation {std:.3f}."
    )
    return store, notes


def _unchanged(root: Path, facts: dict) -> bool:
    try:
        return all(os.stat(root / path).st_mtime_ns == stamp for path, stamp in facts["stamps"])
    except OSError:
        return False


def _read(kind: str, files: Sequence[str | Path], plane: str) -> Volume:
    if kind == "dicom":
        return read_dicom([Path(file) for file in files])
    return read_npy(Path(files[0])) if kind == "npy" else read_nifti(Path(files[0]), plane)


@dataclass(frozen=True)
class _Found:
    name: str
    kind: str
    files: list[str]
    exam: str
    part: str
    plane: str  # of its path


def _build(root: Path, where: Path, wanted: str) -> Index:
    stamps: list[tuple[str, int]] = []
    skipped: list[tuple[str, str]] = []
    rows, elsewhere = [], 0
    for one in _walk(root, stamps, skipped):
        if one.plane and wanted and one.plane != wanted:
            elsewhere += 1
            continue
        try:
            volume = _read(one.kind, [root / file for file in one.files], one.plane or wanted)
            if one.plane and volume.plane and volume.plane != one.plane:
                raise BadRecord(f"among {one.plane} series, and its slices are {volume.plane}")
            plane = volume.plane or one.plane
            if plane and wanted and plane != wanted:
                elsewhere += 1
                continue
            about = measured(volume.slices)
            rows.append((one, plane, volume.patient, len(volume.slices), about))
        except BadRecord as error:
            skipped.append((one.name, str(error)))
        except OSError as error:
            skipped.append((one.name, f"cannot be read ({error.strerror})"))
    often = Counter((one.exam, one.part, plane) for one, plane, *_ in rows)
    for one, plane, *_ in rows:
        if (count := often[one.exam, one.part, plane]) > 1:
            skipped.append((one.name, f"one of {count} {plane or 'like'} series of the exam {one.exam}; leave one"))
    rows = [row for row in rows if often[row[0].exam, row[0].part, row[1]] == 1]
    if not rows:
        raise DataError(_nothing(root, wanted, skipped, elsewhere))
    found, planes, patients, counts, about = zip(*rows, strict=True)
    text = pa.large_string()
    columns = {
        "name": pa.array([one.name for one in found], text),
        "kind": pa.array([one.kind for one in found], text),
        "files": pa.array([one.files for one in found], pa.large_list(text)),
        "exam": pa.array([one.exam for one in found], text),
        "part": pa.array([one.part for one in found], text),
        "plane": pa.array(planes, text),
        "patient": pa.array(patients, text),
        "slices": pa.array(counts, pa.int64()),
        **{
            name: pa.array([getattr(a, name) for a in about], pa.float64())
            for name in ("low", "high", "mean", "square")
        },
    }
    notes = [f"{elsewhere:,} series of other planes than {wanted} were left out."] if elsewhere else []
    facts = {"classes": None, "skipped": sorted(skipped), "notes": notes, "stamps": stamps}
    return write(where, columns, facts)


def _nothing(root: Path, wanted: str, skipped: list[tuple[str, str]], elsewhere: int) -> str:
    if skipped:
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        return f"{root} holds no exam that can be read. {skipped[0][0]}: {skipped[0][1]}{more}."
    if elsewhere:
        return f"{root} holds {elsewhere:,} series, and none is {wanted}."
    return (
        f"{root} holds no exam. A series of slices is a .npy [S, H, W], a .nii or .nii.gz, or a folder of DICOM files."
    )


def _walk(root: Path, stamps: list[tuple[str, int]], skipped: list[tuple[str, str]]) -> Iterator[_Found]:
    """Every series in the order of its name; what is looked at is stamped."""
    by_study: dict[str, list[tuple[str, list[str]]]] = {}
    for folder, below, files in os.walk(root):
        below[:] = sorted(b for b in below if not b.startswith((".", "__MACOSX")))
        at = os.path.relpath(folder, root)
        stamps.append((at, os.stat(folder).st_mtime_ns))
        slices = []
        for file in sorted(f for f in files if not f.startswith(".")):
            name = file if at == "." else os.path.join(at, file)
            kind = (
                "npy"
                if file.lower().endswith(".npy")
                else "nifti"
                if file.lower().endswith((".nii", ".nii.gz"))
                else ""
            )
            if not kind and is_dicom(Path(folder, file)):
                slices.append(name)
            elif not kind:
                continue
            stamps.append((name, os.stat(root / name).st_mtime_ns))
            if kind:
                exam, part, plane = _told(name[: -4 if not file.lower().endswith(".nii.gz") else -7])
                yield _Found(name, kind, [name], exam, part, plane)
        if slices:
            series, bad = dicom_series([root / name for name in slices])
            skipped += [(os.path.relpath(path, root), reason) for path, reason in bad]
            for (study, _), paths in series.items():
                names = [os.path.relpath(path, root) for path in paths]
                by_study.setdefault(study or at, []).append((at, names))
    for found in by_study.values():
        exam = os.path.commonpath([at for at, _ in found])
        for at, names in found:
            told, part, plane = _told(at)
            yield _Found(names[0] if at == "." else at, "dicom", names, _told(exam)[0] or told, part, plane)


def _told(name: str) -> tuple[str, str, str]:
    """The exam, the part and the plane that a path without its ending tells."""
    pieces = name.replace("\\", "/").split("/")
    part = PARTS.get(pieces[0].lower(), "") if len(pieces) > 1 else ""
    pieces = pieces[1:] if part else pieces
    plane = next((p.lower() for p in pieces if p.lower() in PLANES), "")
    rest = [p for p in pieces if p.lower() not in PLANES]
    return "/".join(rest or pieces), part, plane
