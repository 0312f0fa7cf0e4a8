"""The command line: arguments in, a verb of `tacit.api` called, words for people or one JSON document out.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from tacit import __version__
from tacit.errors import TacitError, UsageError

app = typer.Typer(
    name="tacit",
    help="Learn encoders from unlabelled data.\n\n"
    "A first run:  tacit pretrain moby --preset small --data photos/ --out runs/moby",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Workers = Annotated[int | None, typer.Option(help="Processes that read files. [default: spare cores]", min=0)]
Label = Annotated[
    str | None,
    typer.Option(metavar="COLUMN,…", help="Of a table: classes, numbers or several labels. [default: label]"),
]
Group = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Of a table: what belongs together and is never split.")
]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"tacit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method: its paper, presets and every setting.")] = None,
    modality: Annotated[str | None, typer.Option(help="Only methods of this modality, for example image.")] = None,
    json: Json = False,
) -> None:
    """What there is: published systems and their settings."""
    from tacit import api
    from tacit.methods import find

    if name is not None:
        find(name)
    rows = [row for row in api.methods_table(modality) if name in (None, row["name"])]
    if json:
        print(api.to_json(rows))
    elif name is not None:
        _show_method(rows[0])
    else:
        _show_table(
            ["method", "modality", "family", "paper"],
            [[row[k] for k in ("name", "modality", "family", "paper")] for row in rows],
        )


@app.command()
def audit(
    folder: Annotated[str, typer.Argument(help="Images, nested as they may be.")],
    out: Annotated[str, typer.Option(help="A folder for kept.csv, rejected.csv and provenance.json.")],
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODULE:FUNCTION",
            help="Yours: scores a picture. Again for a second stage, the cheap one first. A face rejects above 0.5, a "
            "person from 0.5 on; else write 'NAME=MODULE:FUNCTION>=0.5'.",
        ),
    ] = None,
    near: Annotated[int | None, typer.Option(help="Bits of 64 in which look-alikes may differ; 4 is usual.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Table with a row a file: its hash or path, author, licence, and what you like.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of all files, where the table does not say.")] = None,
    unlicensed: Annotated[str, typer.Option(help="A file without author or licence: stop, reject or keep.")] = "stop",
    remove: Annotated[str | None, typer.Option(help="List of hashes or names to reject in any case.")] = None,
    truth: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Of the table, 1 where a person saw what detectors should find."),
    ] = None,
    source: Annotated[str, typer.Option(help="What the files are, with its version; for provenance.json.")] = "",
    json: Json = False,
) -> None:
    """Sort out what may be trained on: readable, once each, licensed, and past your detectors.

    Example: tacit audit photos/ --out audit/ --detector face=mine:faces --detector person=mine:people --near 4
    """
    from tacit import api

    with _bar() as progress:
        result = api.audit(
            folder, out, detector=detector or [], near=near, metadata=metadata, licence=licence, unlicensed=unlicensed,
            remove=remove, truth=truth, source=source, progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    for reason, count in result["rejected"].items():
        print(f"{count:,} rejected: {reason}")
    print(
        f"{result['kept']:,} of {result['files']:,} files kept. Train on them with: --data {out.rstrip('/')}/kept.csv"
    )
    if result["recall"] and (found := result["recall"]["found"]):
        print(
            f"Of {found['of']:,} files marked in {truth}, detectors found {100 * found['value']:.1f} % "
            f"({100 * found['low']:.1f} to {100 * found['high']:.1f}); the others are named in provenance.json."
        )


@app.command()
def pretrain(
    method: Annotated[str | None, typer.Argument(help="A published system; see `tacit methods`.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder, .zip, .tar, .parquet, .arrow, .npy, hub:NAME, episodes:FOLDER or exams:FOLDER; again to mix."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The run folder, new or (with --resume) begun; --dry-run needs none.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Trunk: a timm name, or swin_tiny, deit_small, swin_mini, vit_mini, resnet_mini.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: as published. small: for a few thousand examples and one CPU or GPU. [default: paper]"
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the records.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Records of one optimiser step, over all devices.")] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Any setting; see `tacit methods NAME`.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,…", help="Shares of several --data in every epoch.")
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Labelled data for the online k-NN; it never trains anything.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from: run folder, .safetensors, .pth.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run was last saved.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve everything, time a step, write nothing.")] = False,
    max_bad: Annotated[
        str, typer.Option(metavar="SHARE", help="Largest share of unreadable files, as 1% or 0.01.")
    ] = "1%",
    config: Annotated[str | None, typer.Option(help="A settings.yaml of another run, to do the same again.")] = None,
    devices: Annotated[int, typer.Option(help="Devices (processes) on this machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines, under torchrun or SLURM.")] = 1,
    precision: Annotated[
        str | None, typer.Option(help="auto (bf16 where the hardware has it), 32, bf16 or 16. [default: auto]")
    ] = None,
    workers: Workers = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it. [default: 0]")] = None,
    json: Json = False,
) -> None:
    """Pre-train an encoder on a folder of files.

    Example: tacit pretrain moby --preset small --data photos/ --out runs/moby
    """
    from tacit import api

    given = _from_config(config) if config else {}
    method = method or given.get("method")
    data = data or given.get("data")
    for value, name in ((method, "METHOD"), (data, "--data"), (out or dry_run, "--out")):
        if not value:
            raise UsageError(f"{name} is missing. For example: tacit pretrain moby --data photos/ --out runs/moby")
    length = None if epochs or batch_size else given.get("steps")
    shares = [_number(w, "--weights") for w in weights.split(",")] if weights else given.get("weights")
    result = api.pretrain(
        method, data if len(data) > 1 else data[0], out,
        encoder=encoder, preset=preset or given.get("preset"), epochs=epochs, steps=steps or length,
        batch_size=batch_size, set=[*given.get("set", []), *(set or [])], weights=shares, val=val or given.get("val"),
        devices=devices, nodes=nodes, precision=precision or given.get("precision", "auto"), workers=workers,
        seed=given.get("seed", 0) if seed is None else seed, resume=resume, init=init or given.get("init"),
        max_bad=_share(max_bad), dry_run=dry_run,
    )  # fmt: skip
    if dry_run:
        print(api.to_json(result)) if json else _show_rehearsal(result)
    elif json:
        _print_once(api.to_json(result.summary))


@app.command()
def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ENCODER",
            help="A run folder, an encoder folder, a timm name, a folder of timm or transformers, or a torch or onnx "
            "program.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(help="Labelled data: class folders, a table, a folder with train/ and test/, or a known set."),
    ],
    test: Annotated[
        str | None, typer.Option(help="The test set. [default: test/ of --data, or a fifth held out]")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Comma-separated, with options as in knn:k=10/20 or fine_tune:recipe=deit:seeds=3:precision=bf16; all "
            "for what the labels allow. Of knn, linear, linear_sgd (preset, seeds), attentive (heads, lr, seeds), "
            "fine_tune (recipe, neck, seeds, precision, flip), few_shot and percent (shots or share, draws, store), "
            "subset, budget, clinical, retrieval, verification (trials), ridge, multi_label, label_free (lidar=no), "
            "correspondence. On data of a layout of its own, one at a time: segment and attention for masks, detect "
            "for boxes, video (DAVIS), revisited (Oxford, Paris), copies "
            "(Copydays), events (threshold, median) for sounds with times. Of runs whose encoders meet in a space "
            "text_to_video, audio_to_video, video_to_text and so on (windows, by). docs/evaluation.md has all options.",
        ),
    ] = "knn,linear",
    label: Label = None,
    group: Group = None,
    folds: Annotated[
        str | None,
        typer.Option(metavar="COLUMN|NUMBER", help="Test each fold on what the others teach; a number draws so many."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Of sounds and films: the mean over pieces of all of it, not its middle.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep features, and trainings under way, to go on.")
    ] = True,
    seed: Seed = 0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Score an encoder on labelled data, beside random initialisation and the raw input.

    Example: tacit evaluate runs/moby --data labelled/ --protocol knn,linear
    """
    from tacit import api
    from tacit.evaluation import tables

    with _bar() as progress:
        result = api.evaluate(
            what,
            data,
            test,
            protocol,
            label=_names(label),
            group=group,
            folds=folds,
            whole=whole,
            seed=seed,
            workers=workers,
            cache=cache,
            progress=progress,
        )
    if json:
        print(api.to_json(result))
        return
    _show_table(list(tables.ONE), [list(row) for row in tables.table(result)])
    for name, reason in result["skipped"].items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(tables.caption_of_one(result))
    _say_notes(result)
    _say_bad(result["bad_files"])


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN|ENCODER...", help="Two or more, as for evaluate.")],
    data: Annotated[
        str | None, typer.Option(help="Labelled data to score all of them on. [default: what their folders hold]")
    ] = None,
    test: Annotated[str | None, typer.Option(help="The test set. [default: as for evaluate]")] = None,
    protocol: Annotated[str, typer.Option(help="As for evaluate; with --data.")] = "knn,linear",
    label: Label = None,
    group: Group = None,
    out: Annotated[str | None, typer.Option(help="TABLE.md, .html, .csv or .tex")] = None,
    seed: Seed = 0,
    workers: Workers = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features for the next time.")] = True,
    json: Json = False,
) -> None:
    """Several encoders on the same test records: scores, paired differences, ranks.

    Example: tacit compare runs/moby runs/other --data labelled/ --out table.md
    """
    from tacit import api
    from tacit.evaluation import tables

    with _bar() as progress:
        result = api.compare(
            runs, data, test, protocol, label=_names(label), group=group, out=out, seed=seed, workers=workers,
            cache=cache, progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    _show_table(list(tables.titles(result)), [list(row) for row in tables.rows(result)])
    print(tables.caption(result))
    for o in result["label_free"]:
        how = f"Spearman {o['spearman']:+.2f}, p {o['p']:.2g}"
        print(f"{o['measure']} and {o['protocol']} order these {o['n']} encoders alike by {how}")
    for s in result["savings"]:
        print(
            f"{s['encoder']} needs {s['factor']:.1f} times fewer labels than {s['over']} for {100 * s['target']:.1f} %"
        )
    if out is not None:
        print(f"Wrote {out}")


@app.command()
def transfer(
    what: Annotated[list[str], typer.Argument(metavar="RUN|ENCODER...", help="One or several, as for evaluate.")],
    data: Annotated[
        list[str], typer.Option(help="A folder of labelled data sets; or give it again for each set of a list.")
    ],
    protocol: Annotated[
        str,
        typer.Option(help="As for evaluate; of each set what its labels allow, as in linear:metric=both,multi_label."),
    ] = "linear",
    label: Label = None,
    group: Group = None,
    out: Annotated[str | None, typer.Option(help="TABLE.md, .html, .csv or .tex")] = None,
    seed: Seed = 0,
    workers: Workers = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features for the next time.")] = True,
    json: Json = False,
) -> None:
    """Many labelled sets in one table: scores, and means and ranks over the sets.

    Example: tacit transfer runs/esvit --data sets/ --out transfer.md
    """
    from tacit import api
    from tacit.evaluation import transfer as over_sets

    with _bar() as progress:
        result = api.transfer(
            what, data if len(data) > 1 else data[0], protocol, label=_names(label), group=group, out=out, seed=seed,
            workers=workers, cache=cache, progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    _show_table(list(over_sets.TITLES), [list(row) for row in over_sets.table(result)])
    print(over_sets.caption(result))
    if out is not None:
        print(f"Wrote {out}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="lowshot: pretext tasks under one budget, judged with few labels.")],
    data: Annotated[
        str, typer.Option(help="What all arms are trained on; with labels (train/ and test/), also the class columns.")
    ],
    out: Annotated[str, typer.Option(help="The study's folder. The same command goes on where it was broken off.")],
    test: Annotated[str | None, typer.Option(help="The test set. [default: test/ of --data, or a fifth]")] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="ARM,…",
            help="contrastive, clustering_centring, clustering_sinkhorn, clustering_me_max, mim_pixel, mim_token, "
            "combined. [default: all]",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the records, of every arm.")] = None,
    seeds: Annotated[str, typer.Option(metavar="N,…", help="Trainings of every arm.")] = "0",
    encoder: Annotated[str | None, typer.Option(help="Trunk of all arms: a ViT with a class token.")] = None,
    preset: Annotated[str, typer.Option(help="small or paper, of lowshot_mim_cluster.")] = "small",
    shots: Annotated[str, typer.Option(metavar="K,…", help="Labels of each class.")] = "1,2,5,10",
    draws: Annotated[int, typer.Option(help="How often these labels are drawn.")] = 10,
    multi_label: Annotated[
        str | None, typer.Option(help="Records with several labels: a table, or a folder with train and test tables.")
    ] = None,
    multi_label_column: Annotated[str, typer.Option(metavar="COLUMN,…", help="Of these.")] = "tags",
    segment: Annotated[str | None, typer.Option(help="A folder of images with masks, as for evaluate.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of --data. [default: label]")] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Any setting that is the same for all arms.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, 32, bf16 or 16.")] = "auto",
    workers: Workers = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features for the next time.")] = True,
    json: Json = False,
) -> None:
    """Which pre-training is worth most with few labels: all arms under one budget, in one table.

    Example: tacit study lowshot --data images/ --out study/ --epochs 30 --seeds 0,1,2
    """
    from tacit import api
    from tacit.study import table

    result = api.study(
        name, data, out, test=test, arms=_names(arms), epochs=epochs, seeds=_whole(seeds, "--seeds"), encoder=encoder,
        preset=preset, shots=_whole(shots, "--shots"), draws=draws, multi_label=multi_label,
        multi_label_column=multi_label_column.split(","), segment=segment, label=label, set=set or [],
        precision=precision, workers=workers, cache=cache,
    )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    titles, rows = table.lines(result)
    _show_table(titles, rows)
    print(table.caption(result))


@app.command()
def embed(
    what: Annotated[str, typer.Argument(metavar="RUN|ENCODER", help="A run folder, an encoder folder or a timm name.")],
    data: Annotated[str, typer.Option(help="The files to embed.")],
    out: Annotated[str, typer.Option(help="FILE.parquet (path, vector) or FILE.npy; with --sequences a folder.")],
    frames: Annotated[
        bool,
        typer.Option("--frames", help="Of sounds of any length: a row a frame (path, start, end in seconds, vector)."),
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Of sounds and films: the mean over pieces of all of it, not its middle.")
    ] = False,
    overlap: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Of the pieces in which --frames and --whole read: 0.5 gives frames at their edges "
            "sound on both sides.",
        ),
    ] = 0.0,
    sequences: Annotated[
        bool,
        typer.Option(
            "--sequences",
            help="Of clips: frames through an encoder of images (or none), log-mels and words, with times, in a folder "
            "for --data sequences:FOLDER. What is there already is kept.",
        ),
    ] = False,
    fps: Annotated[float | None, typer.Option(help="Frames a second that --sequences looks at. [default: 5]")] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """One vector a file, or a frame; or feature sequences of films.

    Example: tacit embed runs/moby --data photos/ --out photos.parquet
    """
    from tacit import api

    with _bar() as progress:
        result = api.embed(
            what, data, out, frames=frames, whole=whole, overlap=overlap, sequences=sequences, fps=fps,
            workers=workers, progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    if sequences:
        have = ", ".join(f"{count:,} with {name}" for name, count in result["modalities"].items())
        print(f"{result['rows']:,} records ({have}) in {result['out']}; {result['kept']:,} of them were there")
    else:
        print(f"{result['rows']:,} vectors of {result['width']} numbers in {result['out']}")
    _say_notes(result)
    _say_bad(result["bad_files"])


@app.command()
def bags(
    features: Annotated[str, typer.Argument(help="What tacit embed wrote: .parquet or .npy.")],
    table: Annotated[
        str,
        typer.Option(
            help="A row a bag: its name, its label, perhaps a group and a split (train, test). A vector's bag is the "
            "folder its file is in, or what a column called path says."
        ),
    ],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Of the table: the class of a bag.")] = "label",
    bag: Annotated[str, typer.Option(metavar="COLUMN", help="Of the table: the name of a bag.")] = "bag",
    group: Group = None,
    out: Annotated[str | None, typer.Option(help="FILE.csv for what attention gave to each file.")] = None,
    rois: Annotated[
        str | None,
        typer.Option(
            help="What tacit embed wrote of labelled regions, a folder a class: bags are also told by their vectors "
            "nearest to each class, without training (MI-SimpleShot)."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many vectors of a bag count for that; UNI takes 5 and 50.")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the bags.")] = 20,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Score embeddings by bags with one label each, such as slides of tiles: attention beside the plain mean.

    Example: tacit bags tiles.parquet --table slides.csv --group patient
    """
    from tacit import api

    with _bar() as progress:
        result = api.bags(
            features, table, label=label, bag=bag, group=group, out=out, rois=rois, top=top, epochs=epochs, seed=seed,
            progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    _show_table(
        ["pool", "metric", "score", "95 % interval", "n"],
        [
            [r["pool"], r["metric"], f"{r['value']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}", r["n"]]
            for r in result["results"]
        ],
    )
    print(f"{result['train']:,} bags to learn from and {result['test']:,} to test on: {result['split']}.")
    if result["missing"] or result["unused"]:
        lost = f"{len(result['missing']):,} bags of the table have no vector, {result['unused']:,} vectors no bag."
        print(f"left out: {lost}", file=sys.stderr)


@app.command()
def exams(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|ENCODER...", help="As for evaluate; one, or one for each of --planes in their order."
        ),
    ],
    data: Annotated[str, typer.Option(help="A folder of exams: MRNet's layout, .npy, NIfTI or DICOM series.")],
    label: Annotated[
        str,
        typer.Option(
            metavar="TASK|FILE.csv", help="Exams and their labels, 0 and 1; of MRNet abnormal, acl or meniscus."
        ),
    ],
    planes: Annotated[
        str | None, typer.Option(metavar="PLANE,…", help="Of axial, coronal and sagittal. [default: all there are]")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The label, of a table with several. [default: label]")] = None,
    out: Annotated[str | None, typer.Option(help="A new folder for exams.json and predictions.csv.")] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="small: for one CPU; small_tuned: the encoder too; frozen and paper: the same at full width."
        ),
    ] = "small",
    fuse: Annotated[
        str, typer.Option(help="Planes together by logistic regression on their probabilities, or on their cls.")
    ] = "probabilities",
    max_exams: Annotated[int | None, typer.Option(help="Exams to learn from. [default: all]")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="The same encoder at random initialisation beside it.")
    ] = True,
    seed: Seed = 0,
    workers: Workers = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep embeddings for the next time.")] = True,
    json: Json = False,
) -> None:
    """Tell exams apart by their slices: a transformer over them, beside their mean and maximum.

    Example: tacit exams runs/knee --data MRNet/ --label acl --planes sagittal --out acl/
    """
    from tacit import api

    with _bar() as progress:
        result = api.exams(
            what if len(what) > 1 else what[0], data, label, planes=_names(planes), column=column, out=out,
            recipe=recipe, fuse=fuse, max_exams=max_exams, baselines=baselines, seed=seed, workers=workers,
            cache=cache, progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    _show_exams(result)
    _say_bad(result["bad_files"])


@app.command()
def finetune(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ENCODER",
            help="A run folder, an encoder folder or a timm name; for sounds also a speech model of transformers.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled data, as for evaluate; test/ inside is for scoring alone. Of sounds without it, a part is."
        ),
    ],
    out: Annotated[str, typer.Option(help="A new folder for the classifier.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="one_percent, ten_percent (each with _large for wide ResNets): as published. small: for a few "
            "thousand labels or fewer. Of sounds: small, speech for models of transformers, or atst, ast and "
            "ast_commands as published. [default: small or speech]"
        ),
    ] = None,
    neck: Annotated[
        int, typer.Option(help="Layers of the run's projection head to keep; the paper keeps 1.", min=0)
    ] = 0,
    shots: Annotated[int | None, typer.Option(help="Learn from so many labels of each class.")] = None,
    percent: Annotated[float | None, typer.Option(help="Learn from this per cent of each class's labels.")] = None,
    names: Annotated[str | None, typer.Option(help="Learn from the records this file names, one a line.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,…", help="Of a table; of sounds a class or several labels at once. [default: label]"
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table of sounds: the speaker or town, never split.")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Of sounds, under their labels: supcon, nt_xent, triplet or multi_similarity.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Contrast before cross-entropy, or auxiliary to it. [default: auxiliary]")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="CLASSIFIER", help="Of sounds: a folder that finetune made, to learn from beside labels."),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Of sounds: epochs, lr, …; see docs/audio.md.")
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """A classifier from an encoder and few labels, kept to be used (predict) or to teach (simclr_v2_distil).

    Example: tacit finetune runs/simclr --data labelled/ --percent 1 --neck 1 --out classifier/

    Example: tacit finetune wavlm/ --data table.csv --label region --group town --contrast supcon --out classifier/
    """
    from tacit import api

    with _bar() as progress:
        result = api.finetune(
            what, data, out, recipe=recipe, neck=neck, shots=shots, percent=percent, names=names, label=_names(label),
            group=group, contrast=contrast, stage=stage, teacher=teacher, set=set or [], seed=seed, workers=workers,
            progress=progress,
        )  # fmt: skip
    if json:
        print(api.to_json(result))
        return
    print(f"{len(result['classes'])} classes learned from {result['labels']:,} records; the classifier is in {out}")
    _say_accuracy(result)
    if "results" in result:
        _show_sounds(result)


@app.command()
def predict(
    classifier: Annotated[str, typer.Argument(help="A folder that finetune made, or a run of simclr_v2_distil.")],
    data: Annotated[str, typer.Option(help="The files to name. With labels, the accuracy is told.")],
    out: Annotated[str, typer.Option(help="FILE.csv or FILE.parquet (path, label, probability).")],
    label: Annotated[str | None, typer.Option(metavar="COLUMN,…", help="Of a table. [default: label]")] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """One label a file, or how likely each of several is, by a classifier that finetune made.

    Example: tacit predict classifier/ --data photos/ --out labels.csv
    """
    from tacit import api

    result = api.predict(classifier, data, out, label=_names(label), workers=workers)
    if json:
        print(api.to_json(result))
        return
    print(f"{result['rows']:,} records named in {out}")
    _say_accuracy(result)
    if "results" in result:
        _show_scores(result["results"])
    _say_bad(result["bad_files"])


@app.command()
def export(
    what: Annotated[str, typer.Argument(metavar="RUN|ENCODER", help="A run folder, an encoder folder or a timm name.")],
    to: Annotated[str, typer.Option(help="timm, transformers, torch or onnx.")],
    out: Annotated[str, typer.Option(help="A new folder.")],
    size: Annotated[int | None, typer.Option(help="Side of the inputs it is made for. [default: its own]")] = None,
    window: Annotated[int | None, typer.Option(help="A Swin's window, in patches. [default: its own]")] = None,
    json: Json = False,
) -> None:
    """The encoder in the form another tool loads, verified to give the same features.

    Example: tacit export runs/moby --to timm --out out/
    """
    from tacit import api

    result = api.export(what, to, out, size=size, window=window)
    if json:
        print(api.to_json(result))
        return
    print(f"{result['out']}: features agree to {result['difference']:.1e} (tolerance {result['tolerance']:.0e}).")
    print(f"How to load it: {result['out']}/README.md")


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run folder, or several to compare.")],
    out: Annotated[str, typer.Option(help="PAGE.html")],
    data: Annotated[str | None, typer.Option(help="Files for maps and neighbours. [default: the run's own]")] = None,
    limit: Annotated[int, typer.Option(help="Records shown in maps and neighbours.", min=10)] = 2000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """One HTML page: curves, spectra, maps, neighbours, views, probes, bad files.

    Example: tacit report runs/moby --out report.html
    """
    from tacit import api

    with _bar() as progress:
        path = api.report(runs, out, data=data, limit=limit, seed=seed, progress=progress)
    print(api.to_json({"out": str(path)}) if json else f"Wrote {path}")


def _print_once(text: str) -> None:
    """From the first of several processes alone."""
    from tacit.distributed import rank

    if rank() == 0:
        print(text)


def _from_config(path: str) -> dict:
    import yaml

    try:
        with open(path, encoding="utf-8") as f:
            given = yaml.safe_load(f)
        fields = given.pop("settings")
    except (OSError, yaml.YAMLError, KeyError, AttributeError) as error:
        raise UsageError(f"--config {path} is no settings.yaml of a run: {error}") from error
    assignments = {
        k: ",".join(map(str, v)) if isinstance(v, list) else "" if v is None else v for k, v in fields.items()
    }
    return {**given, "set": [f"{name}={value}" for name, value in assignments.items()]}


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


def _whole(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{name} {text!r}: must be whole numbers, such as 1,2,5.") from error


def _share(text: str) -> float:
    value = _number(text.removesuffix("%"), "--max-bad") / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise UsageError(f"--max-bad {text}: must be a share from 0 to 1 or a percentage, such as 0.05 or 5%.")
    return value


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r}: must be a number.") from error


@contextlib.contextmanager
def _bar():
    """A progress bar on stderr; yields the callback (what, done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tell


def _show_table(titles: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)  # a file has no edge


def _show_method(row: dict) -> None:
    print(f"{row['title']} ({row['name']}): {row['modality']}, {row['family']}\n{row['paper']}\n")
    paper, small = row["presets"]["paper"], row["presets"]["small"]
    _show_table(
        ["setting", "paper", "small", "allowed", "what it is"],
        [
            [
                s["name"],
                paper[s["name"]],
                "" if small[s["name"]] == paper[s["name"]] else small[s["name"]],
                s["allowed"],
                s["help"],
            ]
            for s in row["settings"]
        ],
    )


def _show_rehearsal(result: dict) -> None:
    from tacit.report.numbers import flat

    print(f"Settings (preset {result['preset']}, seed {result['seed']}):")
    for name, value in flat(result["settings"]):
        print(f"  {name} = {value}")
    print(
        f"\n{result['records']:,} records, {result['steps_per_epoch']:,} steps an epoch, {result['steps']:,} in all\n"
        f"{result['parameters']:,} trained parameters, {result['encoder_parameters']:,} of them the encoder's\n"
        f"precision {result['precision']}; a step took {result['step_time']:.2f} s, so the run about "
        f"{result['estimated_time']}\npeak memory {result['peak_memory_text']}. Nothing was written."
    )


def _show_exams(result: dict) -> None:
    of = {}
    for row in result["results"]:
        of.setdefault((row["of"], row["plane"], row["head"]), {})[row["metric"]] = row
    wanted = ("auroc", "accuracy", "sensitivity", "specificity")

    def said(row: dict | None) -> str:
        return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row else ""

    _show_table(
        ["of", "plane", "by", *wanted],
        [[name, plane, head, *(said(found.get(m)) for m in wanted)] for (name, plane, head), found in of.items()],
    )
    for row in result["differences"]:
        print(f"AUROC over {row['of']}, {row['plane'] or 'all'}, {row['head']}: {row['value']:+.3f} "
              f"({row['low']:+.3f} to {row['high']:+.3f})")  # fmt: skip
    ones, over = result["positives"], "patients" if result["patients"] else "exams"
    print(
        f"{result['train']:,} exams to learn from ({ones['train']:,} positive), {result['test']:,} to test on "
        f"({ones['test']:,} positive): {result['split']}. Intervals: 95 %, bootstrap over {over}; one test exam is "
        f"{1 / result['test']:.3f} of accuracy."
    )
    for row in result["results"]:
        if row["of"] == "slice count" and not row["low"] <= 0.5 <= row["high"]:
            print(f"The number of slices alone tells exams apart, {row['plane']}: AUROC {said(row)}.", file=sys.stderr)
    if result["transduction"]:
        print("The encoder saw the slices of the test exams, without labels, when it was pre-trained.", file=sys.stderr)
    for name, what in (("missing", "of the table have no series"), ("unlabelled", "have no label"),
                       ("incomplete", "lack a plane")):  # fmt: skip
        if found := result[name]:
            more = ", …" if len(found) > 5 else ""
            print(f"left out: {len(found):,} exams {what}: {', '.join(found[:5])}{more}", file=sys.stderr)


def _show_scores(results: list[dict]) -> None:
    _show_table(
        ["metric", "score", "95 % interval", "over", "n"],
        [[r["metric"], f"{r['value']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}", r["interval_over"], r["n"]]
         for r in results],
    )  # fmt: skip


def _show_sounds(result: dict) -> None:
    _show_scores(result["results"])
    rows = result.get("confusion", [])
    wrong = [(share, of, to) for of, row in enumerate(rows) for to, share in enumerate(row) if of != to]
    said = [f"{result['classes'][of]} for {result['classes'][to]} {share:.0%}"
            for share, of, to in sorted(wrong, reverse=True)[:3] if share]  # fmt: skip
    if said:
        print(f"Taken most often: {', '.join(said)}")
    _say_notes(result)
    _say_bad(result["bad_files"])


def _say_accuracy(result: dict) -> None:
    if found := result.get("accuracy"):
        shares = (100 * found[k] for k in ("value", "low", "high"))
        print("Accuracy {:.1f} % ({:.1f} to {:.1f}) of {:,} records".format(*shares, found["n"]))


def _say_notes(result: dict) -> None:
    for note in result.get("notes", ()):
        print(f"Note: {note}", file=sys.stderr)


def _say_bad(bad: list) -> None:
    for name, reason in bad[:5]:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    if len(bad) > 5:
        print(f"… and {len(bad) - 5:,} more files that could not be read", file=sys.stderr)


def main() -> None:
    """Exit codes: 0 done, 1 the run failed, 2 the call was wrong."""
    try:
        code = app(standalone_mode=False, prog_name="tacit")
    except TacitError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(1)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the command line parser's own
            raise
        print(f"Error: {error.format_message()}", file=sys.stderr)
        if getattr(error, "ctx", None) is not None:
            print(f"Try: {error.ctx.command_path} --help", file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
