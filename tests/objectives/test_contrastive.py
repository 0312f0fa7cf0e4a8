import math

import pytest
import torch
import torch.nn.functional as F

from tacit.objectives import batch_info_nce, info_nce, nt_xent


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


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_closed_forms_of_the_batchs_keys():
    assert batch_info_nce(torch.eye(4), torch.eye(4), 0.2).item() == pytest.approx(0.00800490, abs=1e-7)
    for n, expected in ((4, 1.1090355), (4096, 6.6542129)):
        same = torch.ones(n, 3)
        assert 2 * batch_info_nce(same, same, 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_the_golden_value_of_the_official_moco_v3_loss():
    value = batch_info_nce(wave(5, 6, phase=0.1), wave(5, 6, phase=1.1), 0.2).item()
    assert value == pytest.approx(0.8418709635734558, rel=1e-6)


def test_no_gradient_reaches_the_keys_of_the_batch():
    q, k = wave(5, 6).requires_grad_(), wave(5, 6, phase=1).requires_grad_()
    batch_info_nce(q, k, 0.2).backward()
    assert q.grad.abs().sum() > 0
    assert k.grad is None


def test_the_closed_form_of_two_orthogonal_records():
    # Each cross-entropy is -log(e / (e + 2)): the positive, and two negatives of similarity 0.
    assert nt_xent(torch.eye(2), torch.eye(2), 1.0).item() == pytest.approx(1.1028895, abs=1e-6)


def test_it_is_twice_the_textbooks_mean_over_all_rows():
    a, b = wave(5, 6, phase=0.1), wave(5, 6, phase=1.1)
    z = F.normalize(torch.cat([a, b]), dim=1)
    similarities = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    textbook = F.cross_entropy(similarities, torch.arange(10).roll(5))
    torch.testing.assert_close(nt_xent(a, b, 0.3), 2 * textbook)
    torch.testing.assert_close(nt_xent(b, a, 0.3), 2 * textbook)
    torch.testing.assert_close(nt_xent(5 * a, 0.1 * b, 0.3), 2 * textbook)


def test_both_views_and_the_negatives_have_gradients():
    a, b = wave(5, 6, phase=0.1).requires_grad_(), wave(5, 6, phase=1.1).requires_grad_()
    ours = torch.autograd.grad(nt_xent(a, b, 0.3), (a, b))
    z = F.normalize(torch.cat([a, b]), dim=1)
    masked = (z @ z.T / 0.3).masked_fill(torch.eye(10).bool(), -torch.inf)
    textbook = 2 * F.cross_entropy(masked, torch.arange(10).roll(5))
    for mine, theirs in zip(ours, torch.autograd.grad(textbook, (a, b)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("loss", [batch_info_nce, nt_xent])
def test_the_batchs_losses_are_float32_inside_an_autocast_region(loss):
    a, b = wave(5, 6, phase=0.1), wave(5, 6, phase=1.1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(a, b, 0.2)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(a, b, 0.2), rtol=0, atol=0)


def test_records_of_the_same_group_are_no_negatives():
    q, k = wave(6, 5, phase=0.1), wave(6, 5, phase=1.1)
    apart = batch_info_nce(q, k, 0.2)
    torch.testing.assert_close(batch_info_nce(q, k, 0.2, torch.arange(6)), apart)
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    a, b = F.normalize(q, dim=1), F.normalize(k, dim=1)
    terms = []
    for i in range(6):
        left = [j for j in range(6) if j == i or groups[j] != groups[i]]
        terms.append((torch.logsumexp(a[i] @ b[left].T / 0.2, 0) - a[i] @ b[i] / 0.2) * 0.4)
    torch.testing.assert_close(batch_info_nce(q, k, 0.2, groups), torch.stack(terms).mean())
    q.requires_grad_()
    one = batch_info_nce(q, k, 0.2, torch.zeros(6, dtype=torch.long))
    one.backward()
    assert one == 0  # nothing to be pushed from
    assert not q.grad.any()
