"""What was logged while a run trained: one chart a quantity, the runs laid over one another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tacit.report.charts import Series, legend, line_chart
from tacit.report.markup import Html, Section, figure, join, note, section, tag


class Curve(NamedTuple):
    """How a quantity of metrics.csv is shown. `scale` divides its values; `log` asks for a log axis."""

    title: str
    unit: str
    how: str
    log: bool = False
    scale: float = 1.0


CURVES: dict[str, Curve] = {
    "loss": Curve(
        "Loss", "loss", "Falls fast, then slowly. Bad: flat from the first step, or a sudden jump that stays up. "
        "With a queue or many negatives it may rise at the very start; a lower loss of another method means nothing.",
    ),
    "knn": Curve(
        "k-NN accuracy while training", "accuracy",
        "The share of held-out records whose nearest neighbours name their class. Should rise; bad: falls while the "
        "loss falls.",
    ),
    "embedding_rank": Curve(
        "Effective rank of embeddings", "directions",
        "How many directions the outputs use, their mean taken out. Should rise or stay; bad: falls to 1 or 2, which "
        "is collapse.",
    ),
    "embedding_std": Curve(
        "Spread of embeddings", "spread",
        "1 is spread evenly over all directions. Bad: near 0, where every record gets the same output.",
    ),
    "embedding_scale": Curve(
        "Scale of embeddings", "share",
        "How much the dimensions vary, as a share of what the loss asks for: rises towards 1. Bad: falls to 0, where "
        "every record gets the same output.",
    ),
    "rankme": Curve(
        "RankMe of features", "effective rank",
        "How many directions the encoder's features use, mean included. More is usually better; bad: falls and stays "
        "near 1.",
    ),
    "feature_std": Curve(
        "Spread of features", "spread",
        "1 is spread evenly over all directions. Well below 1 is usual, since features share a mean; bad: falls to 0.",
    ),
    "positive_similarity": Curve(
        "Similarity of positives", "cosine",
        "Two views of one record: rises towards 1. Bad: at 1 from the start together with a spread near 0.",
    ),
    "negative_similarity": Curve(
        "Similarity of negatives", "cosine",
        "Views of different records: stays well below the positives, near 0. Bad: as high as the positives.",
    ),
    "alignment": Curve(
        "Alignment", "distance²",
        "How far apart two views of one record lie: lower is closer. Bad: does not fall, or is 0 from the start.",
    ),
    "uniformity": Curve(
        "Uniformity", "log potential",
        "How evenly records cover the sphere: lower is more even, 0 is all in one point. Bad: rises to 0.",
    ),
    "grad_norm": Curve(
        "Gradient norm", "norm", "Steady or slowly changing. Bad: spikes that grow, which announce a jump of the loss.",
        log=True,
    ),
    "grad/stem": Curve(
        "Gradient norm of the stem", "norm",
        "Of what comes before the first block. Bad: spikes here that are in the last block a little later (MoCo v3).",
        log=True,
    ),
    "grad/first_block": Curve("Gradient norm of the first block", "norm", "As the stem's.", log=True),
    "grad/last_block": Curve("Gradient norm of the last block", "norm", "As the stem's.", log=True),
    "grad_spikes": Curve(
        "Gradient spikes", "steps so far",
        "Steps in which one of these norms was above ten times its running median. Bad: grows all the time.",
    ),
    "target_information": Curve(
        "What targets tell of records", "nats",
        "Entropy of all targets together less that of each. Bad: near 0, where all records get the same target.",
    ),
    "prototype_entropy": Curve(
        "Use of prototypes", "nats",
        "Log of how many prototypes the targets of a batch use. Bad: near 0, where all use one.",
    ),
    "target_entropy": Curve(
        "Softness of targets", "nats",
        "Log of how many prototypes a single target is spread over. Bad: as high as the use of prototypes.",
    ),
    "lr": Curve("Learning rate", "lr", "As the settings ask: a ramp, then a decline. Bad: any other shape."),
    "weight_decay": Curve("Weight decay", "weight decay", "As the settings ask. Bad: any other shape."),
    "momentum": Curve(
        "Teacher's momentum", "momentum",
        "How slowly the teacher follows; usually rises to 1. Bad: at 1 from the start, where it never learns.",
    ),
    "queue_age": Curve(
        "Age of the queue", "steps",
        "How old the stored keys are. Fills up, then level. Bad: much older than an epoch has steps.",
    ),
    "throughput": Curve(
        "Throughput", "records / s",
        "Level after the first steps. Bad: slow waves or a decline, often a slow disk or a hot machine.",
    ),
    "data_wait": Curve(
        "Waiting for data", "share of a step",
        "Near 0. Bad: above 0.2, where more --workers or faster files would help.",
    ),
    "peak_memory": Curve("Peak memory", "GiB", "Level. Bad: climbs all the time.", scale=2**30),
}  # fmt: skip
_ASKED = {"text": "sentence", "audio": "sound", "video": "film"}
# What methods of several modalities tell of a batch, as metric/text_to_video.
for _asked, _found in ((a, b) for a in _ASKED for b in _ASKED if a != b):
    CURVES[f"metric/{_asked}_to_{_found}"] = Curve(
        f"From {_asked} to {_found}, within a batch", "recall at 1",
        f"The share of {_ASKED[_asked]}s in a batch whose own {_ASKED[_found]} is the nearest of all in it: chance is "
        f"one over the batch. Should rise. Larger batches are harder, and the batch was trained on: what counts is "
        f"tacit evaluate --protocol {_asked}_to_{_found} on clips that were held out.",
    )  # fmt: skip
OTHER = "Logged by the method under this name; a sudden jump or a value that is no number deserves a look."
TERM = "One term of the loss. Terms that mirror one another should fall together; bad: one falls and the other stays."


def curves_section(names: list[str], metrics: list[dict[str, list[tuple[int, float]]]]) -> Section:
    """`metrics` as `Run.metrics`, one a run of `names`."""
    title, anchor = "Curves", "curves"
    if not any(metrics):
        return section(title, note("Nothing was logged yet: curves appear once training has begun."), anchor=anchor)
    logged = list(dict.fromkeys(metric for one in metrics for metric in one))
    known = [m for m in CURVES if m in logged]
    terms = [m for m in logged if m.startswith("loss/")]
    others = [m for m in logged if m not in CURVES and m not in terms]
    order = known[:1] + terms + known[1:] + others
    charts = [_chart(metric, names, metrics) for metric in order]
    key = legend(names) if len(names) > 1 else None
    return section(title, key, tag("div", *charts, class_="grid-small"), anchor=anchor)


def _chart(metric: str, names: list[str], metrics: list[dict[str, list[tuple[int, float]]]]) -> Html:
    fallback = Curve(metric, "", TERM if metric.startswith("loss/") else OTHER)
    curve = CURVES.get(metric, fallback)
    series = [_series(name, one.get(metric, []), curve.scale) for name, one in zip(names, metrics, strict=True)]
    log = curve.log and _wide(series)
    drawing = line_chart(series, title=curve.title, x_label="step", y_label=curve.unit, log=log)
    broken = [f"{s.label}: no number at step {int(s.x[~np.isfinite(s.y)][0]):,}." for s in series if not _whole(s)]
    warning = [tag("strong", text, class_="bad") for text in broken]
    return figure(curve.title, drawing, join([*warning, curve.how], " "))


def _series(name: str, points: list[tuple[int, float]], scale: float) -> Series:
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return Series(name, x, y / scale)


def _whole(s: Series) -> bool:
    return bool(np.isfinite(s.y).all())


def _wide(series: list[Series]) -> bool:
    """Whether positive values span more than a linear axis can show."""
    y = np.concatenate([s.y for s in series])
    y = y[np.isfinite(y)]
    return bool(len(y) and y.min() > 0 and y.max() / y.min() > 30)
