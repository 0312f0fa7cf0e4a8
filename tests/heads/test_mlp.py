import torch
from torch import nn

from tacit.heads import mlp


def kinds(head: nn.Module) -> list[str]:
    return [type(part).__name__ for part in head]


def parameters(head: nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


def test_the_published_sizes():
    assert parameters(mlp(768, 4096, 256, 2)) == 4_206_848
    assert parameters(mlp(384, 4096, 256, 2)) == 2_633_984
    assert parameters(mlp(256, 4096, 256, 2)) == 2_109_696


def test_no_layers_is_the_identity_and_one_is_a_linear():
    x = torch.randn(2, 8)
    assert torch.equal(mlp(8, 16, 4, 0)(x), x)
    assert kinds(mlp(8, 16, 4, 1)) == ["Linear"]


def test_nothing_follows_the_last_linear_and_every_linear_has_a_bias():
    head = mlp(8, 16, 4, 3)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert all(part.bias is not None for part in head if isinstance(part, nn.Linear))
