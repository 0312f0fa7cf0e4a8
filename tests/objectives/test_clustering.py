import math

import pytest
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.objectives import across_views, assignment_entropy, sinkhorn


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
