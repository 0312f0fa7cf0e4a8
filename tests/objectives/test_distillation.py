import math

import pytest
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.objectives import across_views, masked_cross_entropy, sharpen, sinkhorn, soft_cross_entropy


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


def test_hidden_patches_count_by_image_as_in_the_official_ibot_loss():
    mask = torch.zeros(8, 9, dtype=torch.bool)
    mask[0, :3], mask[3, 4:], mask[5, 2] = True, True, True
    teacher, student = (torch.sin(k * torch.arange(72, dtype=torch.float32)).view(9, 8) for k in (1.7, 0.9))
    targets = sinkhorn(teacher, epsilon=0.5)
    value = masked_cross_entropy(targets, student, mask, 0.1)
    assert value.item() == pytest.approx(3.414511203765869, rel=1e-5)
    assert masked_cross_entropy(targets, student, mask.view(8, 3, 3), 0.1).item() == pytest.approx(value.item())
    center = 0.1 * torch.sin(2.1 * torch.arange(8, dtype=torch.float32))[None]
    value = masked_cross_entropy(sharpen(teacher, 0.07, center), student, mask, 0.1)
    assert value.item() == pytest.approx(2.923485279083252, rel=1e-5)
    whole = torch.cat([mask, torch.zeros_like(mask)])  # as many images again, without hidden patches
    assert masked_cross_entropy(targets, student, whole, 0.1).item() == pytest.approx(3.414511203765869 / 2, rel=1e-5)
    none = masked_cross_entropy(targets[:0], student[:0], torch.zeros_like(mask), 0.1)
    assert none.item() == 0.0


def test_the_golden_values_of_dinov2s_image_loss():
    """2 large and 8 small crops: 18 pairs, of which the official code takes 2 and 16 apart."""
    teacher = torch.sin(1.3 * torch.arange(64, dtype=torch.float32)).view(8, 8)
    student = [torch.sin(0.7 * torch.arange(32, dtype=torch.float32) + v).view(4, 8) for v in range(10)]
    targets = sinkhorn(teacher, epsilon=0.5)
    assert targets[0, :3].tolist() == pytest.approx([0.0573907, 0.3211970, 0.1243984], rel=1e-5)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 8)
    assert targets.sum(0).tolist() == pytest.approx([1.0] * 8, abs=0.06)  # B / K each, to three rounds
    assert across_views(targets.chunk(2), student, 0.1).item() == pytest.approx(9.99091625213623, rel=1e-5)
    center = 0.1 * torch.sin(2.1 * torch.arange(8, dtype=torch.float32))[None]
    found = across_views(sharpen(teacher, 0.07, center).chunk(2), student, 0.1)
    assert found.item() == pytest.approx(10.156533241271973, rel=1e-5)
    assert sinkhorn(torch.zeros(4, 8)).unique().tolist() == [0.125]


def test_targets_of_mixed_images_are_mixed_as_they_are():
    """The closed form: weights [B, B] of every image in each mixed one, times all targets."""
    g = torch.Generator().manual_seed(0)
    targets = [torch.randn(5, 7, generator=g).softmax(-1) for _ in range(2)]
    logits = [torch.randn(5, 7, generator=g) for _ in range(3)]
    shares = [0.3, 1.0, 0.75]
    expected = 0.0
    for i, target in enumerate(targets):
        for v, share in enumerate(shares):
            if v != i:
                weights = share * torch.eye(5) + (1 - share) * torch.eye(5).flip(0)
                expected -= (weights @ target * (logits[v] / 0.1).log_softmax(-1)).sum(-1).mean() / 4
    torch.testing.assert_close(across_views(targets, logits, 0.1, shares), expected)
    torch.testing.assert_close(across_views(targets, logits, 0.1, [1.0] * 3), across_views(targets, logits, 0.1))


def test_images_count_alike_however_many_of_their_patches_are_hidden():
    """Cross-entropies 1 and 3 in one image, 5 in the other: (2 + 5) / 2, not 3."""
    logits = torch.tensor([[0.0, -x] for x in (1.0, 3.0, 5.0)])
    costs = [math.log(1 + math.exp(-x)) + x for x in (1.0, 3.0, 5.0)]  # of the second of two
    mask = torch.tensor([[True, True, False], [False, True, False]])
    targets = torch.tensor([[0.0, 1.0]] * 3)
    value = masked_cross_entropy(targets, logits, mask, 1.0).item()
    assert value == pytest.approx(((costs[0] + costs[1]) / 2 + costs[2]) / 2)
    exact = [torch.logit(torch.tensor(math.exp(-x), dtype=torch.float64)) for x in (1.0, 3.0, 5.0)]
    of_one_three_five = torch.stack([torch.stack([torch.zeros(()).double(), x]) for x in exact])
    assert masked_cross_entropy(targets, of_one_three_five, mask, 1.0).item() == pytest.approx(3.5, rel=1e-5)
