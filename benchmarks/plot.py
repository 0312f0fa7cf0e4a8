"""The picture of the README: python benchmarks/plot.py RESULT.json… --out docs/images/learning.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

OF = {
    "random-init": ("random weights", "#9aa4af"),
    "run": ("after MoBY", "#2f6fde"),
    "raw-input": ("raw pixels", "#3a9d6b"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = [json.loads(path.read_text()) for path in options.results]
    figure, axes = plt.subplots(1, len(results), figsize=(4.2 * len(results), 2.8), sharey=True, squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        protocols = list(result["over_random_init"])
        for place, (of, (title, colour)) in enumerate(OF.items()):
            for at, protocol in enumerate(protocols):
                name = f"{of}/{protocol}"
                values = [100 * seed["scores"][name] for seed in result["seeds"] if name in seed["scores"]]
                if not values:
                    continue
                x = at + (place - 1) * 0.27
                axis.bar(x, np.mean(values), 0.25, color=colour, label=title if at == 0 else None)
                axis.plot([x] * len(values), values, "o", color="black", markersize=2.5)
        axis.set_xticks(range(len(protocols)), [{"knn": "20-NN", "linear": "linear"}.get(p, p) for p in protocols])
        axis.set_title(f"{result['encoder']}, {len(result['seeds'])} seeds", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("CIFAR-10 accuracy, %")
    axes[0][0].set_ylim(0, 50)
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
