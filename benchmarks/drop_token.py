"""What DropToken saves: time and memory of VATT's step with half of the tokens of film and sound kept, beside all.

    OMP_NUM_THREADS=1 python benchmarks/drop_token.py --batch 8
    python benchmarks/drop_token.py --preset base --batch 16 --bf16

Forward and backward passes with each share kept take turns, and each time is divided by that of all tokens in its own
turn: medians of those shares, and beside them the share of multiplications that the shapes predict (the backward pass
counts twice, but once for what reads pixels and samples, whose inputs need no gradient). Text keeps its tokens. Memory
is what the forward pass keeps for the backward pass, counted tensor by tensor. The optimiser, whose work no token
changes, is left out. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from log import note  # beside this file
from torch import nn

from tacit.encoders import set_drop_token
from tacit.engine import Progress
from tacit.engine.memory import bytes_a_record
from tacit.methods.multimodal.vatt import VATT
from tacit.settings import with_assignments

START = Progress(0, 1, 1)


def multiplications(method: VATT, keep: float) -> float:
    """Of a record, forward and backward, in the encoders; the head and the loss are next to nothing."""
    total = 0.0
    for of, encoder in method.encoders.items():
        trunk, inputs = encoder.trunk, encoder.inputs
        stack = trunk.stack
        if of == "text":
            tokens, rows = inputs.length, inputs.sentences
            total += rows * 3 * (1 + tokens) * _weights(trunk.before)
        else:
            tokens = len(trunk.places(_grid(trunk, of, inputs)))
            total += 2 * tokens * trunk.patch_embed.weight.numel() + 3 * tokens * _weights(trunk.before)
            tokens, rows = int(keep * tokens), 1
        length = 1 + tokens
        attention = len(stack.blocks) * 2 * length**2 * trunk.width  # queries with keys, and their shares with values
        total += rows * 3 * (length * (_weights(stack) + _weights(trunk.after)) + attention)
    return total


def _weights(part: nn.Module) -> int:
    return sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear))


def _grid(trunk: nn.Module, of: str, inputs: object) -> list[int]:
    shape = inputs.shape if of == "video" else (inputs.samples,)
    return [n // p for n, p in zip(shape, trunk.patch_size, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", choices=list(VATT.presets))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    s = with_assignments(VATT.presets[options.preset], [*options.set, "vocabulary=a,b,c"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = VATT(s).to(device)
    dtype = torch.bfloat16 if options.bf16 else None
    n, inputs = options.batch, s.inputs
    views = [
        {"image": torch.randn(n, 3, *inputs["video"].shape)},
        {"image": 0.1 * torch.randn(n, 1, inputs["audio"].samples)},
        {"image": torch.randint(1, 4, (n, *inputs["text"].shape))},
    ]
    views = [{"image": view["image"].to(device), "valid": torch.ones(n, dtype=torch.bool).to(device)} for view in views]

    def prepared(keep: float) -> None:
        for of in ("video", "audio"):
            set_drop_token(method.encoders[of], keep, s.drop_each)

    def timed(keep: float) -> float:
        prepared(keep)
        method.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
            loss = sum(method.loss(views, START).terms.values())
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    shares = [1.0, *options.keep]
    memory = []
    for keep in shares:
        prepared(keep)
        memory.append(bytes_a_record(method, views, dtype))
    for keep in shares:
        timed(keep)
    turns = [[timed(keep) for keep in shares] for _ in range(options.repeats)]
    predicted = [multiplications(method, keep) / multiplications(method, 1.0) for keep in shares]
    print(f"{'kept':>6} {'step, s':>9} {'share':>7} {'predicted':>10} {'MB a record':>12} {'share':>7}")
    said = []
    for i, keep in enumerate(shares):
        seconds, share = (statistics.median(v) for v in ([t[i] for t in turns], [t[i] / t[0] for t in turns]))
        less = memory[i] / memory[0]
        print(f"{keep:6g} {seconds:9.3f} {share:7.3f} {predicted[i]:10.3f} {memory[i] / 1e6:12.1f} {less:7.3f}")
        if i:
            said.append(f"{keep:g}: time {share:.3f} (predicted {predicted[i]:.3f}), memory {less:.3f}")
    tokens = [len(method.encoders[of].trunk.places(_grid(method.encoders[of].trunk, of, inputs[of]))) for of in
              ("video", "audio")]  # fmt: skip
    note(
        f"DropToken, VATT {' '.join([f'`{options.preset}`', *options.set])}, {tokens[0]} tokens of film and "
        f"{tokens[1]} of sound, batch {n}, {'bf16' if options.bf16 else 'fp32'}: share of a forward and backward pass "
        f"with all tokens, by the share kept: {'; '.join(said)}; medians of {options.repeats} turns"
    )


if __name__ == "__main__":
    main()
