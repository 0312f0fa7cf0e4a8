"""Retrieval by cosine: by class label, and across pairs. Scores per query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import DataError, UsageError


@dataclass(frozen=True)
class Scores:
    """values: metric -> [Q] float64, one a scored query; queries: [Q] int64, which rows of the queries these are.

    A query without a positive in the gallery has no score and is in neither. Every array of `values` can go to
    `intervals.bootstrap`; those of two encoders on the same data are paired. All but "rank" are fractions.
    """

    values: dict[str, np.ndarray]
    queries: np.ndarray

    @property
    def mean(self) -> dict[str, float]:
        """metric -> mean over the scored queries; of "AP" that is the mAP, of "reciprocal_rank" the MRR."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def median_rank(self) -> float:
        """Median of "rank", the place (from 1) of each query's first positive."""
        return float(np.median(self.values["rank"]))


@torch.no_grad()
def rank(
    query: Tensor, gallery: Tensor | None = None, k: int | None = None, block: int = 1024, *, own: Tensor | None = None
) -> Tensor:
    """Rows of the gallery from the nearest by cosine on, for every query; ties in the order of the gallery.

    Args:
        query: [M, D]; gallery: [N, D]. Rows need not be normalised. Without a gallery every query is ranked against all
            others (leave one out).
        k: how many to return; all by default (N, or N - 1 where the query itself is left out).
        block: queries compared at once, so that no more than block x N similarities are ever held.
        own: [M] int64, the row of the gallery that is the query itself and is left out of its ranking.

    Returns:
        [M, k] int64.

    Raises:
        UsageError: shapes that do not fit, or k out of range. DataError: features that are no numbers.
    """
    gallery, own, size = _prepare(query, gallery, own)
    k = size if k is None else k
    _check_depth((k,), size)
    return torch.cat([_top(s, k) for _, s in _similarities(query, gallery, own, block)])


@torch.no_grad()
def by_label(
    query: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    own: Tensor | None = None,
    hits: Sequence[int] = (1, 3, 5),
    precision: Sequence[int] = (1, 5, 10),
    vote: Sequence[int] = (5,),
    block: int = 256,
) -> Scores:
    """Retrieval where records of the query's class are positives (acc@k and majority vote as in UNI, Chen et al. 2024).

    Args:
        query: [M, D]; labels: [M] int64; gallery: [N, D]; gallery_labels: [N] int64; own, block: as in `rank`. Without
            a gallery, leave one out.

    Returns:
        "AP": average precision over the whole ranking, the mean of the precision at each positive;
        "rank", "reciprocal_rank": of the first positive; "R@k": 1 when a positive is among the first k (also called
        acc@k and top-k); "P@k": share of positives among the first k; "majority@k": 1 when most of the first k have the
        query's class, a draw going to the class that comes first. Classes that the gallery lacks are not scored.

    Raises:
        UsageError: shapes that do not fit, or a k beyond the gallery. DataError: NaN, or no query with a positive.
    """
    if (gallery is None) != (gallery_labels is None):
        raise UsageError("gallery and gallery_labels go together: give both, or neither to leave one out.")
    gallery, own, size = _prepare(query, gallery, own)
    gallery_labels = labels if gallery_labels is None else gallery_labels
    _check_ids(labels, query, "labels")
    _check_ids(gallery_labels, gallery, "gallery_labels")
    _check_depth((*hits, *precision, *vote), size)
    place = torch.arange(1, size + 1, dtype=torch.float64, device=query.device)
    parts, rows = [], []
    for start, similarity in _similarities(query, gallery, own, block):
        mine = labels[start : start + len(similarity), None]
        found = gallery_labels[_top(similarity, size)]  # [m, size] labels from the nearest on
        keep = (found == mine).any(1)
        found, mine = found[keep], mine[keep]
        right = (found == mine).double()
        first = right.argmax(1).double() + 1
        part = {"AP": (right.cumsum(1) / place * right).sum(1) / right.sum(1)}
        part |= {"rank": first, "reciprocal_rank": 1 / first}
        part |= {f"R@{k}": (first <= k).double() for k in hits}
        part |= {f"P@{k}": right[:, :k].mean(1) for k in precision}
        part |= {f"majority@{k}": (_majority(found[:, :k]) == mine[:, 0]).double() for k in vote}
        parts.append(part)
        rows.append(start + keep.nonzero()[:, 0])
    return _gather(parts, rows)


@torch.no_grad()
def paired(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    hits: Sequence[int] = (1, 5, 10),
    block: int = 1024,
) -> tuple[Scores, Scores]:
    """Retrieval across two modalities, a -> b and b -> a: "rank" of the first positive, "reciprocal_rank", "R@k".

    Ties count against the query, so that an encoder that gives the same for everything scores nothing.

    Args:
        a: [M, D]; b: [N, D]. Row i of one belongs to row i of the other; or, where a record has several partners (five
            captions an image), to the rows with its id: a_ids [M], b_ids [N] int64.

    Raises:
        UsageError: shapes that do not fit, or a k beyond the gallery. DataError: NaN, or nothing that belongs together.
    """
    if (a_ids is None) != (b_ids is None):
        raise UsageError("a_ids and b_ids go together: give both, or neither where row i belongs to row i.")
    if a_ids is None:
        if len(a) != len(b):
            raise UsageError(f"{len(a)} rows cannot be pairs of {len(b)}; give a_ids and b_ids.")
        a_ids = b_ids = torch.arange(len(a), device=a.device)
    _check_ids(a_ids, a, "a_ids")
    _check_ids(b_ids, b, "b_ids")
    return one_way(a, a_ids, b, b_ids, hits, block), one_way(b, b_ids, a, a_ids, hits, block)


@torch.no_grad()
def one_way(
    query: Tensor, ids: Tensor, gallery: Tensor, gallery_ids: Tensor, hits: Sequence[int] = (1, 5, 10),
    block: int = 1024, unit: bool = True,
) -> Scores:  # fmt: skip
    """One direction of `paired`: queries [M, D] with ids [M] look for rows of the gallery [N, D] with the same id.

    `unit`: by cosine; else by the inner product of the rows as they are.
    """
    normalised, own, size = _prepare(query, gallery, None)
    gallery = normalised if unit else gallery.float()
    _check_depth(hits, size)
    parts, rows = [], []
    for start, similarity in _similarities(query, gallery, own, block, unit):
        positive = ids[start : start + len(similarity), None] == gallery_ids
        best = similarity.masked_fill(~positive, -torch.inf).amax(1, keepdim=True)
        keep = positive.any(1)
        first = 1 + ((similarity >= best) & ~positive).sum(1)[keep].double()
        part = {"rank": first, "reciprocal_rank": 1 / first}
        parts.append(part | {f"R@{k}": (first <= k).double() for k in hits})
        rows.append(start + keep.nonzero()[:, 0])
    return _gather(parts, rows)


def trapezoid_ap(places: np.ndarray, positives: int) -> float:
    """Area under precision over recall by trapezoids, as in the Oxford, Holidays and Copydays evaluations.

    Args:
        places: sorted places (from 0) of the positives that were found; positives: how many there are in all.
    """
    found = np.arange(len(places))
    before = np.where(places == 0, 1.0, found / np.maximum(places, 1))
    return float(((before + (found + 1) / (places + 1)) / 2).sum() / positives)


def _prepare(query: Tensor, gallery: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """The gallery normalised, the rows to leave out, and how many are left to rank."""
    _check_features(query, "query")
    if gallery is None:
        if own is not None:
            raise UsageError(
                "`own` names rows of a gallery, and there is none; without one, every query leaves itself out."
            )
        gallery, own = query, torch.arange(len(query), device=query.device)
    _check_features(gallery, "gallery")
    if gallery.shape[1] != query.shape[1]:
        raise UsageError(f"Queries have {query.shape[1]} features and the gallery {gallery.shape[1]}; they must agree.")
    if own is not None:
        _check_ids(own, query, "own")
        if own.min() < 0 or own.max() >= len(gallery):
            raise UsageError(f"`own` must hold rows of the gallery, 0 to {len(gallery) - 1}.")
    size = len(gallery) - (own is not None)
    if not size:
        raise UsageError("A single record cannot be ranked against others; give more.")
    return F.normalize(gallery.float(), dim=1), own, size


def _check_features(x: Tensor, what: str) -> None:
    if x.ndim != 2 or not x.numel():
        raise UsageError(f"The {what} must be features [N, D] with at least one row; got {list(x.shape)}.")
    if not torch.isfinite(x).all():
        row = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise DataError(f"Row {row} of the {what} holds values that are not numbers: the encoder is broken.")


def _check_ids(ids: Tensor, x: Tensor, what: str) -> None:
    if ids.shape != (len(x),) or ids.is_floating_point():
        raise UsageError(f"{what} must hold {len(x)} whole numbers, one a row; got {list(ids.shape)} of {ids.dtype}.")


def _check_depth(depths: Sequence[int], size: int) -> None:
    for k in depths:
        if not 1 <= k <= size:
            raise UsageError(f"k = {k}: must be from 1 to {size}, which is how many there are to rank.")


def _similarities(
    query: Tensor, gallery: Tensor, own: Tensor | None, block: int, unit: bool = True
) -> Iterator[tuple[int, Tensor]]:
    """Inner products of blocks of queries, normalised unless they are taken as they are, with the gallery as it is."""
    for start in range(0, len(query), block):
        rows = query[start : start + block].float()
        similarity = (F.normalize(rows, dim=1) if unit else rows) @ gallery.T
        if own is not None:
            similarity[torch.arange(len(similarity)), own[start : start + block]] = -torch.inf
        yield start, similarity


def _top(similarity: Tensor, k: int) -> Tensor:
    """[m, N] -> [m, k]: the first k of a stable sort, which is made only where it is as fast or ties are cut."""
    if 4 * k > similarity.shape[1]:
        return similarity.sort(dim=1, descending=True, stable=True).indices[:, :k]
    values, index = similarity.topk(k, dim=1)
    index = index.sort(dim=1).values
    order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True).indices
    index = index.gather(1, order)
    tied = (similarity >= values[:, -1:]).sum(1) > k
    if tied.any():
        index[tied] = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return index


def _majority(labels: Tensor) -> Tensor:
    """[m, k] -> [m]: the label most of a row have; of several, the one that comes first."""
    votes = (labels[:, :, None] == labels[:, None, :]).sum(2)
    return labels.gather(1, votes.argmax(1, keepdim=True))[:, 0]


def _gather(parts: list[dict[str, Tensor]], rows: list[Tensor]) -> Scores:
    queries = torch.cat(rows).cpu().numpy()
    if not len(queries):
        raise DataError(
            "No query has a positive in the gallery; there is nothing to score. Do the labels belong together?"
        )
    return Scores({name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}, queries)
