import math

import pytest
import torch
from torch import Tensor

from tacit.errors import UsageError
from tacit.objectives import covariance, invariance, variance


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def terms(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """As VICReg adds them."""
    return (
        invariance(x, y).item(),
        (variance(x).item() + variance(y).item()) / 2,
        covariance(x).item() + covariance(y).item(),
    )


def test_the_closed_forms_of_two_records():
    x = torch.tensor([[1.0, 0], [-1, 0]])
    assert terms(x, x) == pytest.approx((0, 0.495, 0), abs=1e-6)
    x = torch.tensor([[1.0, 1], [-1, -1]])
    assert terms(x, x) == pytest.approx((0, 0, 8), abs=1e-6)


def test_the_golden_values_of_the_official_vicreg_loss():
    golden = (0.2348896712064743, 0.44896480441093445, 0.36216679215431213)
    assert terms(wave(6, 4, phase=0.1), wave(6, 4, phase=0.8)) == pytest.approx(golden, rel=1e-5)


def test_a_shift_of_the_batch_changes_neither_variance_nor_covariance():
    x, shift = wave(6, 4), 3 * wave(1, 4, phase=1)
    torch.testing.assert_close(variance(x + shift), variance(x))
    torch.testing.assert_close(covariance(x + shift), covariance(x))
    torch.testing.assert_close(invariance(x + shift, x), shift.square().mean())


def test_the_covariance_is_that_of_torch():
    c = torch.cov(wave(9, 5).T)
    expected = sum(float(c[i, j] ** 2) for i in range(5) for j in range(5) if i != j) / 5
    assert covariance(wave(9, 5)).item() == pytest.approx(expected, rel=1e-5)


def test_a_constant_batch_has_a_finite_gradient():
    x = torch.zeros(4, 3, requires_grad=True)
    assert variance(x, gamma=2.0).item() == pytest.approx(1.99, abs=1e-6)
    (variance(x) + covariance(x)).backward()
    assert torch.isfinite(x.grad).all()


def test_they_are_float32_inside_an_autocast_region():
    x, y = wave(6, 4), wave(6, 4, phase=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = [invariance(x, y), variance(x), covariance(x)]
    outside = [invariance(x, y), variance(x), covariance(x)]
    for a, b in zip(inside, outside, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("term", [variance, covariance])
def test_one_record_is_refused(term):
    with pytest.raises(UsageError, match="1 rows"):
        term(torch.zeros(1, 3))
