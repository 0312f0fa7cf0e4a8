"""The heads of SiT's versions: what they count, their official outcome, how they start."""

import math

import pytest
import torch
from torch import nn

from tacit.errors import UsageError
from tacit.heads import projection


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_head_of_the_last_version_is_the_official_one():
    head = projection("bn", 8, 16, 6)
    with torch.no_grad():
        for k, p in enumerate(head.parameters()):
            p.copy_(wave(*p.shape, phase=k))
        y = head(wave(4, 8, phase=3.0))
    assert float(y.double().abs().sum()) == pytest.approx(20.496668, rel=1e-5)
    expected = [-0.7629975, 0.3855814, -0.2163406, -0.9147716, 0.3711315, -0.1994874]
    assert y[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("linear", ["Linear"]), ("mlp", ["Linear", "GELU", "Linear", "GELU", "Linear"]),
     ("bn", ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d"])],
)  # fmt: skip
def test_layers_and_their_start(kind, layers):
    head = projection(kind, 64, 128, 32)
    assert [type(part).__name__ for part in head] == layers
    for part in head:
        if isinstance(part, nn.Linear):
            assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert (part.bias is None) == (kind == "mlp")
            assert part.bias is None or not part.bias.any()


def test_another_kind_is_refused():
    with pytest.raises(UsageError, match="bn, mlp, linear"):
        projection("mpl", 8, 8, 8)
