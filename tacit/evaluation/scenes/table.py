"""Protocols whose data has a layout of its own: the table of them, asked for and answered like the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tacit.data.kinds import WORDS
from tacit.encoders import Encoder
from tacit.errors import UsageError
from tacit.evaluation import resume
from tacit.evaluation.options import Asked, one_of, options_of
from tacit.evaluation.scenes import attention, copies, detect, events, revisited, segment, video
from tacit.evaluation.scenes.scene import Job, Opened, Scene, named
from tacit.evaluation.task import Score, packed, random_twin
from tacit.views import field_of

SCENES: dict[str, Scene] = {
    "segment": segment.SCENE,
    "detect": detect.SCENE,
    "attention": attention.SCENE,
    "video": video.SCENE,
    "revisited": revisited.SCENE,
    "copies": copies.SCENE,
    "events": events.SCENE,
}


def check(asked: Sequence[Asked]) -> Scene:
    """The one scene that is asked for; raises `UsageError` or `Unknown` for what it cannot be told.

    `asked` holds at least one name of `SCENES`. Nothing is read.
    """
    names = list(dict.fromkeys(one.name for one in asked))
    if len(names) > 1:
        scene = next(name for name in names if name in SCENES)
        raise UsageError(
            f"{scene} needs {SCENES[scene].needs}, which {' and '.join(n for n in names if n != scene)} cannot use. "
            "Ask for one of them alone."
        )
    scene = SCENES[names[0]]
    for one in asked:
        for option, known in scene.known.items():
            if option in one.options:
                one_of(option, one.options[option], known)
    return scene


def evaluate(
    encoder: Encoder,
    data: Path,
    test: Path | None,
    asked: Sequence[Asked],
    *,
    seed: int = 0,
    baselines: bool = True,
    workers: int = 0,
    cache: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """As `evaluate.evaluate`, on data in the layout that the scene needs; raw inputs are a subject of sounds alone."""
    scene = check(asked)
    looks, wanted = field_of(encoder.inputs), "audio" if scene.sounds else "image"
    if looks != wanted:
        raise UsageError(f"{asked[0].name} is for {WORDS[wanted][1]}, and {encoder.name} looks at {WORDS[looks][1]}.")
    told = [{**options_of(scene.run), **one.options} for one in asked]
    for options in told if scene.check else ():
        scene.check(encoder, options)
    opened: dict[tuple, Opened] = {}
    for options in told:
        key = _key(scene, options)
        opened[key] = opened[key] if key in opened else scene.open(data, test, encoder, options)
    subjects = [("run", encoder)] + ([("random-init", random_twin(encoder, seed))] if baselines else [])
    if baselines and scene.sounds:
        subjects.append(("raw-input", encoder))
    checkpoints = resume.folder(cache)
    scores: list[Score] = []
    bad: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for one, options in zip(asked, told, strict=True):
        for of, subject in subjects:
            tell = progress and (lambda done, total, of=of, one=one: progress(f"{one.spec}, {of}", done, total))
            found = scene.run(
                Job(subject, of, seed, workers, tell, checkpoints), opened[_key(scene, options)].data, **options
            )
            scores += named(found.scores, one.spec)
            bad |= dict(found.bad)
            skipped |= {f"{one.spec}, {name}": why for name, why in found.skipped.items()}
    return packed(
        scores, encoder, split="test set", split_hash=_hash(opened.values()), seed=seed, bad=list(bad.items()),
        skipped=skipped,
    )  # fmt: skip


def _key(scene: Scene, options: dict[str, Any]) -> tuple:
    return tuple(options[name] for name in scene.reads)


def _hash(opened: Iterable[Opened]) -> str:
    """Of the names of every part; the same files read in two ways count once."""
    parts = dict.fromkeys("\n\n".join("\n".join(names) for names in one.names) for one in opened)
    return hashlib.blake2b("\n\n".join(parts).encode(), digest_size=8).hexdigest()
