"""KoLeo by closed forms and the official code's numbers."""

import math

import pytest
import torch

from tacit.objectives import koleo


def test_closed_forms():
    assert koleo(torch.eye(2)).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)  # -.3466
    assert koleo(3 * torch.eye(2)).item() == pytest.approx(-0.3466, abs=1e-4)  # lengths do not count
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = koleo(same)
    assert loss.item() == pytest.approx(-math.log(1e-8 * (math.sqrt(2) + 1)), rel=1e-5)
    assert loss.item() == pytest.approx(17.54, abs=0.01)
    loss.backward()
    assert torch.isfinite(same.grad).all()


def test_the_golden_value_and_gradient_of_the_official_loss():
    x = torch.sin(1.1 * torch.arange(30, dtype=torch.float32)).view(6, 5).requires_grad_(True)
    loss = koleo(x)
    loss.backward()
    assert loss.item() == pytest.approx(0.27526000142097473, rel=1e-5)
    assert x.grad.norm().item() == pytest.approx(0.2807440459728241, rel=1e-4)
    expected = [-0.07107415795326233, -0.022207044064998627, 0.05092807859182358, 0.06840862333774567, 0.01113166287]
    assert x.grad[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_both_ends_of_a_distance():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    for row in range(2):  # each is the other's nearest
        moved = x.clone()
        moved.requires_grad_(True)
        (-(torch.nn.functional.normalize(moved)[0] - torch.nn.functional.normalize(moved)[1]).norm().log()).backward()
        assert moved.grad[row].abs().sum() > 0
        moved.grad = None
        koleo(moved).backward()
        assert moved.grad[row].abs().sum() > 0
    assert koleo(x[:1]).item() == 0.0
