"""`exams`: slices of volumes that share a label."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import check_images, encoder_of, name_of, workers_of
from tacit.errors import BadSettings, Unknown, UsageError
from tacit.run import Run, atomic, write_json


def exams(
    what: Any,
    data: str | os.PathLike,
    label: str,
    *,
    planes: Sequence[str] | None = None,
    column: str | None = None,
    out: str | os.PathLike | None = None,
    recipe: str = "small",
    fuse: str = "probabilities",
    max_exams: int | None = None,
    baselines: bool = True,
    seed: int = 0,
    workers: int | None = None,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """How well exams with one label each are told apart by the embeddings of their slices.

    By a transformer over the slices (SB-SSL), by the mean of their logits and by the maximum of their features, of the
    encoder and of the same one at random initialisation; each plane by itself and all together.

    Args:
        what: whatever `pretrain` leaves: a run or encoder folder, a timm name, a `Run` or an `Encoder`; or a list of
            these, one for each of `planes`.
        data: a folder of exams, see `tacit.data.exams`.
        label: a .csv of exams and labels 0 and 1, see `tacit.evaluation.exam_sets.read_labels`, or of MRNet's layout
            the name of the task: abnormal, acl or meniscus.
        planes: those to use; by default all that there are. column: the label, of a table with several.
        out: a new folder for exams.json and predictions.csv (exam, plane, of, head, label, probability).
        recipe: one of `tacit.evaluation.exams.RECIPES`. fuse: planes together by their "probabilities" or their "cls".
        max_exams: exams to learn from, of those there are.

    Returns:
        As `tacit.evaluation.exams.score_exams`, with what the data is and what of it was left out.
    """
    import csv

    from tacit.evaluation import exam_sets
    from tacit.evaluation import exams as by_exam
    from tacit.evaluation.task import random_twin

    if recipe not in by_exam.RECIPES:
        raise Unknown("recipe", recipe, by_exam.RECIPES)
    if fuse not in by_exam.FUSIONS:
        raise Unknown("way to fuse planes", fuse, by_exam.FUSIONS)
    if out is not None and (Path(out) / "exams.json").exists():
        raise UsageError(f"{out} holds the scores of exams. Choose another --out, or remove it.")
    if max_exams is not None and max_exams < 10:
        raise BadSettings([f"max_exams = {max_exams}: must be at least 10; a fifth of them choose the epoch."])
    many = list(what) if isinstance(what, list | tuple) else [what]
    if len(many) > 1 and len(many) != len(planes or ()):
        raise UsageError(
            f"{len(many)} encoders for {len(planes or ())} planes: give one for all, or one for each plane."
        )
    found = [encoder_of(one) for one in many]
    for encoder in found:
        check_images(encoder, "exams")
    if len({encoder.inputs.channels for encoder in found}) > 1:
        raise UsageError("The encoders have different numbers of channels.")
    task = exam_sets.read_exams(
        data, label, planes=planes, column=column, channels=found[0].inputs.channels, max_exams=max_exams, seed=seed
    )
    runs = dict(zip(task.sources, found * len(task.sources) if len(found) == 1 else found, strict=False))
    encoders = {"run": runs}
    if baselines:
        encoders["random-init"] = {plane: random_twin(encoder, seed) for plane, encoder in runs.items()}
    scores, rows = by_exam.score_exams(
        task, encoders, recipe=by_exam.RECIPES[recipe], fusion=fuse, seed=seed, workers=workers_of(workers),
        cache=cache, progress=progress,
    )  # fmt: skip
    result = {
        "encoder": [name_of(one) for one in many], "data": str(data), "label": label, "seed": seed, "recipe": recipe,
        "fuse": fuse if len(task.sources) > 1 else None, "planes": list(task.sources), "train": len(task.train),
        "test": len(task.test), "positives": {
            "train": int(task.labels[task.train].sum()), "test": int(task.labels[task.test].sum())
        }, "split": task.split, "patients": task.patients, "transduction": _transduction(many, Path(data), task.split),
        "missing": task.missing, "unlabelled": task.unlabelled, "incomplete": task.incomplete, **scores,
    }  # fmt: skip
    if out is not None:
        write_json(Path(out) / "exams.json", result)
        with (
            atomic(Path(out) / "predictions.csv") as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as f,
        ):
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "probability": f"{row['probability']:.6g}"} for row in rows)
    return result


def _transduction(many: Sequence[Any], data: Path, split: str) -> bool | None:
    """Whether runs were pre-trained on slices of the test exams too; None where that cannot be told."""
    from tacit.data.exams import PREFIX, Options

    told: list[bool | None] = []
    for one in many:
        path = one.path if isinstance(one, Run) else one
        if not isinstance(path, str | os.PathLike) or not Run.is_run(path):
            told.append(None)
            continue
        for name in Run(path).settings["data"]:
            if not name.startswith(PREFIX):
                told.append(None)
                continue
            root, options = Options.parse(name.removeprefix(PREFIX))
            root, here = root.resolve(), data.resolve()
            if here.is_relative_to(root):  # all of it, unless parts are told apart
                apart = root == here and split.startswith("train and") and options.part in (None, "train")
                told.append(not apart)
            else:
                told.append(
                    root.is_relative_to(here) and root.relative_to(here).parts[0].lower().startswith(("val", "test"))
                )
    return True if True in told else None if None in told else False
