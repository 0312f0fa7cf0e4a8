"""For a few sentences, or sounds, the records nearest to them in the space where modalities meet."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from tacit.encoders import JointSpace, load_joint
from tacit.errors import DataError
from tacit.report.markup import Html, Section, join, note, section, tag
from tacit.report.numbers import share
from tacit.report.pictures import Thumbnails
from tacit.report.sample import BATCH, Sample
from tacit.report.tiles import mark, player, strip_class, tiles, words
from tacit.run import Run
from tacit.views import Plain, TextInputs

NEAREST = 6
QUERIES = 5  # of a run alone; fewer of several
MOST_SOUND = 1_500_000  # characters that all clips of this part take
SAID = {"video": "film", "audio": "sound", "text": "sentence"}
HOW = (
    "Each row starts with a {0} drawn by chance, then come the {1}s nearest to it in the space where the two meet "
    "(cosine below each). The record's own is marked ✓✓, and others of its class ✓ where there are labels. It should "
    "be among the first, and the others should fit too; bad: the same few {1}s in every row. The run was trained on "
    "these records unless --data named others, which flatters it."
)
RECALL = "Of {0} {1}s, one look at the middle of each, the own {2} of {3:,} comes first for {4} and among the first "
RECALL += "five for {5}; chance is {6} and {7}."


class Ranked(NamedTuple):
    """Rows of a sample that have both modalities [N], and the cosine of each query with each answer [N, N]."""

    rows: np.ndarray
    cosine: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """[N] of each query's own answer, from 1; ties count against it."""
        own = self.cosine.diagonal()
        return (self.cosine >= own[:, None]).sum(1)


def retrieval_section(samples: dict[str, Sample | str], runs: list[Run], *, seed: int) -> Section | None:
    """None where no run brought modalities together, or none of its data can be read."""
    joint = [
        (name, sample, run)
        for (name, sample), run in zip(samples.items(), runs, strict=True)
        if isinstance(sample, Sample) and (run.path / "joint" / "joint.json").is_file()
    ]
    if not joint:
        return None
    parts: list[Html | None] = []
    for name, sample, run in joint:
        parts.append(tag("h3", tag("bdi", name)) if len(runs) > 1 else None)
        try:
            space = load_joint(run.path)
        except DataError as error:
            parts.append(note(f"No retrieval: {error}"))
            continue
        wanted = directions(space)
        queries = max(2, QUERIES // len(joint))
        most = MOST_SOUND // (len(joint) * len(wanted) * queries * (1 + NEAREST))
        parts += [_panel(sample, space, query, answer, queries, seed, most) for query, answer in wanted]
    return section("Retrieval between modalities", *parts, anchor="retrieval")


def directions(space: JointSpace) -> list[tuple[str, str]]:
    """(query, answer) of each pair that was trained: words are asked with, and films are found."""
    order = ("text", "audio", "video")
    return [tuple(sorted(pair, key=order.index)) for pair in space.pairs]


def ranked(space: JointSpace, sample: Sample, query: str, answer: str) -> Ranked | None:
    """None where fewer than two records have both. Of a transcript the one sentence nearest to the middle counts."""
    first, of_first = _embedded(space, sample, query, answer)
    second, of_second = _embedded(space, sample, answer, query)
    rows = np.intersect1d(of_first, of_second)
    if len(rows) < 2:
        return None
    cosine = first[np.isin(of_first, rows)] @ second[np.isin(of_second, rows)].T
    return Ranked(rows, cosine.numpy())


@torch.no_grad()
def _embedded(space: JointSpace, sample: Sample, of: str, other: str) -> tuple[Tensor, np.ndarray]:
    """Unit vectors [n, D] of the sample's rows [n] that have the modality."""
    inputs = space.encoders[of].inputs
    inputs = replace(inputs, sentences=1) if isinstance(inputs, TextInputs) else inputs
    source = sample.thumbnails.source.select(np.asarray(sample.thumbnails.numbers))
    found, rows = [], []
    for batch in DataLoader(Plain(source, inputs), BATCH, collate_fn=Plain.collate):
        if batch["image"] is not None:
            z = space.embed(of, inputs.prepare(batch["image"]), other).float()
            found.append(F.normalize(z, dim=1))
            rows.append(batch["index"].numpy())
    return (torch.cat(found), np.concatenate(rows)) if found else (torch.empty(0, 1), np.empty(0, int))


def _panel(
    sample: Sample, space: JointSpace, query: str, answer: str, queries: int, seed: int, most: int
) -> Html:  # fmt: skip
    title = tag("h4", f"From a {SAID[query]} to {SAID[answer]}s")
    lacking = [of for of in (query, answer) if not sample.thumbnails.has(of)]
    found = None if lacking else ranked(space, sample, query, answer)
    if found is None:
        return join([title, note(f"Fewer than two records have both {SAID[query]} and {SAID[answer]}.")])
    n = len(found.rows)
    first, five = ((found.ranks <= k).mean() for k in (1, 5))
    how = tag("p", HOW.format(SAID[query], SAID[answer]), class_="quiet")
    scored = RECALL.format(
        f"{n:,}", SAID[query], SAID[answer], n, share(first), share(five), share(1 / n), share(min(5 / n, 1.0))
    )
    chosen = np.random.default_rng(seed).permutation(n)[:queries]
    order = np.argsort(-found.cosine[chosen], axis=1, kind="stable")[:, :NEAREST]
    shown = {int(found.rows[row]) for row in order.flat}
    looked_at = sample if answer != "audio" else _heard(sample, space)
    pictures, told = tiles(looked_at, shown, most, beside=False)
    asked = _questions(sample, space, query, [int(found.rows[q]) for q in chosen], most)
    rows = []
    for q, near, asks in zip(chosen, order, asked, strict=True):
        below = tag("span", f"own {SAID[answer]}: {found.ranks[q]:,} of {n:,}")
        head = tag("li", asks, below, class_="query asks")
        items = [
            mark(pictures[int(found.rows[r])], f"{found.cosine[q, r]:.2f}", _kind(sample, found.rows, q, r))
            for r in near
        ]
        rows.append(tag("ol", head, *items, class_=strip_class(looked_at)))
    return join([title, how, tag("p", scored), told, *rows])


def _heard(sample: Sample, space: JointSpace) -> Sample:
    """The same records with their sounds looked at."""
    seen = sample.thumbnails
    return replace(sample, thumbnails=Thumbnails(seen.source, seen.numbers, space.encoders["audio"].inputs))


def _questions(sample: Sample, space: JointSpace, query: str, rows: list[int], most: int) -> list[Html]:
    if query == "text":
        return [words(sample.thumbnails.words(row) or "") for row in rows]
    heard = _heard(sample, space)
    made = [(*heard.thumbnails.with_clip(row, 112, most), sample.said(row)) for row in rows]
    return [join([tag("img", src=uri, alt=said, title=said), player(clip, said)]) for uri, clip, said in made]


def _kind(sample: Sample, rows: np.ndarray, query: int, row: int) -> str | None:
    if query == row:
        return "own"
    same = sample.labels is not None and sample.labels[rows[query]] == sample.labels[rows[row]]
    return "same" if same else None
