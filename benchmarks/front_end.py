"""The front end of sounds: how much faster than real time log-mel spectrograms are, and their share of a training step.

    python benchmarks/front_end.py
    python benchmarks/front_end.py --methods asit --presets small --precision 32

Of every method and preset, on recordings made here (see benchmarks/recordings.py) and on batches that are drawn anew:
`read` draws and reads the excerpts, as a worker of the loader does where there are any; `log-mel` makes their
spectrograms; `views` is what the method does to them beyond (blocks overwritten, sounds laid behind, crops resized);
`step` is the rest of training: forward and backward passes, optimiser, moving averages. Shares are of all four
together, in each turn; medians are told, of core seconds. In `paper` trunk and excerpts are the paper's, in a batch of
--batch; in `small` all is the preset's. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from log import note  # beside this file
from recordings import recordings  # beside this file
from step import DEVICE, timed, trainer  # beside this file
from torch import Tensor

from tacit.data import open_source
from tacit.engine import Method
from tacit.engine.memory import keep_memory
from tacit.precision import CHOICES, resolved
from tacit.views import Views, collate, finish, resized_crop


def nothing(method: Method, views: list[dict[str, Tensor]]) -> None:
    """ASiT overwrites blocks before the step."""


def of_clips(method: Method, views: list[dict[str, Tensor]]) -> None:
    for number, view in enumerate(views):
        method.changed(number, view["image"], view)


def of_frames(method: Method, views: list[dict[str, Tensor]]) -> None:
    (view,) = views
    resized_crop(method.backgrounds.mixed(0, view["image"], view["loudness"], view["pick"]), view["place"], 1.0)


# What of the views is made within the step, again and alone.
METHODS: dict[str, Callable[[Method, list[dict[str, Tensor]]], None]] = {
    "asit": nothing, "atst_clip": of_clips, "atst_frame": of_frames
}  # fmt: skip


def measured(name: str, preset: str, options: argparse.Namespace, folder: Path) -> str:
    sets = [f"batch_size={options.batch}"] if preset == "paper" else []
    method, step = trainer(name, sets, options.precision, preset=preset)
    pipelines, s = method.views(), method.s
    recordings(folder, s.batch_size, s.rate)
    drawn, inputs = Views(open_source(str(folder), kind="audio"), pipelines, seed=0), method.encoder.inputs
    turns = []
    for turn in range(options.turns + 1):  # the first does not count, where things warm up and no background is heard
        made: dict = {}
        read = timed(lambda made=made, turn=turn: made.update(collate([drawn[(turn, i)] for i in range(s.batch_size)])))
        waves = [view["image"].to(DEVICE) for view in made["views"]]
        mel = timed(lambda waves=waves: [inputs.prepare(wave) for wave in waves])
        views: list = []
        both = timed(lambda made=made, views=views: views.extend(finish(made, pipelines)))
        change = timed(partial(METHODS[name], method, views))
        rest = timed(partial(step, views)) - change
        heard = sum(len(wave) for wave in waves) * inputs.seconds
        whole = read + both + change + rest
        turns.append(
            (heard / mel, mel / whole, (max(both - mel, 0) + change) / whole, read / whole, whole / s.batch_size)
        )
    fast, mel, views, read, whole = (statistics.median(column) for column in zip(*turns[1:], strict=True))
    return (
        f"{s.encoder}, batch {s.batch_size}: {fast:,.0f} x real time; of {whole:.3f} s a recording log-mel {mel:.1%}, "
        f"views {views:.1%}, together {mel + views:.1%}, reading {read:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--presets", nargs="+", default=["paper", "small"], choices=["paper", "small"])
    parser.add_argument("--batch", type=int, default=4, help="of `paper`")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", choices=CHOICES, default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    options.precision = resolved(options.precision, DEVICE)
    parts = []
    for name in options.methods:
        for preset in options.presets:
            with tempfile.TemporaryDirectory() as made:
                parts.append(f"{name} `{preset}` {measured(name, preset, options, Path(made))}")
            print(parts[-1], flush=True)
    note(
        f"front end of sounds, {options.precision}, medians of {options.turns}: {'; '.join(parts)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
