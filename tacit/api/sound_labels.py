"""`finetune` of sounds: split by speaker or town, contrast under labels, scores with intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import encoder_of, name_of, workers_of
from tacit.errors import BadSettings, DataError, Unknown, UsageError
from tacit.run import atomic, write_json

SHARES = (0.15, 0.15)  # of the groups, for validation and test


def trainable(what: Any) -> Any:
    """An encoder that can be trained on labels: one of our own, or a speech model of transformers."""
    from tacit import encoders

    named = isinstance(what, str | os.PathLike)
    return encoder_of(what, foreign=named and encoders.holds_speech(what))


def finetune_sounds(
    what: Any,
    encoder: Any,
    data: Any,
    out: str | os.PathLike,
    *,
    recipe: str | None = None,
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
    """A classifier of sounds, kept in the new folder `out`, and how well it does on speakers it never heard.

    Args:
        what, encoder: how the encoder was called, and the encoder itself.
        data: labelled sounds. With train/ and test/ inside these are used, and a part of the first chooses the epoch;
            else about 70, 15 and 15 per cent of the groups learn, choose and test, at least one of each class.
        recipe: one of `tacit.evaluation.sound_recipes.RECIPES`: "small" for our own encoders, "speech" for
            models of transformers, by default what the encoder is; "atst", "ast" and "ast_commands" as published.
        label: a column of a table: a class, or several labels a recording with `;` between them; or several columns of
            1, 0 and -1 (unknown). Several labels are each told by itself, whatever the others are.
        group: a column that says which recordings are of one speaker, or of one town: never split, drawn together.
        contrast, stage: a loss under labels (supcon, nt_xent, triplet, multi_similarity), "before" cross-entropy or
            "auxiliary" to it. set: "field=value" of any other setting, see `tacit.evaluation.sound_recipes.Settings`.
        teacher: the folder of a classifier that this one learns from beside the labels (ATST-C2F).

    Returns:
        `{"out", "classes", "labels", "parts": {part: records}, "results": [score, …], "confusion", "tree", "history",
        "anchors", "settings", "notes", "bad_files"}`, as in `tacit.evaluation.separation`; also in scores.json there,
        beside split.csv (path, label, group, part). Of several labels a recording `results` are `multi_label.means`,
        and there is neither "confusion" nor "tree".

    Raises:
        UsageError: a folder that holds a classifier already, settings that cannot work, a teacher that reads other
            spectrograms, or tells one class where there are several labels. DataError: no labels, groups in both train/
            and test/, a class that is missing from a part or unknown to the teacher, or a test record that the teacher
            learned from.
    """
    from tacit.data import note_rates, open_splits
    from tacit.encoders import Speech
    from tacit.evaluation import classifier, sound_training
    from tacit.evaluation.features import all_devices, features
    from tacit.evaluation.groups import check_groups
    from tacit.evaluation.parts import check_taught
    from tacit.evaluation.sound_recipes import RECIPES, for_several, wrong_together
    from tacit.evaluation.sound_teacher import check_teacher
    from tacit.settings import to_dict, with_assignments
    from tacit.views import SoundInputs

    recipe = recipe or ("speech" if isinstance(encoder, Speech) else "small")
    if recipe not in RECIPES:
        raise Unknown("recipe for sounds", recipe, RECIPES)
    if classifier.is_classifier(out):
        raise UsageError(f"{out} holds a classifier. Choose another --out, or remove it.")
    given = [f"{k}={v}" for k, v in {"contrast": contrast, "stage": stage}.items() if v is not None]
    settings = with_assignments(RECIPES[recipe], [*given, *set])
    if stage is not None and settings.contrast == "none":
        raise BadSettings([f"stage = {stage}: says when there is contrast, and none is asked for. Add --contrast."])
    about = {"spectrograms": isinstance(encoder.inputs, SoundInputs), "teacher": teacher is not None}
    if wrong := wrong_together(settings, **about):
        raise BadSettings(wrong)
    tutor, known = classifier.load(teacher) if teacher is not None else (None, ())
    if tutor is not None:
        check_teacher(tutor, encoder)
    columns = [label] if isinstance(label, str) else label
    train, test = open_splits(data, kind="audio", labels=columns or "auto", group=group)
    several = train.targets is not None and train.targets.kind == "multi"
    if not several and (train.labels is None or len(train.classes) < 2):
        raise DataError(f"{data}: a classifier needs labels of two classes or more to learn from.")
    if test is not None and (test.targets if several else test.labels) is None:
        raise DataError(f"{data}: the test part has no labels to score by.")
    if several:
        settings = with_assignments(for_several(RECIPES[recipe]), [*given, *set])
        if wrong := wrong_together(settings, several=True, **about):
            raise BadSettings(wrong)
    if test is not None and group:
        check_groups(train.groups, test.groups)
    if tutor is not None:
        if tutor.several != several:
            told = ["one class a recording", "several labels a recording"]
            raise UsageError(f"The teacher {teacher} tells {told[tutor.several]}, and the data has {told[several]}.")
        _name_as(teacher, known, train, test)
    parts = _parts(train, test, seed)
    if several:
        check_taught([part.targets.values for part in parts.values()], train.targets.names)
    if tutor is not None:
        _check_unseen(teacher, parts)
    notes = [*train.notes, *note_rates(train, encoder.inputs.rate), *_notes(parts["training"], group)]
    device, workers = all_devices()[0], workers_of(workers)
    trained = sound_training.train(
        encoder, parts["training"], parts["validation"], settings=settings, teacher=tutor, seed=seed,
        workers=workers, device=device, progress=progress,
    )  # fmt: skip
    model, tested = trained.model, parts["test"]
    found = features(model.encoder, tested, workers=workers, devices=[device])
    model.cpu()
    model.several = several
    classes = sound_training.classes_of(train)
    result = {
        "encoder": name_of(what), "data": str(data), "out": str(out), "classes": classes, "seed": seed,
        "teacher": None if teacher is None else str(teacher),
        "labels": len(parts["training"]), "parts": {name: len(part) for name, part in parts.items()},
        "settings": to_dict(settings), **_scored(tested, found, sound_training.logits(model, found), classes, seed),
        "history": trained.history, "anchors": trained.anchors, "notes": notes,
        "bad_files": [*train.skipped, *trained.bad.items(), *found.bad],
    }  # fmt: skip
    classifier.save(model, classes, out)
    _write_split(Path(out) / "split.csv", parts)
    write_json(Path(out) / "scores.json", result)
    return result


def _scored(tested: Any, found: Any, logits: Any, classes: list[str], seed: int) -> dict[str, Any]:
    from tacit.evaluation import multi_label, separation

    rows = found.index.numpy()
    groups = None if tested.groups is None else tested.groups[rows]
    if tested.targets is not None:
        return {"results": multi_label.means(logits.numpy(), tested.targets.values[rows], groups, classes, seed=seed)}
    predicted = logits.argmax(1)
    return {
        "results": separation.scores(found.x, found.y, predicted, groups, seed=seed),
        "confusion": separation.confusion(found.y.numpy(), predicted.numpy(), len(classes)).round(4).tolist(),
        "tree": separation.tree(found.x, found.y, classes),
    }


def _name_as(teacher: str | os.PathLike, known: Sequence[str], *sources: Any) -> None:
    """Number classes as the teacher does, or raise `DataError`."""
    from tacit.data import match_classes
    from tacit.evaluation.sound_training import classes_of

    for source in sources:
        if source is not None and not (match_classes if source.targets is None else match_labels)(source, list(known)):
            strange = [c for c in classes_of(source) if c not in known]
            raise DataError(
                f"The teacher {teacher} does not know {', '.join(strange[:5])}. Train it on the same labels."
            )


def match_labels(source: Any, names: Sequence[str]) -> bool:
    """Order the several labels a record of `source` as in `names`; False, and nothing done, if one is not among them.
    Those of `names` that do not occur in it are taken to be absent."""
    import numpy as np

    from tacit.data.targets import Targets, match_targets

    if source.targets is None or source.targets.kind != "multi" or not {*source.targets.names} <= {*names}:
        return False
    source.targets = match_targets(source.targets, Targets("multi", np.zeros((0, len(names))), list(names)), "")
    return True


def _check_unseen(teacher: str | os.PathLike, parts: dict[str, Any]) -> None:
    """Raise `DataError` if the teacher learned from records that are tested here."""
    path = Path(teacher) / "split.csv"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as f:
        learned = {row["path"] for row in csv.DictReader(f) if row["part"] != "test"}
    test = parts["test"]
    if seen := [name for name in map(test.name, range(len(test))) if name in learned]:
        raise DataError(
            f"The teacher {teacher} learned from {len(seen):,} of the {len(test):,} records that are tested here, the "
            f"first {seen[0]}. Scores would be too high. Give both the same --data, --group and --seed."
        )


def _parts(train: Any, test: Any, seed: int) -> dict[str, Any]:
    from tacit.evaluation.parts import PARTS, parted
    from tacit.evaluation.sound_training import classes_of

    labels = train.labels if train.targets is None else train.targets.values
    rows = parted(train.groups, labels, classes_of(train), SHARES if test is None else SHARES[:1], seed)
    found = dict(zip(PARTS, map(train.select, rows), strict=False))
    return found if test is None else found | {"test": test}


def _notes(train: Any, group: str | None) -> list[str]:
    """What of the split makes scores too high, or contrast teach something else."""
    import numpy as np

    if group is None:
        return [
            "Parts are drawn by recording: whose voice, room and microphone was learned may be tested, and scores are "
            "too high for strangers. Name the column of speakers or towns by --group."
        ]
    from tacit.evaluation.sound_training import classes_of

    labels, codes = train.labels, np.unique(train.groups, return_inverse=True)[1]
    if train.targets is not None:
        rows, labels = np.nonzero(train.targets.values == 1)
        codes = codes[rows]
    pairs = np.unique(np.stack([labels, codes], 1), axis=0)
    alone, classes = np.flatnonzero(np.bincount(pairs[:, 0]) == 1), classes_of(train)
    if not len(alone):
        return []
    return [
        f"Of {len(alone)} classes all recordings to learn from are of one group ({group}): "
        f"{', '.join(classes[i] for i in alone[:5])}. There a class cannot be told from a voice."
    ]


def _write_split(path: Path, parts: dict[str, Any]) -> None:
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["path", "label", "group", "part"])
        for name, part in parts.items():
            for i in range(len(part)):
                of = "" if part.groups is None else part.groups[i]
                writer.writerow([part.name(i), _label_of(part, i), of, name])


def _label_of(part: Any, record: int) -> str:
    if part.targets is None:
        return part.classes[part.labels[record]]
    there = part.targets.values[record] == 1
    return ";".join(name for name, here in zip(part.targets.names, there, strict=True) if here)
