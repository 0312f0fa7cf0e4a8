"""`study`: several trainings under one budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.api.shared import workers_of
from tacit.api.training import check_enough, pretrain, problems_of, resolve
from tacit.errors import BadSettings, Unknown, UsageError
from tacit.run import Run


def study(
    name: str,
    data: Any,
    out: str | os.PathLike,
    *,
    test: Any = None,
    arms: Sequence[str] | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    encoder: str | None = None,
    preset: str = "small",
    shots: Sequence[int] = (1, 2, 5, 10),
    draws: int = 10,
    multi_label: Any = None,
    multi_label_column: str | Sequence[str] = "tags",
    segment: str | os.PathLike | None = None,
    label: str | None = None,
    set: Sequence[str] = (),
    precision: str = "auto",
    workers: int | None = None,
    cache: bool = True,
    quiet: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Which pre-training is worth most with few labels: arms under one budget, probed alike, in one table.

    The same call goes on where it was broken off; what is finished is not done again.

    Args:
        name: "lowshot".
        data: what the arms are trained on, without its labels; with labels (a folder with train/ and test/, or `test`
            beside it; else a fifth is held out) also the multi-class columns.
        out: the study's folder: runs/, scores/, study.json, and table.md, .csv and .json.
        arms: of `tacit.study.ARMS`; all when left out.
        epochs, encoder, preset, set: of all arms, as for `pretrain`. Small crops are left out unless `set` says
            local_crops=…, since only some tasks have use of them.
        shots, draws: labels of each class, and how often they are drawn.
        multi_label: records with several labels each, as for `evaluate`, in these columns of a table.
        segment: a folder of images with masks, as for `evaluate`.
        label: the column of `data` with the classes, where it is a table of files.

    Returns:
        What table.json holds: `{"budget", "columns", "left_out", "rows": [{"name", "title", "feature", "cells"}], …}`;
        cells as of `tacit.study.table.summed`.

    Raises:
        UsageError, DataError: what could not be finished, found before anything is trained.
    """
    from tacit import methods
    from tacit.data import parts_of
    from tacit.engine.plan import PRECISIONS
    from tacit.study import ARMS, Budget
    from tacit.study.arms import FIXED, METHOD
    from tacit.study.lowshot import check, run
    from tacit.study.probes import open_probes

    if name != "lowshot":
        raise Unknown("study", name, ["lowshot"])
    arms = list(ARMS) if arms is None else list(arms)
    for arm in arms:
        if arm not in ARMS:
            raise Unknown("arm", arm, ARMS)
    if precision not in PRECISIONS:
        raise Unknown("precision", precision, PRECISIONS)
    if taken := sorted(FIXED & {item.partition("=")[0].strip().replace("-", "_") for item in set}):
        raise BadSettings([f"{field}: is what tells arms apart. Choose arms by --arms instead." for field in taken])
    cls = methods.find(METHOD)
    how = {"encoder": encoder, "epochs": epochs, "batch_size": None}
    settings = {
        arm: resolve(cls, preset, None, set=["local_crops=0", *set, *ARMS[arm].assignments], **how) for arm in arms
    }
    if wrong := list(dict.fromkeys(problem for s in settings.values() for problem in problems_of(cls, s))):
        raise BadSettings(wrong)
    if not arms:
        raise UsageError(f"--arms is empty. There is: {', '.join(ARMS)}.")
    s = settings[arms[0]]
    columns = [multi_label_column] if isinstance(multi_label_column, str) else list(multi_label_column)
    source, probes = open_probes(data, test, multi_label, segment, channels=s.channels, label=label, columns=columns)
    check_enough(source, s)
    budget = Budget(
        str(data), len(source), source.fingerprint, s.encoder, preset, s.epochs, s.batch_size, s.local_crops,
        tuple(set), precision,
    )  # fmt: skip
    check(arms, seeds, shots, draws, budget, max(s.prototypes, s.patch_prototypes), probes)
    path = parts_of(data, test)[0]

    def train(arm: str, seed: int, folder: Path) -> Run:
        return pretrain(
            METHOD, path, folder, preset=preset, set=["local_crops=0", *set, *ARMS[arm].assignments],
            encoder=encoder, epochs=epochs, seed=seed, precision=precision, workers=workers, resume=True, quiet=quiet,
        )  # fmt: skip

    return run(
        Path(out), arms, seeds, shots, draws, budget, probes, train, workers=workers_of(workers), cache=cache,
        progress=progress, quiet=quiet,
    )  # fmt: skip
