import copy
import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from tacit.engine.optim import clip, clip_each, decays, learning_rate, optimiser, weight_decay
from tacit.engine.recipe import Recipe, problems
from tacit.engine.schedules import Progress, by_epoch, cosine, linear, warmup_cosine

PUBLISHED = Recipe(batch_size=512, lr_cosine="from_zero")
STEPS, EPOCH = 750_600, 2502


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 5e-7), (6255, 5.0025e-4), (12509, 9.99920e-4), (12510, 9.99318e-4), (375300, 5.025e-4), (750600, 5e-6)],
)
def test_the_absolute_cosine_of_the_swin_family(step, rate):
    assert learning_rate(PUBLISHED, step, STEPS, EPOCH) == pytest.approx(rate, rel=5e-6)


def test_the_rates_scale_with_the_batch():
    for step in (0, 3000, 20_000, 750_600):
        assert learning_rate(Recipe(batch_size=128, lr_cosine="from_zero"), step, STEPS, EPOCH) == pytest.approx(
            learning_rate(PUBLISHED, step, STEPS, EPOCH) / 4
        )


def test_a_lag_uses_the_rate_of_the_step_before():
    late = Recipe(batch_size=512, lr_cosine="from_zero", lr_lag=1)
    rates = [learning_rate(late, step, STEPS, EPOCH) for step in range(4)]
    assert rates == [learning_rate(PUBLISHED, max(step - 1, 0), STEPS, EPOCH) for step in range(4)]
    assert rates[0] == rates[1]


def test_the_plain_cosine_starts_where_the_warm_up_ends():
    values = [warmup_cosine(s, 100, warmup=10, base=1.0, start=0.0, end=0.1) for s in range(101)]
    assert values[10] == 1.0
    assert values[5] == 0.5
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert all(b <= a for a, b in pairwise(values[10:]))


def test_a_quarter_of_a_cosine_is_flat_where_it_begins():
    values = [warmup_cosine(s, 110, warmup=10, base=1.0, start=0.0, end=0.5, quarter=True) for s in range(112)]
    assert values[5] == 0.5
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert values[110] == values[111] == 0.5
    falls = [a - b for a, b in pairwise(values[10:111])]
    assert all(b > a > 0 for a, b in pairwise(falls))
    quarter = Recipe(lr_cosine="quarter", lr_warmup=0.0, lr_end=5e-4, warmup_epochs=1.0)
    assert learning_rate(quarter, 60, 110, 10) == pytest.approx(5e-4 + 5e-4 * 0.5**0.5)


def test_a_run_shorter_than_its_warm_up_still_has_a_schedule():
    rates = [learning_rate(Recipe(), step, 3, 10) for step in range(4)]
    assert all(rate >= 0 for rate in rates)
    assert cosine(5, 3, 1.0, 0.0) == 0.0


def test_progress_counts_epochs_in_parts():
    assert Progress(step=15, steps=100, steps_per_epoch=10).epoch == 1.5


def test_what_is_decayed():
    matrix, vector, table = torch.zeros(2, 2), torch.zeros(2), torch.zeros(9, 3)
    assert decays("blocks.0.mlp.fc1.weight", matrix, positions=False)
    assert not decays("norm.weight", vector, positions=True)
    assert not decays("head.bias", matrix, positions=True)
    assert decays("layers.0.attn.relative_position_bias_table", table, positions=True)
    assert not decays("layers.0.attn.relative_position_bias_table", table, positions=False)
    assert not decays("trunk.pos_embed", torch.zeros(1, 5, 3), positions=False)


def test_the_groups_hold_every_trained_parameter_once():
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    net[2].requires_grad_(False)
    groups = optimiser(net, Recipe()).param_groups
    assert [len(g["params"]) for g in groups] == [1, 3]
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]


def test_a_batch_that_cannot_be_split_is_refused_with_the_arithmetic():
    (problem,) = [p for p in problems(Recipe(batch_size=100, accumulate=3), ranks=2) if "batch_size" in p]
    assert "2 devices x 3 micro-batches = 6" in problem
    assert "100 % 6 = 4" in problem
    assert "96 or 102" in problem


DINO = Recipe(
    batch_size=512, lr=5e-4, lr_batch=256, lr_scaling="linear_peak", lr_warmup=0.0, lr_end=1e-6, warmup_epochs=10,
    warmup_inclusive=True, weight_decay=0.04, weight_decay_end=0.4,
)  # fmt: skip


def test_dinos_warm_up_ends_a_step_early_and_its_weight_decay_rises():
    rates = [learning_rate(DINO, step, 250_200, 2502) for step in (0, 25_019, 25_020, 250_200)]
    assert rates == pytest.approx([0.0, 1e-3, 1e-3, 1e-6])
    assert weight_decay(DINO, 0, 250_200) == pytest.approx(0.04)
    assert weight_decay(DINO, 125_100, 250_200) == pytest.approx(0.22)
    assert weight_decay(Recipe(), 7, 10) == 0.05


def test_moco_v3s_rates():
    s = Recipe(batch_size=4096, lr=1.5e-4, lr_batch=256, lr_warmup=0.0, lr_end=0.0, warmup_epochs=40)
    rates = [learning_rate(s, epoch * 312, 300 * 312, 312) for epoch in (0, 20, 40, 170, 300)]
    assert rates == pytest.approx([0, 0.0012, 0.0024, 0.0012, 0], abs=1e-12)


def test_moco_v2s_rate_stays_for_an_epoch():
    s = Recipe(batch_size=256, lr=0.03, lr_batch=256, lr_warmup=0.0, lr_end=0.0, warmup_epochs=0, lr_cosine="by_epoch")
    rates = [learning_rate(s, step, 2000, 10) for step in (0, 9, 10, 1000, 1009)]
    assert rates[0] == rates[1] == 0.03
    assert rates[2] == pytest.approx(0.015 * (1 + np.cos(np.pi / 200)))
    assert rates[3] == rates[4] == pytest.approx(0.015)


def test_rates_by_the_root_of_the_batch():
    s = Recipe(batch_size=4096, lr=0.1, lr_batch=1, lr_scaling="sqrt", lr_warmup=0.0, lr_end=0.0, warmup_epochs=0)
    assert learning_rate(s, 0, 100, 10) == pytest.approx(6.4)


def test_each_tensor_is_clipped_by_its_own_norm():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.zeros(2)]
    clip_each(gradients, torch._foreach_norm(gradients), 3.0)
    assert gradients[0].norm().item() == pytest.approx(3.0)
    assert gradients[1].tolist() == pytest.approx([0.3, 0.4])
    assert gradients[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"clip": None}, [6.0, 8.0]),
        ({"clip": 5.0}, [3.0, 4.0]),
        ({"clip": 20.0}, [6.0, 8.0]),
        ({"clip": 5.0, "clip_by": "part"}, [5.0, 5.0]),
        ({"clip": 7.0, "clip_by": "tensor"}, [6.0, 7.0]),
    ],
)
def test_what_is_clipped_is_what_the_recipe_says(changes, left):
    gradients = [torch.tensor([6.0]), torch.tensor([8.0])]
    clip(Recipe(**changes), ["encoder.a", "head.b"], gradients, torch._foreach_norm(gradients), [6.0, 8.0])
    assert torch.cat(gradients).tolist() == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "lars_lr_inside", "larc"])
def test_every_optimiser_lowers_a_loss(name):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1)), torch.randn(16, 4)
    solver = optimiser(net, Recipe(optimizer=name, weight_decay=1e-4, trust=0.1))
    losses = []
    for _ in range(30):
        for group in solver.param_groups:
            group["lr"] = 0.05
        loss = (net(x) - 1).square().mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [group["decayed"] for group in solver.param_groups] == [True, False]


def test_vectors_are_decayed_only_where_asked():
    net = nn.Linear(4, 2)
    assert len(optimiser(net, Recipe(decay_vectors=True)).param_groups) == 1
    assert len(optimiser(net, Recipe()).param_groups) == 2


def test_by_epoch_is_a_staircase_that_reaches_its_end():
    at = [by_epoch(epoch, 0.04, 0.07, 4) for epoch in (0, 0.9, 1, 2.5, 3, 4, 100)]
    assert at == pytest.approx([0.04, 0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert by_epoch(0, 0.04, 0.07, 0) == 0.07


def test_linear_rises_step_by_step():
    assert [linear(e, 0.04, 0.07, 30) for e in (0, 15, 30, 31)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert linear(0, 0.04, 0.07, 0) == 0.07


def test_the_peak_alone_grows_by_the_root_of_the_batch():
    s = Recipe(batch_size=4096, lr=0.1, lr_batch=1024, lr_scaling="sqrt_peak", lr_warmup=0.0, lr_end=1e-6)
    assert learning_rate(s, 50, 100, 10) == pytest.approx(0.2)
    assert learning_rate(s, 100, 100, 10) == pytest.approx(1e-6)
    assert problems(dataclasses.replace(s, lr=6e-7)) == []
    assert any("lr = " in p for p in problems(dataclasses.replace(s, lr=4e-7)))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_optimisers_take_the_plain_ones_steps(name, layout):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(72, 4)).to(
        memory_format=layout
    )
    nets = [plain, copy.deepcopy(plain)]
    solvers = [
        optimiser(net, Recipe(optimizer=name), fused=fused) for net, fused in zip(nets, (False, True), strict=True)
    ]
    for _ in range(4):
        x = torch.randn(6, 3, 5, 5)
        for net, solver in zip(nets, solvers, strict=True):
            for group in solver.param_groups:
                group["lr"] = 0.01
            solver.zero_grad()
            net(x).square().mean().backward()
            solver.step()
    assert solvers[1].param_groups[0]["fused"]
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
