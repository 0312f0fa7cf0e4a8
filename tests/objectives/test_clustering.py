import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.errors import UsageError
from tacit.objectives import (
    across_views,
    assigned,
    assignment_entropy,
    falling_shares,
    me_max,
    sinkhorn,
    soft_cross_entropy,
)


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_uniform_scores_are_shared_alike():
    torch.testing.assert_close(sinkhorn(torch.full((6, 4), 0.3)), torch.full((6, 4), 0.25))


def test_two_records_and_two_prototypes():
    torch.testing.assert_close(sinkhorn(torch.eye(2)), torch.eye(2), atol=1e-6, rtol=0)


def test_the_golden_values_of_the_official_algorithm():
    golden = torch.tensor(
        [
            [1.53907914e-10, 2.92283148e-01, 7.07716823e-01, 1.64598172e-17],
            [4.83183481e-04, 9.83832598e-01, 1.56842656e-02, 1.24140921e-12],
            [9.99438047e-01, 4.44906240e-04, 1.17160133e-04, 2.05906616e-08],
            [9.99962330e-01, 1.08978193e-09, 5.71688906e-06, 3.20126856e-05],
            [4.12827075e-01, 3.60387989e-13, 3.42167681e-03, 5.83751321e-01],
            [6.17344722e-06, 9.09413615e-18, 3.29373926e-01, 6.70619905e-01],
        ]
    )
    torch.testing.assert_close(sinkhorn(wave(6, 4)), golden, atol=1e-6, rtol=1e-4)


def test_the_golden_value_of_swavs_double_sum():
    logits = wave(30, 7, phase=0.4).chunk(5)
    value = across_views([sinkhorn(s) for s in logits[:2]], logits, 0.1).item()
    assert value == pytest.approx(11.395320892333984, rel=1e-5)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_the_slow_loop_agrees(iterations: int):
    q = (wave(8, 5).double() / 0.2).exp()
    prior = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    for _ in range(iterations):
        q = q / q.sum(0) * prior / prior.sum()
        q = q / q.sum(1, keepdim=True) / 8
    found = sinkhorn(wave(8, 5), epsilon=0.2, iterations=iterations, prior=prior)
    torch.testing.assert_close(found, (q / q.sum(1, keepdim=True)).float(), atol=1e-6, rtol=1e-5)


def test_both_marginals_in_the_limit():
    q = sinkhorn(wave(8, 5), epsilon=0.2, iterations=200)
    torch.testing.assert_close(q.sum(1), torch.ones(8))
    torch.testing.assert_close(q.sum(0), torch.full((5,), 8 / 5), atol=1e-5, rtol=0)
    shares = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0])
    torch.testing.assert_close(sinkhorn(wave(8, 5), epsilon=0.2, iterations=200, prior=shares).sum(0), shares)


def test_a_share_of_zero_is_never_used():
    q = sinkhorn(wave(8, 3), prior=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(q[:, 1], torch.zeros(8))
    torch.testing.assert_close(q.sum(1), torch.ones(8))


def test_large_scores_neither_overflow_nor_vanish():
    scores = 1000 * wave(6, 4)
    q = sinkhorn(scores)
    torch.testing.assert_close(q.sum(1), torch.ones(6))
    torch.testing.assert_close(sinkhorn(scores + 5000), q, atol=0.02, rtol=0)
    assert sinkhorn(wave(6, 4).half()).dtype == torch.float32


def test_no_gradient_passes():
    assert not sinkhorn(wave(6, 4).requires_grad_()).requires_grad


@pytest.mark.parametrize("prior", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_prior_that_is_none_is_refused(prior: list[float]):
    with pytest.raises(UsageError, match="3 shares"):
        sinkhorn(wave(4, 3), prior=torch.tensor(prior))


def test_the_entropy_of_the_mean_assignment():
    assert assignment_entropy(torch.eye(5)).item() == pytest.approx(math.log(5), abs=1e-6)
    assert assignment_entropy(torch.eye(5)[[2, 2, 2]]).item() == 0
    assert assignment_entropy(torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])).item() == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-6
    )


def test_me_max_of_a_mean_over_all_half_and_one_of_the_prototypes():
    assert me_max(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert me_max(torch.eye(4)[[0, 0, 1, 1]]).item() == pytest.approx(0.693147, abs=1e-6)
    assert me_max(torch.eye(4)[[2, 2]]).item() == pytest.approx(math.log(4), abs=1e-6)


def test_me_max_with_a_prior_asks_for_its_shares():
    prior = falling_shares(4, 0.25)
    assert prior.tolist() == pytest.approx([k**-0.25 / sum(j**-0.25 for j in range(1, 5)) for k in range(1, 5)])
    assert me_max(prior[None], 3 * prior).item() == pytest.approx(0, abs=1e-6)
    assert me_max(torch.eye(4), prior).item() == pytest.approx(-(4 * prior).log().mean().item(), abs=1e-6)
    assert falling_shares(5, 0.0).tolist() == pytest.approx([0.2] * 5)
    for wrong in (torch.ones(3), torch.tensor([1.0, 1.0, 0.0, 1.0])):
        with pytest.raises(UsageError, match="4 shares, all above zero"):
            me_max(torch.eye(4), wrong)


def test_me_max_pushes_towards_unused_prototypes_and_bears_zeros():
    logits = torch.tensor([[9.0, 0.0, -200.0]]).requires_grad_()
    me_max(logits.softmax(1)).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]
    assert me_max(wave(3, 4).softmax(1).bfloat16()).dtype == torch.float32


def test_sharpened_probabilities_and_their_shares_by_hand():
    logits = torch.tensor([[0.7, 0.3], [0.6, 0.4]]).log()
    sharp = torch.tensor([[0.967365, 0.032635], [0.835052, 0.164948]])
    torch.testing.assert_close(assigned(logits, 0.25), sharp, atol=1e-6, rtol=0)
    shared = assigned(logits, 0.25, rounds=3)
    torch.testing.assert_close(shared, torch.tensor([[0.709377, 0.290623], [0.294221, 0.705779]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(shared.sum(0), torch.ones(2), atol=4e-3, rtol=0)  # B / K, nearly


def test_the_golden_shares_of_msns_code():
    golden = [[0.0083, 0.5271, 0.4634, 0.0012], [0.1009, 0.6454, 0.2457, 0.0081], [0.5231, 0.2598, 0.1578, 0.0592]]
    found = assigned(wave(6, 4), 0.3, rounds=3)
    torch.testing.assert_close(found[:3], torch.tensor(golden), atol=6e-5, rtol=0)


def test_probabilities_and_exponentials_are_shared_out_differently():
    """Unless there are many rounds, or each record's exponentials sum to the same."""
    scores = wave(8, 5) * torch.linspace(0.2, 3, 8)[:, None]
    of = {what: assigned(scores, 0.5, rounds=3, of=what) for what in ("probabilities", "logits")}
    torch.testing.assert_close(of["logits"], sinkhorn(scores, epsilon=0.5))
    assert (of["logits"] - of["probabilities"]).abs().max() > 0.02
    many = [assigned(scores, 0.5, rounds=300, of=what) for what in ("probabilities", "logits")]
    torch.testing.assert_close(*many, atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="choose one of probabilities, logits"):
        assigned(scores, 0.5, of="cosines")


def test_centring_and_sinkhorn_alone_and_together():
    logits, center = wave(8, 5), wave(1, 5, phase=2)
    torch.testing.assert_close(assigned(logits, 0.2, center=center), ((logits - center) / 0.2).softmax(1))
    both = assigned(logits, 0.2, center=center, rounds=3)
    p = ((logits - center) / 0.2).softmax(1)
    torch.testing.assert_close(both, sinkhorn(p.log(), epsilon=1.0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both, assigned(logits, 0.2, rounds=3), atol=1e-3)


@pytest.mark.parametrize(("rounds", "loss"), [(0, 1.0950353145599365), (3, 1.857733130455017)])
def test_the_golden_loss_and_gradients_of_msn(rounds: int, loss: float):
    """Two anchors a target, temperature .1, targets sharpened by .25, with and without Sinkhorn."""
    anchors, targets, prototypes = wave(10, 6, phase=0.3), wave(5, 6, phase=0.9), wave(7, 6, phase=1.4)
    anchors, prototypes = anchors.requires_grad_(), prototypes.requires_grad_()
    said = F.normalize(anchors) @ F.normalize(prototypes).T
    wanted = assigned(F.normalize(targets) @ F.normalize(prototypes).T, 0.1 * 0.25, rounds=rounds)
    value, even = soft_cross_entropy(wanted.repeat(2, 1), said, 0.1), me_max((said / 0.1).softmax(1))
    assert value.item() == pytest.approx(loss, rel=1e-5)
    assert even.item() == pytest.approx(0.05016148090362549, rel=1e-4)
    norms = [g.norm().item() for g in torch.autograd.grad(value + even, [anchors, prototypes])]
    golden = [0.9951380491256714, 0.5503103137016296] if not rounds else [1.0576450824737549, 0.9796119928359985]
    assert norms == pytest.approx(golden, rel=1e-4)


def test_the_case_of_four_records_that_are_prototypes():
    said = torch.eye(4)
    assert soft_cross_entropy(assigned(said, 0.025), said, 0.1).item() == pytest.approx(1.36247e-4, rel=1e-4)
    assert me_max((said / 0.1).softmax(1)).item() == pytest.approx(0, abs=1e-6)


def test_without_avoidance_one_prototype_for_all_costs_nothing_and_each_remedy_changes_that():
    logits = torch.zeros(6, 4)
    logits[:, 1] = 1.0  # all records on one prototype, for ever
    assert soft_cross_entropy(assigned(logits, 0.04), 100 * logits, 0.1).item() == pytest.approx(0, abs=1e-6)
    center = logits[:1]  # which the running mean comes to
    uniform = assigned(logits, 0.04, center=center)
    assert torch.special.entr(uniform).sum(1).mean().item() == pytest.approx(math.log(4), abs=1e-6)
    torch.testing.assert_close(assigned(logits, 0.04, rounds=3), torch.full((6, 4), 0.25))
    assert me_max((logits / 0.1).softmax(1)).item() > 1.38
