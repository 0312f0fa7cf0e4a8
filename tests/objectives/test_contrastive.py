import math

import pytest
import torch
import torch.nn.functional as F

from tacit.objectives import info_nce


def with_dots(dots: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A query, a key and negatives whose similarities to the query are `dots`, the key's first."""
    query = torch.zeros(1, 8)
    query[0, 0] = 1
    others = torch.zeros(len(dots), 8)
    others[:, 0] = torch.tensor(dots)
    others[:, 1] = (1 - others[:, 0] ** 2).sqrt()
    return query, others[:1], others[1:].T


def test_the_closed_form_of_four_similarities():
    assert info_nce(*with_dots([0.9, 0.1, -0.3, 0.5]), 0.2).item() == pytest.approx(0.1450779, abs=1e-6)


def test_orthogonal_everything_gives_log_of_the_candidates():
    assert info_nce(*with_dots([0.0] * 4097), 0.2).item() == pytest.approx(math.log(4097), abs=1e-5)


def test_a_perfect_positive_among_orthogonal_negatives():
    value = info_nce(*with_dots([1.0] + [0.0] * 4096), 0.2).item()
    assert value == pytest.approx(3.3533588, abs=1e-5)
    assert 2 * value == pytest.approx(6.7067177, abs=2e-5)


def unit(*shape: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=dim)


def test_the_slow_loop_agrees():
    q, k, bank = unit(6, 16, dim=1, seed=0), unit(6, 16, dim=1, seed=1), unit(16, 10, dim=0, seed=2)
    total = 0.0
    for n in range(6):
        positive = math.exp(float(q[n] @ k[n]) / 0.3)
        negatives = sum(math.exp(float(q[n] @ bank[:, j]) / 0.3) for j in range(10))
        total -= math.log(positive / (positive + negatives))
    assert info_nce(q, k, bank, 0.3).item() == pytest.approx(total / 6, abs=1e-5)


def test_the_order_of_the_negatives_does_not_matter():
    q, k, bank = unit(6, 16, dim=1, seed=0), unit(6, 16, dim=1, seed=1), unit(16, 10, dim=0, seed=2)
    torch.testing.assert_close(info_nce(q, k, bank, 0.2), info_nce(q, k, bank.flip(1), 0.2))


def test_it_is_float32_inside_an_autocast_region():
    q, k, bank = unit(6, 16, dim=1, seed=0), unit(6, 16, dim=1, seed=1), unit(16, 10, dim=0, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(q, k, bank, 0.2)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, info_nce(q, k, bank, 0.2), rtol=0, atol=0)


def test_gradients_pass_the_numeric_check():
    q, k, bank = (x.double().requires_grad_() for x in (torch.randn(3, 4), torch.randn(3, 4), torch.randn(4, 5)))

    def loss(query):
        logits = torch.cat([(query * k).sum(1, keepdim=True), query @ bank], dim=1) / 0.2
        return F.cross_entropy(logits, torch.zeros(3, dtype=torch.long))

    ours = torch.autograd.grad(info_nce(q, k, bank, 0.2), q)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(loss(q), q)[0], atol=1e-5, rtol=1e-4)
