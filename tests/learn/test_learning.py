"""The slow tests of `make learn`: on real images, a method's encoder beats the one it started as, over three seeds."""

import numpy as np
import pytest

import tacit
from tacit.encoders import lacking
from tacit.evaluation import difference
from tacit.methods import METHODS, find
from tests.conftest import write_digits

SEEDS = (0, 1, 2)
ELSEWHERE = {"tov_vicreg", "simclr_v2_distil"}  # they need episodes and a teacher: see benchmarks/{order,stages}.py
RUNS = [
    (method, encoder)
    for method in METHODS
    if method not in ELSEWHERE
    for encoder in ("swin_mini", "vit_mini")
    if not lacking(encoder, find(method).needs, 32)
]


@pytest.mark.learn
@pytest.mark.parametrize(("method", "encoder"), RUNS)
def test_pre_training_beats_random_weights_on_digits(method, encoder, tmp_path):
    data = write_digits(tmp_path / "digits", 1797, size=28)
    gains = []
    for seed in SEEDS:
        run = tacit.pretrain(
            method, data, tmp_path / f"run-{seed}", preset="small", encoder=encoder, epochs=6, seed=seed, quiet=True,
            set=["check_every=0"],
        )  # fmt: skip
        scores = {
            (r["of"], r["protocol"]): r["value"]
            for r in tacit.evaluate(run, data, protocol="few_shot,knn", seed=seed)["results"]
        }
        gains.append([scores["run", p] - scores["random-init", p] for p in ("few_shot", "knn")])
    for protocol, values in zip(("few_shot", "knn"), np.array(gains).T, strict=True):
        mean, low, high = difference(values, np.zeros(len(SEEDS)))
        print(f"{method} {encoder} {protocol}: {100 * mean:+.1f} points ({100 * low:.1f} to {100 * high:.1f})")
    assert difference(np.array(gains)[:, 0], np.zeros(len(SEEDS)))[1] > 0
