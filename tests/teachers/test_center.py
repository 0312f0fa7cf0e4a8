import math

import torch

from tacit.teachers import Center, TaughtHead


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_one_update_is_a_tenth_of_the_mean_and_two_are_the_formula():
    center = Center(7)
    assert torch.equal(center.center, torch.zeros(1, 7))
    first, second = wave(4, 7, phase=1), wave(4, 7, phase=3) + 2
    center.update(first)
    torch.testing.assert_close(center.center, 0.1 * first.mean(0, keepdim=True))
    center.update(second)
    torch.testing.assert_close(center.center, 0.09 * first.mean(0, keepdim=True) + 0.1 * second.mean(0, keepdim=True))


def test_the_golden_values_of_the_official_centers():
    views, regions = Center(7), Center(7)
    views.update(wave(4, 7, phase=1.0).chunk(2))
    regions.update([x.view(2, 4, 7) for x in wave(16, 7, phase=0.2).chunk(2)])
    of_views = [[3.2988e-05, 7.3661e-02, -1.9015e-02, -6.8761e-02, 3.6733e-02, 5.9295e-02, -5.2013e-02]]
    of_regions = [[-0.0155, 0.0007, 0.0153, -0.0046, -0.0141, 0.0083, 0.0120]]
    torch.testing.assert_close(views.center, torch.tensor(of_views), atol=1e-6, rtol=0)
    torch.testing.assert_close(regions.center, torch.tensor(of_regions), atol=5.1e-5, rtol=0)


def test_parts_of_other_lengths_count_by_their_rows():
    center = Center(3, momentum=0.0)
    center.update([torch.zeros(1, 3), torch.ones(3, 3)])
    torch.testing.assert_close(center.center, torch.full((1, 3), 0.75))


def test_it_stays_float32_without_gradient_and_is_in_the_state():
    center = Center(3)
    center.update(wave(4, 3).bfloat16().requires_grad_())
    assert center.center.dtype == torch.float32
    assert not center.center.requires_grad
    other = Center(3)
    other.load_state_dict(center.state_dict())
    assert torch.equal(other.center, center.center)


def test_a_taught_head_follows_after_the_step():
    torch.manual_seed(0)
    head = TaughtHead(torch.nn.Linear(3, 4), 4, center_momentum=0.5)
    before = head.teacher.weight.clone()
    assert not head.teacher.weight.requires_grad
    assert torch.equal(before, head.student.weight)
    with torch.no_grad():
        head.student.weight.add_(1.0)
    logits = [torch.randn(2, 5, 4), torch.randn(2, 5, 4)]
    head.follow(logits, 0.9)
    torch.testing.assert_close(head.teacher.weight, before + 0.1)
    torch.testing.assert_close(head.center, 0.5 * torch.cat(logits).mean((0, 1))[None])
