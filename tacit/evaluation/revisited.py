"""Retrieval on revisited Oxford and Paris (Radenović et al. 2018): what counts, what is ignored, AP as published."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from tacit.data.plain_pickle import read_plain
from tacit.errors import DataError, Unknown, UsageError
from tacit.evaluation.retrieval import Scores, trapezoid_ap

# Which lists of the ground truth count as positives, and which are taken out of the ranking before it is scored.
LEVELS = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}


@dataclass(frozen=True)
class Truth:
    """Ground truth of revisited Oxford or Paris: names, and for each query rows of `images`, disjoint and in order.

    boxes: (left, top, right, bottom) in pixels of the query image, or None where the file has none.
    """

    images: tuple[str, ...]
    queries: tuple[str, ...]
    easy: tuple[np.ndarray, ...]
    hard: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]
    boxes: tuple[tuple[float, ...] | None, ...]


def read_revisited(path: str | os.PathLike) -> Truth:
    """Ground truth from JSON: {"imlist": [name], "qimlist": [name], "gnd": [{"bbx", "easy", "hard", "junk"}]}.

    The published pickles (.pkl) of the same are read too, by `read_plain`: one that holds anything but plain values
    and arrays is refused.

    Raises:
        DataError: no such file, neither JSON nor a plain pickle, or lists that are missing, overlap or point outside
            imlist.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        about = read_plain(data) if path.suffix == ".pkl" else json.loads(data)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DataError as error:
        raise DataError(
            f"{path} is a pickle, which can run code when it is opened; Tacit reads plain values and arrays of numbers "
            f"only, and {error}. Where you trust the file, convert it once: "
            "json.dump(pickle.load(open('gnd.pkl', 'rb')), open('gnd.json', 'w'), default=lambda a: a.tolist())"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON. The published pickle must keep its ending .pkl.") from error
    names = [about.get(key) if isinstance(about, dict) else None for key in ("imlist", "qimlist", "gnd")]
    for key, value, kind in zip(("imlist", "qimlist", "gnd"), names, (str, str, dict), strict=True):
        if not isinstance(value, list) or not value or not all(isinstance(v, kind) for v in value):
            entries = "objects" if kind is dict else "names"
            raise DataError(f"{path}: {key!r} must be a list of {entries}, at least one; see `read_revisited`.")
    images, queries, gnd = names
    if len(gnd) != len(queries):
        raise DataError(
            f"{path}: {len(queries)} queries (qimlist) and {len(gnd)} entries of gnd; there must be as many."
        )
    lists = {
        key: tuple(_rows(path, gnd, i, key, len(images)) for i in range(len(gnd))) for key in ("easy", "hard", "junk")
    }
    for i, parts in enumerate(zip(*lists.values(), strict=True)):
        both = np.concatenate(parts)
        if len(np.unique(both)) < len(both):
            raise DataError(f"{path}: entry {i} of gnd names an image twice; easy, hard and junk must be disjoint.")
    return Truth(
        tuple(images), tuple(queries), **lists, boxes=tuple(_box(path, i, g.get("bbx")) for i, g in enumerate(gnd))
    )


def _rows(path: Path, gnd: list[dict], i: int, key: str, images: int) -> np.ndarray:
    rows = gnd[i].get(key)
    if not isinstance(rows, list) or not all(type(row) is int and 0 <= row < images for row in rows):
        raise DataError(f"{path}: {key!r} of entry {i} of gnd must be a list of whole numbers from 0 to {images - 1}.")
    return np.array(sorted(rows), dtype=np.int64)


def _box(path: Path, i: int, box: object) -> tuple[float, ...] | None:
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        raise DataError(f"{path}: 'bbx' of entry {i} of gnd must be four numbers: left, top, right, bottom.")
    return tuple(float(v) for v in box)


def revisited(ranking: Tensor | np.ndarray, truth: Truth, level: str, *, hits: Sequence[int] = (1, 5, 10)) -> Scores:
    """ "AP" and "P@k" of revisited Oxford and Paris (Radenović et al. 2018, section 3.3, and the published evaluation).

    Level "easy" searches the easy images and ignores hard and junk, "medium" searches easy and hard and ignores junk,
    "hard" searches hard and ignores easy and junk. Ignored images are taken out of the ranking. As published, P@k ends
    at the last positive: its k is no more than that one's place. Queries without a positive at the level are left out.

    Args:
        ranking: [M, N] int, all rows of the gallery for each query, as from `rank`. N is the length of
            `truth.images`, or more where distractors follow them.

    Raises:
        Unknown: the level. UsageError: a ranking that is none. DataError: no query has a positive at this level.
    """
    if level not in LEVELS:
        raise Unknown("level", level, LEVELS)
    order = np.asarray(ranking.cpu() if isinstance(ranking, Tensor) else ranking)
    queries, images = len(truth.queries), len(truth.images)
    if order.ndim != 2 or len(order) != queries or order.shape[1] < images:
        raise UsageError(f"The ranking must be [{queries}, {images} or more], whole; got {list(order.shape)}.")
    places = np.arange(order.shape[1])
    if not (np.sort(order, axis=1) == places).all():
        raise UsageError("A row of the ranking does not name every image of the gallery once. Rank with k=None.")
    place = np.empty_like(order)
    np.put_along_axis(place, order, places[None], axis=1)
    values = {name: [] for name in ("AP", *(f"P@{k}" for k in hits))}
    rows = []
    for i in range(queries):
        wanted, ignored = (
            np.sort(place[i, np.concatenate([getattr(truth, n)[i] for n in names])]) for names in LEVELS[level]
        )
        if not len(wanted):
            continue
        wanted = wanted - np.searchsorted(ignored, wanted)
        values["AP"].append(trapezoid_ap(wanted, len(wanted)))
        for k in hits:
            depth = min(k, wanted[-1] + 1)
            values[f"P@{k}"].append((wanted < depth).sum() / depth)
        rows.append(i)
    if not rows:
        raise DataError(f"No query has a positive at level {level!r}; there is nothing to score.")
    return Scores({name: np.array(v, dtype=np.float64) for name, v in values.items()}, np.array(rows))
