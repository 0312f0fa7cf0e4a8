"""Does a Swin attend faster by our windows than by timm's? The attention alone, and the step of MoBY and of SimMIM.

    python benchmarks/windows.py
    python benchmarks/windows.py --jobs --turns 9 --no-log        the attention alone

Alone: of Swin-T's twelve blocks, what lies between the layer that makes queries, keys and values and the one after the
windows' sum, of two views of --batch images, in a forward and a backward pass and a forward pass without gradient (the
keys'). In bf16, where `encoders/window_attention.py` is taken, and in fp32, where it is not: what it would be worth
there. Steps are as in benchmarks/step.py, in bf16; both ways have a model of their own, drawn alike, and take turns. A
ratio is of one turn, of core seconds; the median is told with the smallest and largest. A line goes to
benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from jobs import JOBS  # beside this file
from log import note  # beside this file
from step import TYPES, stepper, timed  # beside this file
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from tacit import encoders
from tacit.encoders.window_attention import CLOSED, FewerPasses, attend_windows
from tacit.engine.memory import keep_memory

Attend = Callable[[WindowAttention, Tensor, Tensor | None], Tensor]


def fewer(block: WindowAttention, qkv: Tensor, mask: Tensor | None) -> Tensor:
    """What `FewerPasses` does where it is taken, wherever it is."""
    bias = block._get_rel_pos_bias()
    if mask is not None:
        bias = bias + mask.masked_fill(mask <= -100, CLOSED)[:, None]
    return attend_windows(qkv, bias, block.scale)


WAYS: dict[str, Attend] = {"tacit": fewer, "timm": WindowAttention.forward}


def blocks(images: int) -> list[tuple[WindowAttention, tuple[int, int, int], Tensor | None]]:
    """Swin-T's, without the layers before and after the attention; the shape of what they get, and their masks."""
    encoder, found = encoders.build("swin_tiny", size=224), []

    def note_it(block: WindowAttention, given: tuple, named: dict) -> None:
        windows, tokens, width = given[0].shape
        found.append((block, (windows * images, tokens, 3 * width), named.get("mask")))

    parts = [part for part in encoder.modules() if isinstance(part, FewerPasses)]
    hooks = [part.register_forward_pre_hook(note_it, with_kwargs=True) for part in parts]
    with torch.no_grad():
        encoder(torch.zeros(1, 3, 224, 224))
    for part, hook in zip(parts, hooks, strict=True):
        hook.remove()
        part.qkv = part.proj = nn.Identity()
    return found


def alone(precision: str, options: argparse.Namespace) -> str:
    given = []
    for block, shape, mask in blocks(2 * options.batch):
        qkv = torch.randn(shape).to(TYPES[precision])
        given.append((block, qkv, mask, torch.randn(*shape[:2], shape[2] // 3).to(TYPES[precision])))

    def passes(attend: Attend) -> None:
        for block, qkv, mask, grad in given:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                with torch.no_grad():
                    attend(block, qkv, mask)
                out = attend(block, qkv.detach().requires_grad_(), mask)
            out.backward(grad)

    turns = [{name: timed(lambda way=way: passes(way)) for name, way in WAYS.items()} for _ in range(options.turns + 1)]
    return f"attention alone {precision} {compared(turns[1:])}"


def as_timm(method: nn.Module) -> None:
    for part in method.modules():
        if isinstance(part, FewerPasses):
            part.__class__ = WindowAttention


def whole(name: str, options: argparse.Namespace) -> str:
    """The step of a job, by each way; the first two turns, where things warm up, do not count."""
    job = JOBS[name]
    sets = [*job.sets, f"batch_size={options.batch}"]
    with tempfile.TemporaryDirectory() as made:
        folder = job.files.make(Path(made), options.batch)
        steps = {
            way: stepper(job.method, sets, "bf16", folder, change=change)
            for way, change in (("tacit", None), ("timm", as_timm))
        }
    turns = [{way: timed(step) for way, step in steps.items()} for _ in range(options.turns + 2)]
    return f"step of {job.title} bf16 {compared(turns[2:])}"


def compared(turns: list[dict[str, float]]) -> str:
    ratios = sorted(turn["timm"] / turn["tacit"] for turn in turns)
    own, other = (statistics.median(turn[way] for turn in turns) for way in ("tacit", "timm"))
    return f"{own:.3f} s, timm's {other:.3f} s, {statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", default=["moby", "simmim_swin"], choices=["moby", "simmim_swin"])
    parser.add_argument("--precisions", nargs="*", default=list(TYPES)[::-1], choices=list(TYPES), help="alone")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    parts = []
    for make, what in ((alone, options.precisions), (whole, options.jobs)):
        for one in what:
            parts.append(make(one, options))
            print(parts[-1], flush=True)
    note(
        f"a Swin's windows by tacit's attention and by timm's, batch {options.batch}, medians of {options.turns}, how "
        f"many times as long timm's takes: {'; '.join(parts)}",
        keep=not options.no_log,
    )


if __name__ == "__main__":
    main()
