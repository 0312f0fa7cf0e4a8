"""`finetune` and `predict`: classifiers that are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import projector_of, workers_of
from tacit.api.sound_labels import finetune_sounds, match_labels, trainable
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.run import atomic


def finetune(
    what: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    recipe: str | None = None,
    neck: int = 0,
    shots: int | None = None,
    percent: float | None = None,
    names: str | os.PathLike | None = None,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    contrast: str | None = None,
    stage: str | None = None,
    teacher: str | os.PathLike | None = None,
    set: Sequence[str] = (),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """A classifier, encoder and all, trained on few labels by SimCLR v2's recipe and kept in the new folder `out`.

    Args:
        what: a run folder, an encoder folder, a timm name, a `Run` or an `Encoder`; for sounds also the folder of a
            speech model that transformers saved.
        data: labelled data; of a folder with train/ and test/ inside the training part is learned from.
        recipe: one of `tacit.evaluation.classifier.RECIPES`, "small" if not given.
        neck: layers of the run's projection head that are kept below the classifier; 1 is the paper's choice.
        shots, percent, names: learn from so many records a class, from this per cent of each class, drawn by `seed`,
            or from those that a text file names, one a line; without any, from all.
        label: a column of a table; of sounds also several, of labels that a recording may have together.
        group, contrast, stage, teacher, set: of sounds alone, which are learned in another way and scored at once; see
            `tacit.api.sound_labels.finetune_sounds`, also for `recipe` and what is returned.

    Returns:
        `{"out", "classes", "labels"}` and, where there is a test part, "accuracy" on it, as of `predict`.

    Raises:
        UsageError: a folder that holds a classifier already, more than one of `shots`, `percent` and `names`, or a neck
            the encoder has not. DataError: no labels, too few, or one class.
    """
    import numpy as np

    from tacit.data import open_splits
    from tacit.data.kinds import WORDS
    from tacit.evaluation import classifier, low_shot
    from tacit.evaluation.features import all_devices
    from tacit.evaluation.neck import first_blocks
    from tacit.views import field_of

    encoder = trainable(what)
    if field_of(encoder.inputs) == "sequences":
        raise UsageError(
            f"{encoder.name} reads feature sequences. It is trained on labels by: tacit evaluate --protocol emotion"
        )
    if field_of(encoder.inputs) == "audio":
        images = {"--neck": neck or None, "--shots": shots, "--percent": percent, "--names": names}
        if given := [name for name, value in images.items() if value is not None]:
            raise UsageError(f"{' and '.join(given)}: for images; of sounds all labels are learned. Leave it out.")
        return finetune_sounds(
            what, encoder, data, out, recipe=recipe, label=label, group=group, contrast=contrast, stage=stage,
            teacher=teacher, set=set, seed=seed, workers=workers, progress=progress,
        )  # fmt: skip
    if (looks := field_of(encoder.inputs)) != "image":
        raise UsageError(
            f"finetune is for images and sounds, and {encoder.name} looks at {WORDS[looks][1]}. Films are learned by: "
            "tacit evaluate … --protocol fine_tune"
        )
    sounds = {
        "--group": group, "--contrast": contrast, "--stage": stage, "--teacher": teacher, "--set": set or None,
    }  # fmt: skip
    if given := [name for name, value in sounds.items() if value is not None]:
        raise UsageError(f"{' and '.join(given)}: for encoders of sounds, and {what} looks at images. Leave it out.")
    recipe = recipe or "small"
    if recipe not in classifier.RECIPES:
        raise Unknown("recipe", recipe, classifier.RECIPES)
    if classifier.is_classifier(out):
        raise UsageError(f"{out} holds a classifier. Choose another --out, or remove it.")
    if sum(x is not None for x in (shots, percent, names)) > 1:
        raise UsageError("--shots, --percent and --names are three ways to say which labels are used. Give one.")
    if shots is not None and shots < 1:
        raise BadSettings([f"shots = {shots}: must be at least 1."])
    if percent is not None and not 0 < percent <= 100:
        raise BadSettings([f"percent = {percent:g}: must be over 0 and at most 100."])
    layers, width = first_blocks(projector_of(what), neck) if neck else (None, None)
    columns = [label] if isinstance(label, str) else label
    train, test = open_splits(data, channels=encoder.inputs.channels, labels=columns or "auto")
    if train.targets is not None and train.targets.kind == "multi":
        raise DataError(
            f"{data} has several labels a record, which are learned of sounds alone. For images, tacit evaluate "
            "--protocol multi_label scores frozen features."
        )
    if train.labels is None or len(train.classes) < 2:
        raise DataError(f"{data}: a classifier needs labels of two classes or more to learn from.")
    y, count = train.labels, len(train.classes)
    if shots is not None:
        train = train.select(np.sort(low_shot.draw_shots(y, shots, 1, classes=count, seed=seed)[0]))
    elif percent is not None:
        train = train.select(np.sort(low_shot.draw_share(y, percent / 100, 1, classes=count, seed=seed)[0]))
    elif names is not None:
        train = train.select(low_shot.rows_named(os.fspath(names), [train.name(i) for i in range(len(train))]))
    device = all_devices()[0]
    model = classifier.train_classifier(
        encoder, train, recipe=classifier.RECIPES[recipe], neck=layers, neck_width=width, seed=seed, device=device,
        workers=workers_of(workers), progress=progress and (lambda done, total: progress("fine-tuning", done, total)),
    ).cpu()  # fmt: skip
    classifier.save(model, train.classes, out)
    found = {"out": str(out), "classes": list(train.classes), "labels": len(train)}
    if test is not None and test.labels is not None:
        found["accuracy"] = classifier.accuracy(
            classifier.right(out, test, workers=workers_of(workers), device=device), seed=seed
        )
    return found


def predict(
    what: str | os.PathLike,
    data: Any,
    out: str | os.PathLike,
    *,
    label: str | Sequence[str] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """What a kept classifier says of records: rows of `path, label, probability` in a .csv or .parquet file; of one
    that learned several labels a recording `path` and a column of probabilities for each label.

    Args:
        what: a folder that `finetune` made, or a run that ends with a classifier.
        data: records. Where they have labels of the classifier's classes, its accuracy is told too.

    Returns:
        `{"out", "rows", "bad_files": [(name, reason)]}` and perhaps "accuracy": {"value", "low", "high", "n"}, a share
        with its 95 % interval by the bootstrap over records. Unreadable records are left out and listed. Where several
        labels were learned and the data has them, "results" in the place of the accuracy: as of `finetune`.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    from tacit.data import match_classes, open_source
    from tacit.evaluation import classifier, multi_label
    from tacit.evaluation.features import all_devices
    from tacit.views import field_of

    out = Path(out)
    if out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: must end in .csv or .parquet.")
    model, classes = classifier.load(what)
    inputs, columns = model.encoder.inputs, [label] if isinstance(label, str) else label
    source = open_source(data, channels=inputs.channels, kind=field_of(inputs), labels=columns or "auto")
    if not len(source):
        raise DataError(f"{data} holds no records.")
    logits, index, bad = classifier.logits_of(model, source, workers=workers_of(workers), device=all_devices()[0])
    best = logits.softmax(1).max(1)
    paths, labels = [source.name(int(i)) for i in index], [classes[c] for c in best.indices.tolist()]
    if model.several:
        table = pa.table([paths, *logits.sigmoid().numpy().round(6).T], names=["path", *classes])
    else:
        table = pa.table({"path": paths, "label": labels, "probability": best.values.numpy().round(6)})
    with atomic(out) as temporary:
        (csv.write_csv if out.suffix == ".csv" else parquet.write_table)(table, temporary)
    found = {"out": str(out), "rows": len(table), "bad_files": [*source.skipped, *bad]}
    if model.several:
        if match_labels(source, classes):
            truth = source.targets.values[index.numpy()]
            found["results"] = multi_label.means(logits.numpy(), truth, None, classes)
    elif source.labels is not None and match_classes(source, classes):
        found["accuracy"] = classifier.accuracy(best.indices.numpy() == source.labels[index.numpy()])
    return found
