"""How near k-NN comes to the machine's own matrix product, and what a grid of linear heads costs beside one.

    python benchmarks/evaluation_speed.py knn --queries 50000 --bank 200000
    python benchmarks/evaluation_speed.py linear --encoder swin_mini

`knn` times the whole search, in turn with the bare product of the same shape, and says the ratio of their rates and the
memory above the inputs. `linear` times training of one head and of twelve over the same images. Medians of paired runs;
a line goes to benchmarks/results/LOG.md.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from log import note  # beside this file

from tacit import encoders
from tacit.data import open_source
from tacit.evaluation.features import features
from tacit.evaluation.knn import BLOCK, knn_sweep
from tacit.evaluation.linear_sgd import PRESETS, linear_sgd


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def peak() -> float:
    """Largest resident memory so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def knn(options: argparse.Namespace) -> str:
    torch.manual_seed(0)
    bank, query = torch.randn(options.bank, options.width), torch.randn(options.queries, options.width)
    labels = torch.randint(100, (options.bank,))
    before = peak()
    whole = timed(lambda: knn_sweep(bank, labels, query, ks=(10, 20, 100, 200), classes=100))
    above = max(peak() - before, 0)
    block = min(max(BLOCK // options.bank, 1), options.sample)
    unit, out = torch.nn.functional.normalize(bank, dim=1).T, torch.empty(block, options.bank)

    def products() -> None:
        for start in range(0, options.sample - block + 1, block):
            torch.mm(query[start : start + block], unit, out=out)

    def search() -> None:
        knn_sweep(bank, labels, query[: options.sample], ks=(10, 20, 100, 200), classes=100)

    products()
    done = options.sample // block * block
    ratios = []
    for _ in range(options.repeats):
        bare = timed(products) / done
        ratios.append(bare / (timed(search) / options.sample))
    flops = 2 * options.queries * options.bank * options.width
    return (
        f"k-NN (k 10, 20, 100, 200) of {options.queries:,} x {options.bank:,} x {options.width}: {whole:.0f} s, "
        f"{flops / whole / 1e9:.0f} GFLOP/s; {100 * statistics.median(ratios):.0f} % of the rate of the bare product "
        f"(median of {options.repeats} pairs), {above:.2f} GiB above the inputs"
    )


def linear(options: argparse.Namespace) -> str:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", rng.integers(0, 255, (options.images, 32, 32, 3), dtype=np.uint8))
        source = open_source(Path(folder) / "images.npy")
        source.labels, source.classes = rng.integers(0, 10, options.images), [str(i) for i in range(10)]
        encoder = encoders.build(options.encoder, size=32)
        test = features(encoder, source.select(np.arange(64))).more
        one = replace(PRESETS["dino"], lrs=(0.01,), features=("pooled",), epochs=1, batch_size=256)
        many = replace(one, lrs=tuple(0.001 * 2**i for i in range(12)))

        def train(preset) -> float:
            rows = source.select(np.arange(options.images - (options.images // 10 if len(preset.lrs) == 1 else 0)))
            return timed(lambda: linear_sgd(encoder, rows, test, classes=10, preset=preset))

        train(one)
        ratios = [train(many) / train(one) for _ in range(options.repeats)]
    return (
        f"linear probe on {options.encoder}, 12 heads beside 1, the held-out tenth scored too: "
        f"{statistics.median(ratios):.2f} x the time (median of {options.repeats} pairs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("knn")
    first.add_argument("--queries", type=int, default=50_000)
    first.add_argument("--bank", type=int, default=200_000)
    first.add_argument("--width", type=int, default=384)
    first.add_argument("--sample", type=int, default=2048, help="queries of each paired run")
    second = verbs.add_parser("linear")
    second.add_argument("--encoder", default="swin_mini")
    second.add_argument("--images", type=int, default=2560)
    for verb in (first, second):
        verb.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    note({"knn": knn, "linear": linear}[options.verb](options))


if __name__ == "__main__":
    main()
