import pytest
import torch
import torch.nn.functional as F

from tacit.objectives import normalised_mse


@pytest.mark.parametrize(("z", "expected"), [([3.0, 0], 0), ([0, 5.0], 2), ([-2.0, 0], 4)])
def test_equal_orthogonal_and_opposite(z: list[float], expected: float):
    assert normalised_mse(torch.tensor([[1.0, 0]]), torch.tensor([z])).item() == pytest.approx(expected, abs=1e-6)


def test_it_is_the_squared_distance_of_unit_vectors_whatever_their_length():
    p, z = torch.randn(6, 8), torch.randn(6, 8)
    expected = (F.normalize(p, dim=1) - F.normalize(z, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(normalised_mse(p, z), expected)
    torch.testing.assert_close(normalised_mse(7 * p, 0.3 * z), expected)


def test_no_gradient_reaches_the_target_and_it_is_float32_inside_autocast():
    p, z = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = normalised_mse(p, z)
    assert value.dtype == torch.float32
    value.backward()
    assert p.grad.abs().sum() > 0
    assert z.grad is None
