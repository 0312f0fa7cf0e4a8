"""The papers' linear probes: rates, heads side by side, and an encoder that is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tacit import encoders, evaluation
from tacit.data import open_source
from tacit.errors import RunFailed
from tacit.evaluation.linear_sgd import PRESETS, Heads, Preset, linear_sgd, rate, usable


@pytest.fixture(scope="module")
def encoder() -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, patch=8, drop_path=0.2)


@pytest.mark.parametrize(("step", "expected"), [(0, 5e-7), (500, 1.0), (5000, 0.5 * (1 + 5e-6)), (10000, 5e-6)])
def test_mobys_rates(step, expected):
    p = PRESETS["moby"]
    assert rate(p, 1.0, step, 10_000, 100, 512) == pytest.approx(expected, rel=7e-3)
    assert rate(p, 1.0, step, 10_000, 100, 128) == pytest.approx(rate(p, 1.0, step, 10_000, 100, 512) / 4)


def test_dinos_and_moco_v3s_rates_move_once_an_epoch():
    for name, lr, batch in (("dino", 1e-3, 1024), ("moco_v3", 3.0, 1024)):
        p = PRESETS[name]
        steps = p.epochs * 10
        assert rate(p, lr, 0, steps, 10, batch) == rate(p, lr, 9, steps, 10, batch) == pytest.approx(lr * 4)
        assert rate(p, lr, steps // 2, steps, 10, batch) == pytest.approx(lr * 2)
        assert rate(p, lr, 10, steps, 10, batch) < lr * 4


def test_heads_side_by_side_are_each_what_it_is_alone():
    torch.manual_seed(0)
    data = [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(12)]
    p = Preset(lrs=(0.1, 0.02, 0.5), lr_batch=16, epochs=3, clip=0.3)

    def train(lrs):
        torch.manual_seed(1)
        heads = Heads(6, 3, len(lrs), p)
        solver = torch.optim.SGD(heads.parameters(), lr=0, momentum=0.9)
        for step, (x, y) in enumerate(data):
            solver.param_groups[0]["lr"] = rate(p, lrs[0], step, 12, 4, 16)
            loss = sum(torch.nn.functional.cross_entropy(heads(x)[:, h], y) for h in range(len(lrs)))
            solver.zero_grad()
            loss.backward()
            heads.shape_gradients(torch.tensor([lr / lrs[0] for lr in lrs]), p.clip)
            solver.step()
        return heads.weight.detach().unflatten(0, (len(lrs), 3))

    together = train(p.lrs)
    for h, lr in enumerate(p.lrs):
        torch.testing.assert_close(together[h], train((lr,))[0])
    assert not torch.allclose(together[0], together[2])


def test_the_probe_leaves_the_encoder_alone_and_learns(encoder, digits):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    source = open_source(digits)
    found = evaluation.features(encoder, source)
    p = replace(PRESETS["moby"], epochs=12, batch_size=64)
    probe = linear_sgd(encoder, source, found.more, classes=10, preset=p)
    assert not encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert (probe.predicted == found.y).float().mean() > 0.3
    assert (probe.feature, probe.lr, probe.grid) == ("pooled", 1.0, {})


def test_the_best_head_on_held_out_records_speaks(encoder, digits):
    source = open_source(digits)
    names = ("pooled", "cls_mean")
    found = evaluation.features(encoder, source, names=names)
    p = Preset(lrs=(1e-6, 0.5), lr_batch=64, epochs=10, batch_size=60, features=names)
    probe = linear_sgd(encoder, source, found.more, classes=10, preset=p)
    assert len(probe.grid) == 4
    assert probe.lr == 0.5
    assert probe.grid[f"{probe.feature}, 0.5"] == max(probe.grid.values())
    assert (probe.predicted == found.y).float().mean() > 0.3


def test_an_encoder_that_changes_is_called_out(encoder, digits, monkeypatch):
    def forward(x):
        with torch.no_grad():
            encoder.trunk.norm.weight.add_(1e-3)
        return type(encoder).forward(encoder, x)

    monkeypatch.setattr(encoder, "forward", forward)
    source = open_source(digits)
    p = Preset(lrs=(0.1,), epochs=1, batch_size=64)
    kept = encoder.trunk.norm.weight.clone()
    with pytest.raises(RunFailed, match="changed the encoder"):
        linear_sgd(encoder, source, {"pooled": torch.zeros(1, encoder.width)}, classes=10, preset=p)
    encoder.trunk.norm.weight.data.copy_(kept)


def test_features_an_encoder_lacks_are_left_out_of_the_grid(encoder):
    swin = encoders.build("swin_mini", size=32)
    assert usable(encoder, PRESETS["dinov2"].features) == ("pooled", "cls_mean", "last4", "last4_mean")
    assert "cls_mean" not in usable(swin, PRESETS["dinov2"].features)
    assert usable(swin, ("cls",)) == ("pooled",)
