import math

import pytest
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.objectives import across_views, sharpen, soft_cross_entropy


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    """The same numbers on every machine."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_hand_computed_case():
    targets = sharpen(torch.tensor([[0.2, 0, -0.1]]), 0.04, torch.tensor([[0.1, 0, 0]]))
    torch.testing.assert_close(targets, torch.tensor([[0.918423, 0.075389, 0.006188]]), atol=1e-6, rtol=0)
    value = soft_cross_entropy(targets, torch.tensor([[0.1, 0, -0.2]]), 0.1).item()
    assert value == pytest.approx(0.442966, abs=1e-6)


def test_a_uniform_student_costs_the_log_of_the_prototypes_whatever_the_teacher():
    targets = sharpen(wave(2, 65536), 0.04)
    assert soft_cross_entropy(targets, torch.full((2, 65536), 3.0), 0.1).item() == pytest.approx(11.090355, abs=5e-5)


def test_the_golden_value_of_the_official_dino_loss():
    center = wave(1, 7, phase=2.0) * 0.1
    targets = sharpen(wave(6, 7, phase=1.0), 0.04, center).chunk(2)
    value = across_views(targets, wave(15, 7, phase=0.5).chunk(5), 0.1).item()
    assert value == pytest.approx(10.281447410583496, rel=1e-6)


def pairs(targets: list[Tensor], logits: list[Tensor]) -> list[float]:
    return [float(soft_cross_entropy(p, s, 0.1)) for i, p in enumerate(targets) for v, s in enumerate(logits) if v != i]


@pytest.mark.parametrize(("given", "views"), [(1, 2), (2, 2), (2, 8), (3, 5)])
def test_it_is_the_mean_over_all_pairs(given: int, views: int):
    targets = [sharpen(wave(4, 9, phase=i), 0.05) for i in range(given)]
    logits = [wave(4, 9, phase=10 + v) for v in range(views)]
    found = pairs(targets, logits)
    assert len(found) == given * views - given
    assert across_views(targets, logits, 0.1).item() == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_swavs_double_sum_is_the_same_mean():
    targets = [sharpen(wave(4, 9, phase=i), 0.05) for i in range(2)]
    logits = [wave(4, 9, phase=10 + v) for v in range(8)]
    found = pairs(targets, logits)
    double = (sum(found[:7]) / 7 + sum(found[7:]) / 7) / 2
    assert across_views(targets, logits, 0.1).item() == pytest.approx(double, rel=1e-5)


def test_what_leaves_the_loss_unchanged():
    raw, shift, center = [wave(4, 9, phase=i) for i in range(2)], wave(1, 9, phase=7), wave(1, 9, phase=8)
    logits = [wave(4, 9, phase=10 + v) for v in range(6)]
    value = across_views([sharpen(t, 0.04, center) for t in raw], logits, 0.1)
    shifted = [sharpen(t + shift, 0.04, center + shift) for t in raw]
    torch.testing.assert_close(across_views(shifted, logits, 0.1), value)
    targets = [sharpen(t, 0.04, center) for t in raw]
    torch.testing.assert_close(across_views(targets, logits[:2] + logits[:1:-1], 0.1), value)
    swapped = across_views(targets[::-1], [logits[1], logits[0], *logits[2:]], 0.1)
    torch.testing.assert_close(swapped, value)
    assert abs(across_views(targets[::-1], logits, 0.1) - value) > 1e-3


def test_gradients_reach_every_students_view_and_no_target():
    teacher = wave(3, 5).requires_grad_()
    assert not sharpen(teacher, 0.04).requires_grad
    targets = [teacher.softmax(1), teacher.softmax(1)]
    logits = [wave(3, 5, phase=v).requires_grad_() for v in range(4)]
    across_views(targets, logits, 0.1).backward()
    assert all(s.grad.abs().sum() > 0 for s in logits)
    assert teacher.grad is None


def test_the_gradient_is_the_difference_of_the_distributions():
    targets, logits = sharpen(wave(3, 5), 0.1), wave(3, 5, phase=1).requires_grad_()
    soft_cross_entropy(targets, logits, 0.2).backward()
    expected = ((logits / 0.2).softmax(1) - targets) / 0.2 / 3
    torch.testing.assert_close(logits.grad, expected.detach())


def test_it_is_float32_inside_an_autocast_region():
    targets, logits = sharpen(wave(3, 5), 0.04), [wave(3, 5, phase=v) for v in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = across_views([targets], logits, 0.1)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, across_views([targets], logits, 0.1), rtol=0, atol=0)
    assert sharpen(wave(3, 5).bfloat16(), 0.04).dtype == torch.float32


@pytest.mark.parametrize(("given", "views"), [(0, 2), (1, 1), (3, 2)])
def test_without_pairs_it_is_refused(given: int, views: int):
    with pytest.raises(UsageError, match=f"{given} targets and {views} views"):
        across_views([sharpen(wave(2, 3), 1)] * given, [wave(2, 3)] * views, 0.1)
