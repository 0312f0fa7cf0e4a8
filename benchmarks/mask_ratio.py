"""What masking saves: the cost of MAE's encoder, and of a whole step, as more of the patches are hidden.

    python benchmarks/mask_ratio.py --preset small --batch 64
    python benchmarks/mask_ratio.py --preset base --batch 128 --bf16

Forward and backward passes are timed at every ratio in turn, over and over, and each is divided by the one with nothing
hidden of its own turn: medians of those shares, and beside them the shares of multiplications that the shapes predict
(the backward pass counts twice, but once for the patch projection, whose input needs no gradient). The optimiser, whose
work no mask changes, is left out. A line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from log import note  # beside this file
from torch import nn

from tacit.encoders import encode_visible, visible_ids
from tacit.engine import Progress
from tacit.methods.image.mae import MAE
from tacit.settings import with_assignments
from tacit.views import random_mask, rng

START = Progress(0, 1, 1)


def multiplications(method: MAE, visible: int) -> tuple[float, float]:
    """Of an image, forward and backward: in the encoder, and in all."""
    trunk, decoder = method.encoder.trunk, method.decoder
    patches, prefix = trunk.patch_embed.num_patches, trunk.num_prefix_tokens
    projection = 2 * patches * trunk.patch_embed.proj.weight.numel()
    encoder = projection + 3 * _blocks(trunk.blocks, prefix + visible, method.encoder.width)
    ends = (prefix + visible) * decoder.embed.weight.numel() + patches * decoder.predict.weight.numel()
    inside = _blocks(decoder.blocks, prefix + patches, decoder.embed.out_features)
    return encoder, encoder + 3 * (ends + inside)


def _blocks(blocks: nn.Sequential, tokens: int, width: int) -> int:
    weights = sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Linear))
    return tokens * weights + len(blocks) * 2 * tokens**2 * width  # queries with keys, and their shares with values


def measure(method: MAE, ratios: list[float], options: argparse.Namespace, device: str) -> list[tuple[float, float]]:
    """For each ratio the share of the encoder's and of the whole step's time, medians over the turns."""
    inputs = method.encoder.inputs
    images = torch.randn(options.batch, inputs.channels, inputs.size, inputs.size, device=device)
    side = inputs.size // method.patch
    views = []
    for ratio in ratios:
        masks = [torch.from_numpy(random_mask(rng(0, 0, i, 0), side, side, ratio=ratio)) for i in range(options.batch)]
        views.append({"image": images, "mask": torch.stack(masks).to(device)})

    def timed(call: Callable[[], torch.Tensor]) -> float:
        method.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=options.bf16):
            loss = call()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def encoder(view: dict[str, torch.Tensor]) -> torch.Tensor:
        return encode_visible(method.encoder, view["image"], visible_ids(view["mask"])).float().square().mean()

    def turn() -> list[tuple[float, float]]:
        return [
            (timed(lambda v=v: encoder(v)), timed(lambda v=v: method.loss([v], START).terms["pixels"])) for v in views
        ]

    turn()
    turns = [turn() for _ in range(options.repeats)]
    return [
        tuple(statistics.median(t[i][part] / t[0][part] for t in turns) for part in (0, 1)) for i in range(len(ratios))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", choices=list(MAE.presets))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75, 0.9])
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    settings = with_assignments(MAE.presets[options.preset], options.set)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = MAE(settings).to(device)
    ratios = [0.0, *options.ratios]
    found = measure(method, ratios, options, device)
    patches = method.encoder.trunk.patch_embed.num_patches
    predicted = [multiplications(method, int(patches * (1 - ratio))) for ratio in ratios]
    parts = []
    for part, title in enumerate(("encoder", "whole step")):
        shares = ", ".join(
            f"{ratio:g}: {measured[part]:.3f} ({shape[part] / predicted[0][part]:.3f})"
            for ratio, measured, shape in zip(ratios[1:], found[1:], predicted[1:], strict=True)
        )
        parts.append(f"{title} {shares}")
    note(
        f"mask ratio, MAE {' '.join([f'`{options.preset}`', *options.set])}, {patches} patches, batch "
        f"{options.batch}, {'bf16' if options.bf16 else 'fp32'}: share of the time with nothing hidden, measured "
        f"(predicted): {'; '.join(parts)}; medians of {options.repeats} turns"
    )


if __name__ == "__main__":
    main()
