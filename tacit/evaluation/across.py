"""Retrieval between modalities in a common space: which film is it that these words, or this sound, are of?

Nothing is learned from the data, so all of it is ranked (zero-shot). Each record is one query and one answer.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.data import Source
from tacit.data.kinds import MODALITIES
from tacit.encoders import JointSpace
from tacit.errors import DataError, UsageError
from tacit.evaluation.features import all_devices
from tacit.evaluation.groups import bootstrap_groups
from tacit.evaluation.options import Asked, one_of
from tacit.evaluation.retrieval import Scores, one_way
from tacit.evaluation.task import Score, packed, random_twin
from tacit.evaluation.windows import WINDOWS, read_windows
from tacit.views import TextInputs

AVERAGES = ("embeddings", "similarities")
BY = ("record", "class")


def run_across(
    *, windows: int = WINDOWS, average: str = "embeddings", by: str = "record", k: tuple[int, ...] = (1, 5, 10),
    sentences: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Recall at k and the median rank of the record that a query belongs to (VATT, appendix; Miech et al. 2020).

    Args:
        windows: pieces of a film or a sound, spread evenly over it.
        average: of the pieces' "embeddings", which are not normalised before, or of the "similarities" to each.
        by: the answer is the query's own "record", or any of its "class".
        sentences: of a transcript, those nearest to its middle; their features are averaged.
    """
    one_of("average", average, AVERAGES)
    one_of("by", by, BY)
    return {"windows": windows, "average": average, "by": by, "k": k, "sentences": sentences}


# What is asked of a joint space, as `text_to_video`: the query's modality, and that of what is ranked.
ACROSS = {f"{a}_to_{b}": (a, b) for a in MODALITIES for b in MODALITIES if a != b}


def evaluate_across(
    joint: JointSpace,
    source: Source,
    asked: Sequence[Asked],
    *,
    seed: int = 0,
    baselines: bool = True,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of a joint space, and of the same at random initialisation, as `evaluate.evaluate` gives them.

    Raises:
        UsageError: modalities that the space or the data lacks, or classes of data that has none. DataError: fewer than
            two records with both modalities.
    """
    others = sorted(one.name for one in asked if one.name not in ACROSS)
    if others:
        raise UsageError(f"{', '.join(others)} cannot be asked for with {asked[0].name}: ask for either by itself.")
    for one in asked:
        _check(joint, source, one)
    device = torch.device(device) if device else all_devices()[0]
    subjects = [("run", joint)] + ([("random-init", joint_twin(joint, seed))] if baselines else [])
    scores: list[Score] = []
    bad: dict[str, str] = {}
    for of, space in subjects:
        kept: dict[tuple, tuple[Tensor, Tensor]] = {}  # what is read of a modality serves all that it meets
        for one in asked:
            how, sides = run_across(**one.options), []
            for own, other in (ACROSS[one.name], ACROSS[one.name][::-1]):
                tell = progress and (lambda done, n, of=of, own=own: progress(f"{own}, {of}", done, n))
                told = {"workers": workers, "device": device, "progress": tell}
                sides.append(embedded(space, source, own, other, how, bad, kept, **told))
            scores += _scores(one, of, source, sides, how, seed)
    first = next(iter(joint.encoders.values()))
    digest = hashlib.blake2b(source.fingerprint.encode(), digest_size=8).hexdigest()
    return packed(
        scores, first, split="all records, none of which taught anything", split_hash=digest, seed=seed,
        bad=list(bad.items()),
    )  # fmt: skip


def _check(joint: JointSpace, source: Source, one: Asked) -> None:
    for of in ACROSS[one.name]:
        if of not in joint.encoders:
            raise UsageError(f"{one.name}: the run has no encoder of {of}. It has: {', '.join(joint.encoders)}.")
        if of not in source.fields:
            raise UsageError(f"{one.name}: {source.title} has no {of}. It has: {', '.join(source.fields)}.")
    pairs = {frozenset(pair) for pair in joint.pairs}
    if frozenset(ACROSS[one.name]) not in pairs:
        known = [name for name, pair in ACROSS.items() if frozenset(pair) in pairs]
        raise UsageError(f"{one.name}: the run did not bring the two together. There is: {', '.join(known)}.")
    if one.options.get("by") == "class" and source.labels is None:
        raise UsageError(f"{one.name}:by=class needs classes, and {source.title} has none. Give --label COLUMN.")


def _scores(
    one: Asked, of: str, source: Source, sides: list[tuple[Tensor, Tensor]], how: dict[str, Any], seed: int
) -> list[Score]:
    (query, of_query), (gallery, of_gallery) = sides
    if len(query) < 2 or len(gallery) < 2:
        raise DataError(f"{one.name}: fewer than two records of {source.title} have both. Give more.")
    numbers = torch.arange(len(source)) if how["by"] == "record" else torch.from_numpy(source.labels)
    ids, answers = numbers[of_query], numbers[of_gallery]
    depths = [depth for depth in how["k"] if depth <= len(gallery)]
    found = one_way(query, ids, gallery, answers, hits=depths, unit=how["average"] == "embeddings")
    said = {name: how[name] for name in ("windows", "average", "by", "sentences")} | {"candidates": len(gallery)}
    groups = None if source.groups is None else source.groups[of_query[found.queries].numpy()]
    rows = [
        _score(one, of, f"recall_at_{k}", found.values[f"R@{k}"], np.mean, seed, groups, said | {"chance": chance})
        for k, chance in zip(depths, chances(found, ids, answers, depths), strict=True)
    ]
    return [*rows, _score(one, of, "median_rank", found.values["rank"], np.median, seed, groups, said)]


def _score(one, of, metric, values, statistic, seed, groups, said) -> Score:
    value, low, high = bootstrap_groups(values, groups, lambda v: float(statistic(v)), resamples=1000, seed=seed)
    return Score(one.name, metric, float(value), float(low), float(high), len(values), of, said, values)


def chances(found: Scores, ids: Tensor, answers: Tensor, depths: Sequence[int]) -> list[float]:
    """What a ranking at random would have at each depth: the mean of 1 - C(N - r, k) / C(N, k) over queries with r of
    N answers."""
    right = (ids[found.queries][:, None] == answers).sum(1).double()
    n, out = len(answers), []
    for k in depths:
        drawn = torch.arange(k, dtype=torch.float64)
        miss = ((n - right[:, None] - drawn) / (n - drawn)).clamp_min(0).prod(1)
        out.append(round(float((1 - miss).mean()), 6))
    return out


@torch.no_grad()
def embedded(
    joint: JointSpace, source: Source, of: str, other: str, how: dict[str, Any], bad: dict[str, str],
    kept: dict[tuple, tuple[Tensor, Tensor]] | None = None, *, workers: int = 0, device: torch.device | str = "cpu",
    batch_size: int = 32, progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Embeddings [N, D] of a modality where it meets the other, and the numbers [N] of the records these are of.

    The mean over `how["windows"]` pieces, as they are, or each normalised before where similarities are averaged.
    Records that lack the modality are left out; `bad` gets the names of those that cannot be read, and why. `kept`
    holds the features of what was read before, and gets those of this.
    """
    joint, inputs = joint.to(device).eval(), joint.encoders[of].inputs
    inputs = replace(inputs, sentences=how["sentences"]) if isinstance(inputs, TextInputs) else inputs
    kept, key = {} if kept is None else kept, (of, how["windows"], how["sentences"])
    if key not in kept:
        unread: list[tuple[str, str]] = []
        told = {"workers": workers, "device": device, "batch_size": batch_size, "progress": progress}
        found = list(read_windows(joint.encoders[of], source, inputs, how["windows"], unread, **told))
        bad |= dict(unread)
        kept[key] = torch.stack([each for _, each in found]), torch.tensor([number for number, _ in found])
    features, index = kept[key]  # [N, windows, width]
    z = joint.meet(of, features.flatten(0, 1).to(device), other).float().cpu()
    z = F.normalize(z, dim=1) if how["average"] == "similarities" else z
    return z.unflatten(0, features.shape[:2]).mean(1), index


def joint_twin(joint: JointSpace, seed: int) -> JointSpace:
    """The same encoders and head with fresh weights, drawn by `seed`."""
    twins = {of: random_twin(encoder, seed) for of, encoder in joint.encoders.items()}
    head = copy.deepcopy(joint.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in head.modules():
            if isinstance(part, nn.Linear | nn.BatchNorm1d):
                part.reset_parameters()
    return JointSpace(twins, head, joint.pairs).eval()
