import pytest
import torch
from torch import nn

from tacit.errors import UsageError
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


def linears(head: nn.Module) -> list[nn.Linear]:
    return [part for part in head if isinstance(part, nn.Linear)]


def test_moco_v2_has_no_norm():
    head = mlp(2048, 2048, 128, 2, norm=False)
    assert kinds(head) == ["Linear", "ReLU", "Linear"]
    assert parameters(head) == 2048 * 2048 + 2048 + 2048 * 128 + 128


def test_moco_v3_has_no_bias_and_a_last_norm_without_parameters():
    projector = mlp(384, 4096, 256, 3, bias=False, last_norm="bn_plain")
    assert kinds(projector) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert sum(part.weight.numel() for part in linears(projector)) == 19_398_656
    assert all(part.bias is None for part in linears(projector))
    assert list(projector[-1].parameters()) == []
    predictor = mlp(256, 4096, 256, 2, bias=False, last_norm="bn_plain")
    assert sum(part.weight.numel() for part in linears(predictor)) == 2_097_152


def test_simclr_v2_scales_at_the_end_but_does_not_shift():
    head = mlp(8, 8, 4, 3, bias=False, last_norm="bn_no_shift")
    assert [name for name, _ in head.named_parameters()] == [
        "0.weight", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias", "6.weight", "7.weight",
    ]  # fmt: skip
    z = head(torch.randn(16, 8))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    z.square().sum().backward()
    assert head[-1].weight.grad.abs().sum() > 0
    assert head.eval()(torch.randn(1, 8)).shape == (1, 4)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert synced[-1].bias is None
    assert torch.equal(synced[-1].weight, torch.ones(4))


def test_byol_and_vicreg_have_a_bias_in_all_but_the_last_linear():
    assert [part.bias is not None for part in linears(mlp(8, 16, 4, 3, last_bias=False))] == [True, True, False]
    assert [part.bias is not None for part in linears(mlp(8, 16, 4, 3, bias=False, last_bias=True))] == [0, 0, 1]


def test_a_last_norm_may_follow_a_single_layer_and_an_activation_is_a_choice():
    assert kinds(mlp(8, 16, 4, 1, last_norm="bn")) == ["Linear", "BatchNorm1d"]
    assert kinds(mlp(8, 16, 4, 2, norm=False, activation=nn.GELU)) == ["Linear", "GELU", "Linear"]
    with pytest.raises(UsageError, match="bn_plain"):
        mlp(8, 16, 4, 2, last_norm="layer")
