import math

import pytest
import torch
from torch import Tensor

from tacit.objectives import across_regions, across_views, best_match, region_cross_entropy, sharpen, soft_cross_entropy


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_it_recovers_a_permutation_and_looks_within_the_image():
    features = torch.eye(6).expand(2, 6, 6)
    orders = torch.tensor([[3, 1, 5, 0, 2, 4], [0, 2, 4, 1, 3, 5]])
    student = features.take_along_dim(orders[..., None], dim=1)
    assert torch.equal(best_match(7 * student, features), orders)  # the length does not matter


def test_several_regions_may_share_one():
    student = torch.tensor([[[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]])
    assert best_match(student, torch.tensor([[[2.0, 0.0], [0.0, 0.5]]])).tolist() == [[0, 0, 1]]


def test_the_slow_loop_agrees():
    targets, logits = sharpen(wave(2, 4, 5), 0.1), wave(2, 3, 5, phase=1)
    index = torch.tensor([[0, 3, 3], [2, 1, 0]])
    total = 0.0
    for b in range(2):
        for r in range(3):
            log_q = (logits[b, r] / 0.2).log_softmax(0)
            total -= float((targets[b, index[b, r]] * log_q).sum())
    assert region_cross_entropy(targets, logits, index, 0.2).item() == pytest.approx(total / 6, rel=1e-5)


def test_the_order_of_the_teachers_regions_does_not_matter():
    zs, zt, targets, logits = wave(2, 3, 8), wave(2, 5, 8, phase=1), sharpen(wave(2, 5, 6), 0.1), wave(2, 3, 6, phase=2)
    value = region_cross_entropy(targets, logits, best_match(zs, zt), 0.1)
    order = torch.tensor([4, 2, 0, 1, 3])
    again = region_cross_entropy(targets[:, order], logits, best_match(zs, zt[:, order]), 0.1)
    torch.testing.assert_close(again, value)


def test_with_one_region_it_is_the_loss_of_the_views():
    targets, logits = sharpen(wave(4, 1, 6), 0.1), wave(4, 1, 6, phase=2)
    index = best_match(wave(4, 1, 3), wave(4, 1, 3, phase=1))
    expected = soft_cross_entropy(targets[:, 0], logits[:, 0], 0.1)
    torch.testing.assert_close(region_cross_entropy(targets, logits, index, 0.1), expected)


def test_the_golden_value_of_the_official_esvit_loss():
    regions = [4, 4, 2, 2, 2]  # two large views, three small ones, of two images
    view_logits = wave(10, 7, phase=0.5).chunk(5)
    sizes = [2 * t for t in regions]
    logits = [x.view(2, -1, 7) for x in wave(28, 7, phase=0.3).split(sizes)]
    features = [x.view(2, -1, 6) for x in wave(28, 6, phase=0.7).split(sizes)]
    view_targets = sharpen(wave(4, 7, phase=1.0), 0.04).chunk(2)
    targets = [x.view(2, 4, 7) for x in sharpen(wave(16, 7, phase=0.2), 0.04).chunk(2)]
    teachers = [x.view(2, 4, 6) for x in wave(16, 6, phase=0.9).chunk(2)]
    found = across_regions(targets, teachers, logits, features, 0.1)
    value = 0.5 * across_views(view_targets, view_logits, 0.1) + 0.5 * found
    assert value.item() == pytest.approx(10.463187217712402, rel=1e-6)


@pytest.mark.parametrize("given", [1, 2])
def test_over_pairs_it_is_the_mean_of_the_pairs(given):
    counts = [4, 4, 2, 1]
    logits, students = ([wave(3, n, d, phase=d + n) for n in counts] for d in (5, 6))
    targets = [sharpen(wave(3, 4, 5, phase=i), 0.1) for i in range(given)]
    teachers = [wave(3, 4, 6, phase=2 + i) for i in range(given)]
    found = [
        region_cross_entropy(targets[i], logits[v], best_match(students[v], teachers[i]), 0.1)
        for i in range(given)
        for v in range(4)
        if v != i
    ]
    assert len(found) == given * 3
    torch.testing.assert_close(across_regions(targets, teachers, logits, students, 0.1), sum(found) / len(found))


def test_no_gradient_reaches_features_or_targets():
    zs, zt = wave(2, 3, 8).requires_grad_(), wave(2, 5, 8, phase=1).requires_grad_()
    targets, logits = wave(2, 5, 6).softmax(-1).requires_grad_(), wave(2, 3, 6).requires_grad_()
    region_cross_entropy(targets, logits, best_match(zs, zt), 0.1).backward()
    assert logits.grad.abs().sum() > 0
    assert zs.grad is zt.grad is targets.grad is None
    across_regions([targets, targets], [zt, zt], [logits, logits], [zs, zs], 0.1).backward()
    assert zs.grad is zt.grad is targets.grad is None


def test_regions_of_mixed_images_are_matched_with_both():
    g = torch.Generator().manual_seed(0)
    targets, teachers = [torch.randn(4, 5, 6, generator=g).softmax(-1)], [torch.randn(4, 5, 3, generator=g)]
    logits, students = ([torch.randn(4, 2, d, generator=g).requires_grad_() for _ in range(2)] for d in (6, 3))
    shares = [0.5, 0.2]
    loss = across_regions(targets, teachers, logits, students, 0.1, shares)
    expected = 0.0
    for b in range(4):
        for r in range(2):
            q = (logits[1][b, r] / 0.1).log_softmax(-1)
            for image, weight in ((b, 0.2), (3 - b, 0.8)):
                j = torch.cosine_similarity(students[1][b, r][None], teachers[0][image], dim=1).argmax()
                expected = expected - weight * (targets[0][image, j] * q).sum() / 8
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits[1].grad.abs().sum() > 0
    assert all(x.grad is None for x in (*students, logits[0]))
    plain = across_regions(targets, teachers, logits, students, 0.1)
    assert torch.equal(across_regions(targets, teachers, logits, students, 0.1, [1.0, 1.0]), plain)
