from itertools import pairwise

import pytest
import torch
from torch import nn

from tacit.engine.optim import adamw, decays, learning_rate
from tacit.engine.recipe import Recipe, problems
from tacit.engine.schedules import Progress, cosine, warmup_cosine

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
    groups = adamw(net, Recipe()).param_groups
    assert [len(g["params"]) for g in groups] == [1, 3]
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]


def test_a_batch_that_cannot_be_split_is_refused_with_the_arithmetic():
    (problem,) = [p for p in problems(Recipe(batch_size=100, accumulate=3), ranks=2) if "batch_size" in p]
    assert "2 devices x 3 micro-batches = 6" in problem
    assert "100 % 6 = 4" in problem
    assert "96 or 102" in problem
