"""Fine-tuning from the middle of a run's projection head, and over several seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import tacit
from tacit import encoders, evaluation, methods
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.neck import drawn_afresh, first_blocks
from tacit.heads import mlp


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    return tacit.pretrain(
        "moby", digits, tmp_path_factory.mktemp("neck") / "moby", preset="small", encoder="vit_mini", batch_size=16,
        steps=2, workers=0, quiet=True,
        set=["size=16", "patch=8", "hidden=24", "out=16", "queue_size=64", "projector_layers=3"],
    )  # fmt: skip


def test_a_head_is_cut_after_its_activations():
    head = mlp(8, 12, 4, 3).eval()
    x = torch.randn(5, 8)
    one, width = first_blocks(head, 1)
    assert (len(one), width) == (3, 12)
    expected = torch.relu(head[1](head[0](x)))
    assert torch.equal(one(x), expected)
    two, width = first_blocks(head, 2)
    assert (len(two), width) == (6, 12)
    assert torch.equal(two(x), torch.relu(head[4](head[3](expected))))
    assert (two(x) >= 0).all()
    bare, width = first_blocks(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), 1)
    assert (len(bare), width) == (2, 6)
    one[0].weight.data.zero_()
    assert head[0].weight.abs().sum() > 0


def test_heads_that_cannot_be_cut_are_refused():
    with pytest.raises(UsageError, match=r"has 2 layers with an activation\. Take neck=2 or less"):
        first_blocks(mlp(8, 12, 4, 3), 3)
    with pytest.raises(UsageError, match=r"has 0 layers with an activation\. Leave neck out"):
        first_blocks(mlp(8, 12, 4, 1), 1)
    with pytest.raises(UsageError, match="comes without one"):
        first_blocks(None, 1)
    with pytest.raises(UsageError, match="plain sequence of layers; this one is a Linear"):
        first_blocks(nn.Linear(3, 3), 1)


def test_a_fresh_neck_has_other_weights_and_has_seen_nothing():
    head = mlp(8, 12, 4, 2)
    head.train()(torch.randn(50, 8) + 3)
    fresh, again = drawn_afresh(head, 5), drawn_afresh(head, 5)
    before = torch.get_rng_state()
    assert torch.equal(fresh[0].weight, again[0].weight)
    assert not torch.equal(fresh[0].weight, head[0].weight)
    assert fresh[1].running_mean.abs().sum() == 0 < head[1].running_mean.abs().sum()
    drawn_afresh(head, 6)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_is_fine_tuned_from_the_middle_of_its_head(trained, digits, monkeypatch):
    seen = []
    whole = evaluation.standard.fine_tune
    monkeypatch.setattr(evaluation.standard, "fine_tune", lambda *a, **k: seen.append(k) or whole(*a, **k))
    result = tacit.evaluate(trained, digits, protocol="fine_tune:neck=2:epochs=1:batch_size=32", workers=0)
    rows = result["results"]
    assert [(r["of"], r["settings"]["neck"]) for r in rows] == [("run", 2), ("random-init", 2)]
    state = torch.load(trained.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    ours, fresh = (k["neck"].state_dict() for k in seen)
    assert list(ours) == list(fresh) == [k for k in ours if int(k.split(".")[0]) < 6]
    for name, value in ours.items():
        assert torch.equal(value, state[f"method.projector.{name}"])
    assert not torch.equal(ours["0.weight"], fresh["0.weight"])
    assert int(ours["1.num_batches_tracked"]) > 0 == int(fresh["1.num_batches_tracked"])
    assert [k["neck_width"] for k in seen] == [24, 24]


def test_what_has_no_such_head_is_said_before_anything_is_computed(trained, digits, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="has 2 layers with an activation"):
        tacit.evaluate(trained, digits, protocol="fine_tune:neck=3")
    for what in (trained.encoder, "vit_mini:random"):
        with pytest.raises(UsageError, match=r"this encoder comes without one\. Give the folder of a run"):
            tacit.evaluate(what, digits, protocol="fine_tune:neck=1")

    class Headless(methods.find("moby")):
        title = "Headless"

        def __init__(self, s):
            super().__init__(s)
            del self.projector

    with monkeypatch.context() as patch:
        patch.setattr(methods, "find", lambda name: Headless)
        with pytest.raises(UsageError, match="Headless has no projection head"):
            tacit.evaluate(trained, digits, protocol="fine_tune:neck=1")
    bare = tmp_path / "bare"
    encoders.save(encoders.load(trained.path), bare / "encoder")
    (bare / "settings.yaml").write_text(yaml.safe_dump(trained.settings))
    with pytest.raises(DataError, match=r"last\.ckpt, which holds the run's projection head, cannot be read"):
        tacit.evaluate(bare, digits, protocol="fine_tune:neck=1")


@pytest.mark.parametrize("spec", ["fine_tune:epochs=1:batch_size=32", "linear_sgd:epochs=1:batch_size=32"])
def test_several_seeds_are_averaged_with_students_interval(spec, digits):
    torch.manual_seed(0)
    encoder, data = encoders.build("vit_mini", size=16, patch=8, depth=1), open_source(digits)
    test, data = data.select(np.arange(0, 200, 4)), data.select(np.arange(1, 200, 2))

    def of(spec, seed=0):
        return evaluation.evaluate(encoder, data, test, [spec], seed=seed)["results"]

    alone = [of(spec, seed) for seed in range(2)]
    several = of(f"{spec}:seeds=2")
    for i, row in enumerate(several):
        values = np.array([one[i]["value"] for one in alone])
        if row["of"] == "run" or spec.startswith("fine_tune"):  # the probe's random encoder stays the same one
            assert row["value"] == pytest.approx(values.mean(), abs=1e-6)
            assert (row["low"], row["high"]) == pytest.approx(intervals.over_draws(values), abs=1e-6)
        assert (row["settings"]["seeds"], row["settings"]["interval_over"], row["n"]) == (2, "seeds", 50)
    assert "seeds" not in alone[0][0]["settings"]
