"""Bags of embeddings that share one label, as the tiles of a slide do: attention says which count (Ilse et al. 2018).

The encoder is done: `tacit embed` has turned every tile into a vector. What is learnt is which vectors of a bag matter,
and what they say together; beside it stands the plain mean of the bag, learnt alike. Where single vectors have labels
too, bags can be told without training, by their vectors nearest to each class (MI-SimpleShot; Chen et al. 2024, UNI).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.data.listing import read_listing
from tacit.errors import DataError
from tacit.evaluation.clinical import binary_scores, multi_class_scores
from tacit.evaluation.groups import check_groups, grouped_split

POOLS = ("attention", "mean")
TWO = ("auroc", "balanced_accuracy", "weighted_f1", "kappa")
MORE = ("auroc_one_vs_one", "balanced_accuracy", "weighted_f1", "quadratic_kappa")


@dataclass(frozen=True)
class Bags:
    """`rows[i]` are the rows of `x` [N, D] in bag i, of class `labels[i]`, which belongs to `groups[i]` (a patient).

    `parts`: "train" and "test" where the table says so. `missing`: bags of the table without any vector; `unused`: how
    many vectors belong to no bag of the table.
    """

    x: Tensor
    paths: list[str]
    names: list[str]
    rows: list[np.ndarray]
    labels: np.ndarray
    classes: list[str]
    groups: np.ndarray
    parts: list[str] | None
    missing: list[str]
    unused: int


class BagClassifier(nn.Module):
    """A Linear with ReLU, gated attention over the bag, and a Linear: [N, D] -> logits [classes], weights [N].

    The weights are `softmax(w^T (tanh(V h) * sigmoid(U h)))` over the bag (Ilse et al. 2018, eq. 9); with the pool
    "mean" they are all 1 / N. Widths and dropout are those UNI is scored with (Chen et al. 2024, methods).
    """

    def __init__(self, width: int, classes: int, pool: str = "attention", *, hidden: int = 512, attention: int = 384):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.value = self.gate = self.score = None
        if pool == "attention":
            self.value = nn.Sequential(nn.Linear(hidden, attention), nn.Tanh(), nn.Dropout(0.25))
            self.gate = nn.Sequential(nn.Linear(hidden, attention), nn.Sigmoid(), nn.Dropout(0.25))
            self.score = nn.Linear(attention, 1)
        self.head = nn.Linear(hidden, classes)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embed(bag)
        scores = h.new_zeros(len(h)) if self.score is None else self.score(self.value(h) * self.gate(h))[:, 0]
        weights = scores.softmax(0)
        return self.head(weights @ h), weights


def fit_bags(
    bags: Sequence[Tensor], labels: Tensor, *, classes: int, pool: str = "attention", epochs: int = 20,
    lr: float = 1e-4, weight_decay: float = 1e-5, seed: int = 0, tell: Callable[[int, int], None] | None = None,
) -> BagClassifier:  # fmt: skip
    """Trained with AdamW and a cosine to 0, one bag a step; all epochs are taken, and nothing is chosen on the way.

    Args:
        bags: B x [N_b, D], N_b at least one. labels: [B] int64.
    """
    steps, done = epochs * len(bags), 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = BagClassifier(bags[0].shape[1], classes, pool).train()
        solver = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
        for _ in range(epochs):
            for i in torch.randperm(len(bags)).tolist():
                solver.param_groups[0]["lr"] = 0.5 * lr * (1 + math.cos(math.pi * done / steps))
                solver.zero_grad()
                F.cross_entropy(model(bags[i])[0], labels[i]).backward()
                solver.step()
                done += 1
            if tell:
                tell(done, steps)
    return model.eval()


@torch.no_grad()
def predict_bags(model: BagClassifier, bags: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Probabilities [B, classes], and of each bag the weights [N_b] of its vectors, which sum to one."""
    found = [model(bag) for bag in bags]
    return torch.stack([logits.softmax(0) for logits, _ in found]), [weights for _, weights in found]


def read_bags(features: str | Path, table: str | Path, *, label: str, bag: str, group: str | None = None) -> Bags:
    """What `tacit embed` wrote, in the bags of a table.

    Args:
        features: a .parquet of `path, vector`, or a .npy with the paths in a .txt beside it.
        table: .csv, .tsv, .json or .jsonl with a row a bag: the columns `bag` and `label`, perhaps `group`, perhaps one
            called split of train and test. A vector's bag is the folder its file is in; or, where the table has a
            column called path, one row a file, what stands there.

    Raises:
        DataError: files or columns that are not there, a bag with two labels, a group in both parts.
    """
    x, paths = _vectors(Path(features))
    columns = {name: [str(v) for v in values] for name, values in read_listing(Path(table)).items()}
    for name in (bag, label, *([group] if group else [])):
        if name not in columns:
            raise DataError(f"{table} has no column {name!r}; it has {', '.join(columns)}.")
    about: dict[str, dict[str, str]] = {}
    for row, name in enumerate(columns[bag]):
        said = {column: columns[column][row] for column in (label, group, "split") if column in columns}
        if about.setdefault(name, said) != said:
            raise DataError(f"{table} says two things of {name!r}: {about[name]} and {said}. A bag has one of each.")
    if "path" in columns:
        of = dict(zip(columns["path"], columns[bag], strict=True))
        place = [of.get(path) for path in paths]
    else:
        place = [_folder(path) for path in paths]
    rows: dict[str, list[int]] = {name: [] for name in about}
    for i, name in enumerate(place):
        if name in rows:
            rows[name].append(i)
    names = [name for name in about if rows[name]]
    if len(names) < 2:
        raise DataError(
            f"{len(names)} of the {len(about)} bags of {table} have vectors in {features}. A vector belongs to the "
            f"folder its file is in, as {place[0]!r} for {paths[0]!r}; or give the table a column called path."
        )
    classes = sorted({about[name][label] for name in names})
    return Bags(
        x, paths, names, [np.array(rows[name]) for name in names],
        np.array([classes.index(about[name][label]) for name in names]), classes,
        np.array([about[name][group] if group else name for name in names]),
        [about[name]["split"] for name in names] if "split" in columns else None,
        [name for name in about if not rows[name]], sum(name not in rows for name in place),
    )  # fmt: skip


def nearest_classes(
    bags: Sequence[Tensor], rois: Tensor, labels: Tensor, *, classes: int, top: int = 5
) -> Tensor:  # fmt: skip
    """MI-SimpleShot: minus the mean squared distance of a bag's `top` vectors nearest to each class; [B, classes].

    A class is the mean of its labelled vectors (regions of interest), after centring by the mean of all these and to
    length 1, as of SimpleShot; it is not scaled again. Of a bag of fewer vectors all count.

    Args:
        bags: B x [N_b, D]. rois: [R, D]. labels: [R] int64, each class at least once.
    """
    centre = rois.mean(0)
    x = F.normalize(rois - centre, dim=1)
    means = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x) / torch.bincount(labels)[:, None]
    found = []
    for bag in bags:
        squared = torch.cdist(F.normalize(bag - centre, dim=1), means).square()  # [N_b, classes]
        found.append(-squared.topk(min(top, len(bag)), dim=0, largest=False).values.mean(0))
    return torch.stack(found)


def read_rois(file: str | Path, classes: Sequence[str], width: int) -> tuple[Tensor, Tensor]:
    """Vectors [R, D] that `tacit embed` made of a folder with a folder for each class, and their classes [R].

    Raises:
        DataError: another width, or folders that are not the classes of the bags.
    """
    x, paths = _vectors(Path(file))
    if x.shape[1] != width:
        raise DataError(f"{file}: vectors of {x.shape[1]} values; those of the bags have {width}. Embed both alike.")
    folders = [_folder(path) for path in paths]
    if set(folders) != set(classes):
        raise DataError(
            f"{file}: its folders are {', '.join(sorted(set(folders))[:5])}; there must be one for each class of the "
            f"bags: {', '.join(classes)}."
        )
    return x, torch.tensor([list(classes).index(name) for name in folders])


def _folder(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]


def _vectors(file: Path) -> tuple[Tensor, list[str]]:
    try:
        if file.suffix == ".parquet":
            found = pq.read_table(file, columns=["path", "vector"])
            flat = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            x, paths = flat.reshape(len(found), -1), found["path"].to_pylist()
        else:
            x, paths = np.load(file, allow_pickle=False), file.with_suffix(".txt").read_text("utf-8").splitlines()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: cannot be read as what tacit embed writes ({str(error)[:200]}).") from error
    if not len(x) or len(x) != len(paths) or not np.isfinite(x).all():
        raise DataError(
            f"{file}: {len(x):,} vectors and {len(paths):,} paths; there must be a path for each, all numbers."
        )
    return torch.from_numpy(np.array(x, dtype=np.float32)), paths


def split_bags(bags: Bags, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bags to learn from and to test on: as the table says, or a fifth of every class held out, groups kept whole.

    Raises:
        DataError: a part is empty or lacks a class that is tested, or a group is in both.
    """
    if bags.parts is None:
        train, test = grouped_split(bags.groups, bags.labels, 0.2, seed)
    else:
        train, test = (np.flatnonzero(np.array(bags.parts) == part) for part in ("train", "test"))
    if not len(train) or not len(test):
        raise DataError("The column split leaves no bag to learn from or to test on: write train and test in it.")
    check_groups(bags.groups[train], bags.groups[test])
    if strange := sorted({bags.classes[c] for c in set(bags.labels[test]) - set(bags.labels[train])}):
        raise DataError(f"No bag to learn from is of the class {strange[0]!r}, which is tested. Split otherwise.")
    return train, test


def score_bags(
    bags: Bags, *, epochs: int = 20, seed: int = 0, rois: tuple[Tensor, Tensor] | None = None, top: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:  # fmt: skip
    """Scores of the attention and of the mean, intervals by the bootstrap over groups of test bags; and the weights.

    Args:
        rois: labelled vectors, see `read_rois`; with them bags are scored by `nearest_classes` too, as "prototypes".

    Returns:
        `{"classes", "train", "test", "split", "missing", "unused", "results": [{"pool", "metric", "value", "low",
        "high", "n"}]}` and, by the names of test bags, what attention gave to each of their vectors.
    """
    train, test = split_bags(bags, seed)
    labels, count = torch.from_numpy(bags.labels), len(bags.classes)
    of = [bags.x[torch.from_numpy(rows)] for rows in bags.rows]
    tested = [of[i] for i in test]
    results, weights = [], {}
    for pool in POOLS:
        model = fit_bags(
            [of[i] for i in train], labels[train], classes=count, pool=pool, epochs=epochs, seed=seed,
            tell=progress and (lambda done, total, pool=pool: progress(pool, done, total)),
        )  # fmt: skip
        p, looked = predict_bags(model, tested)
        results += _scores(pool, p, bags, test, seed)
        if pool == "attention":
            weights = {bags.names[i]: w for i, w in zip(test, looked, strict=True)}
    if rois is not None:
        p = nearest_classes(tested, *rois, classes=count, top=top).softmax(1)
        results += _scores("prototypes", p, bags, test, seed)
    how = "a fifth of every class held out, whole groups" if bags.parts is None else "as the table says"
    said = {"classes": bags.classes, "train": len(train), "test": len(test), "split": how}
    return {**said, "missing": bags.missing, "unused": bags.unused, "results": results}, weights


def _scores(pool: str, p: Tensor, bags: Bags, test: np.ndarray, seed: int) -> list[dict[str, Any]]:
    few, y, groups = len(bags.classes) == 2, bags.labels[test], bags.groups[test]
    p = p.double().numpy()
    p = (p / p.sum(1, keepdims=True)).clip(0, 1)
    found = (
        binary_scores(p[:, 1], y, groups=groups, seed=seed)
        if few
        else multi_class_scores(p, y, groups=groups, seed=seed)
    )
    names = ("value", "low", "high")
    return [
        {"pool": pool, "metric": metric, **dict(zip(names, found[metric], strict=True)), "n": len(test)}
        for metric in (TWO if few else MORE)
    ]
