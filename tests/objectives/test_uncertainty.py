"""Learned weights of tasks, against closed forms and the official code."""

import pytest
import torch

from tacit.errors import UsageError
from tacit.objectives import uncertain


def value(loss: float, s: float, *how) -> float:
    return float(uncertain(torch.tensor(loss), torch.tensor(s), *how))


def test_the_published_values_where_every_task_costs_one():
    assert value(1.0, 1.0) == pytest.approx(0.867879, abs=1e-6)
    assert value(1.0, 1.0, "log_variance", 0.5) == pytest.approx(1.106531, abs=1e-6)
    assert value(1.0, 1.0, "deviation") == pytest.approx(1.193147, abs=1e-6)
    assert value(1.0, 1.0, "scaled_log_variance", 0.5) == pytest.approx(0.5 * 0.367879 + 0.5, abs=1e-6)


def test_the_official_code():
    assert value(1.3, 0.7) == pytest.approx(0.995560884, abs=1e-6)
    assert value(0.4, 1.2, "log_variance", 0.5) == pytest.approx(0.819524645, abs=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_weight_moves_where_the_loss_asks(share):
    s = torch.ones((), requires_grad=True)
    uncertain(torch.tensor(3.0), s, share=share).backward()
    assert float(s.grad) == pytest.approx(float(-share * 3 * torch.exp(torch.tensor(-share)) + 0.5), abs=1e-6)


def test_another_form_is_refused():
    with pytest.raises(UsageError, match="log_variance, scaled_log_variance, deviation"):
        value(1.0, 1.0, "variance")
