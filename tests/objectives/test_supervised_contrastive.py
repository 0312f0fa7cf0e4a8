"""Contrast under labels: closed values, what does not move it, what is mined, and where gradients stop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tacit.objectives import anchors, labelled_nt_xent, multi_similarity, supcon, triplet_margin

EVERY = [
    supcon,
    labelled_nt_xent,
    triplet_margin,
    lambda z, y: triplet_margin(z, y, mining="all"),
    multi_similarity,
    lambda z, y: multi_similarity(z, y, epsilon=None),
]
every_loss = pytest.mark.parametrize("loss", EVERY)


def orthogonal(each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes of `each` identical vectors, at right angles."""
    return torch.eye(2).repeat_interleave(each, 0), torch.tensor([0, 1]).repeat_interleave(each)


def drawn(count: int = 12, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=g), torch.arange(count) % classes


@pytest.mark.parametrize(
    ("each", "of_supcon", "of_nt_xent"),
    [
        (2, math.log(math.e + 2) - 1, math.log(1 + 2 / math.e)),
        (3, math.log(2 * math.e + 3) - 1, math.log(1 + 3 / math.e)),
    ],
)
def test_the_sum_of_supcon_holds_the_other_positives_and_that_of_nt_xent_does_not(each, of_supcon, of_nt_xent):
    z, y = orthogonal(each)
    assert float(supcon(3 * z, y, 1.0)) == pytest.approx(of_supcon, abs=1e-6)
    assert float(labelled_nt_xent(3 * z, y, 1.0)) == pytest.approx(of_nt_xent, abs=1e-6)
    assert (abs(of_supcon - of_nt_xent) < 1e-9) == (each == 2)  # equal with one positive


def test_triplets_of_classes_at_right_angles():
    z, y = orthogonal(2)
    assert float(triplet_margin(z, y, 0.2, "all")) == 0
    wrong = torch.tensor([0, 1, 0, 1])  # the positive at the square root of 2, one negative at 0 and one beside it
    expected = (math.sqrt(2) + 0.2 + 0.2) / 2
    assert float(triplet_margin(z, wrong, 0.2, "all")) == pytest.approx(expected, abs=1e-6)
    assert float(triplet_margin(z[[0, 2, 1]], torch.tensor([0, 0, 1]), 0.2, "all")) == pytest.approx(
        (math.sqrt(2) + 0.2 + 0.2) / 2, abs=1e-6
    )
    assert float(triplet_margin(z, wrong, 0.2, "semi_hard")) == 0  # all are harder than that


def test_semi_hard_triplets_are_those_within_the_margin():
    angles = torch.tensor([0.0, 0.5, 0.6, 2.0])  # anchor, positive, a negative a little farther, one far away
    z, y = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 1, 2])

    def d(i: int, j: int) -> float:
        return 2 * math.sin(abs(float(angles[i] - angles[j])) / 2)

    triplets = [(i, p, n) for i, p in ((0, 1), (1, 0)) for n in (2, 3)]
    gaps = [d(i, p) - d(i, n) for i, p, n in triplets]
    of_all = sum(max(0.0, g + 0.2) for g in gaps) / len(gaps)
    within = [g + 0.2 for g in gaps if -0.2 < g < 0]
    assert len(within) == 1  # (0, 1, 2); of (1, 0, 2) the negative is nearer, and both far ones are too far
    assert float(triplet_margin(z, y, 0.2, "all")) == pytest.approx(of_all, abs=1e-6)
    assert float(triplet_margin(z, y, 0.2, "semi_hard")) == pytest.approx(within[0], abs=1e-6)
    with pytest.raises(ValueError, match="all, semi_hard"):
        triplet_margin(z, y, 0.2, "hard")


def test_multi_similarity_of_one_pair_and_one_negative():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1])
    expected = math.log1p(math.exp(-1)) / 2 + math.log1p(math.exp(-25)) / 50
    assert expected == pytest.approx(0.1566, abs=1e-4)
    assert float(multi_similarity(z.detach(), y, epsilon=None)) == pytest.approx(expected, abs=1e-6)
    mined = multi_similarity(z, y)  # 1 is not below 0 + 0.1, and 0 not above 1 - 0.1
    mined.backward()
    assert float(mined.detach()) == 0
    assert not z.grad.any()


def test_mining_keeps_the_pairs_that_the_rule_names():
    z, y = drawn()
    unit = F.normalize(z, dim=1)
    s, total = unit @ unit.T, 0.0
    for i in range(len(z)):
        positives = [float(s[i, j]) for j in range(len(z)) if j != i and y[j] == y[i]]
        negatives = [float(s[i, j]) for j in range(len(z)) if y[j] != y[i]]
        p = [x for x in positives if x < max(negatives) + 0.1]
        n = [x for x in negatives if x > min(positives) - 0.1]
        total += math.log1p(sum(math.exp(-2 * (x - 0.5)) for x in p)) / 2
        total += math.log1p(sum(math.exp(50 * (x - 0.5)) for x in n)) / 50
    assert float(multi_similarity(z, y)) == pytest.approx(total / len(z), rel=1e-5)
    assert float(multi_similarity(z, y)) < float(multi_similarity(z, y, epsilon=None))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_exponents_of_fifty_do_not_overflow_in_half_precision(dtype):
    z = torch.ones(4, 3, dtype=dtype, requires_grad=True)  # every negative at similarity 1: exp(25) is over 65,504
    y = torch.tensor([0, 0, 1, 1])
    for loss in (multi_similarity(z, y, beta=500.0), supcon(z, y, 0.001), labelled_nt_xent(z, y, 0.001)):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, z)
        assert torch.isfinite(gradient).all()


@every_loss
def test_neither_order_nor_names_nor_lengths_matter(loss):
    z, y = drawn()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
    value = float(loss(z, y))
    assert value > 0
    assert float(loss(z[order], y[order])) == pytest.approx(value, rel=1e-5)
    assert float(loss(z, 7 - y)) == pytest.approx(value, rel=1e-6)
    assert float(loss(z * torch.arange(1, 13)[:, None], y)) == pytest.approx(value, rel=1e-5)


def test_an_anchor_without_positives_is_not_counted():
    z, y = orthogonal(2)
    z, y = torch.cat([torch.eye(3)[:2].repeat_interleave(2, 0), torch.eye(3)[2:]]), torch.cat([y, torch.tensor([5])])
    assert anchors(y).tolist() == [True] * 4 + [False]
    # The fifth vector is one negative more to each of the four, and no anchor: the mean is of four.
    assert float(supcon(z, y, 1.0)) == pytest.approx(math.log(math.e + 3) - 1, abs=1e-6)
    assert float(labelled_nt_xent(z, y, 1.0)) == pytest.approx(math.log(1 + 3 / math.e), abs=1e-6)
    push = math.log1p(3 * math.exp(-25)) / 50
    assert float(multi_similarity(z, y, epsilon=None)) == pytest.approx(math.log1p(math.exp(-1)) / 2 + push, abs=1e-6)


@every_loss
@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [0]])
def test_without_pairs_or_without_negatives_nothing_breaks(loss, labels):
    z = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = loss(z, torch.tensor(labels))
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(z.grad).all()
    if len(set(labels)) == len(labels):
        assert float(found.detach()) == 0
        assert not z.grad.any()


def test_a_class_alone_still_has_pairs_to_pull():
    z, y = drawn(classes=1)
    assert float(labelled_nt_xent(z, y)) == 0  # nothing to tell it from
    assert float(supcon(z, y)) > 0
    assert float(multi_similarity(z, y, epsilon=None)) > 0


def test_identical_vectors_have_a_gradient_of_zero_and_not_of_nan():
    z = torch.ones(4, 3, requires_grad=True)
    triplet_margin(z, torch.tensor([0, 0, 1, 1]), 0.2, "all").backward()
    assert not z.grad.any()


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: supcon(z, y, 0.5),
        lambda z, y: labelled_nt_xent(z, y, 0.5),
        lambda z, y: triplet_margin(z, y, 0.3, "all"),
        lambda z, y: multi_similarity(z, y, beta=5.0, epsilon=None),
    ],
)
def test_gradients_are_those_of_differences(loss):
    z, y = drawn(6, 2)
    z = z.requires_grad_()
    loss(z, y).backward()
    direction, step = torch.randn(6, 5, generator=torch.Generator().manual_seed(3)), 1e-3
    with torch.no_grad():
        numeric = (float(loss(z + step * direction, y)) - float(loss(z - step * direction, y))) / (2 * step)
    assert float((z.grad * direction).sum()) == pytest.approx(numeric, rel=2e-2, abs=1e-4)
