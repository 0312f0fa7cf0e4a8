import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import UsageError
from tacit.heads import PrototypeHead, Prototypes
from tacit.teachers import ema_update, momentum_copy


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_sizes_of_a_small_vit():
    with torch.device("meta"):
        head = PrototypeHead(384, 65536)
    assert parameters(head.mlp) == 5_509_376
    assert head.last_layer.weight_v.numel() == 16_777_216


def test_the_names_and_shapes_are_those_of_official_checkpoints():
    head = PrototypeHead(6, 9, hidden=8, bottleneck=5)
    expected = {
        "mlp.0.weight": (8, 6), "mlp.0.bias": (8,), "mlp.2.weight": (8, 8), "mlp.2.bias": (8,),
        "mlp.4.weight": (5, 8), "mlp.4.bias": (5,), "last_layer.weight_g": (9, 1), "last_layer.weight_v": (9, 5),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == expected
    with_norms = PrototypeHead(6, 9, hidden=8, bottleneck=5, batch_norm=True)
    assert {"mlp.1.running_mean", "mlp.4.weight", "mlp.6.bias"} <= set(with_norms.state_dict())
    assert with_norms(wave(4, 6)).shape == (4, 9)


def test_the_golden_values_of_the_official_head():
    head = PrototypeHead(6, 9, hidden=8, bottleneck=5)
    with torch.no_grad():
        for i, (name, p) in enumerate(head.named_parameters()):
            if name != "last_layer.weight_g":
                p.copy_(wave(*p.shape, phase=0.1 * i))
    golden = [
        0.638184666633606, -0.6341586112976074, 0.04340777546167374, 0.4939209818840027, -0.7212561964988708,
        0.30293595790863037, 0.3068041503429413, -0.6896283030509949, 0.5413015484809875,
    ]  # fmt: skip
    torch.testing.assert_close(head(wave(2, 6, phase=0.3))[0], torch.tensor(golden), atol=1e-6, rtol=0)


def test_a_fixed_gain_stays_and_makes_the_logits_cosines():
    head = PrototypeHead(6, 9, hidden=8, bottleneck=5)
    x = wave(4, 6)
    torch.testing.assert_close(head.embed(x).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(head(x), head.embed(x) @ F.normalize(head.last_layer.weight_v, dim=1).T)
    assert not head.last_layer.weight_g.requires_grad
    head(x).square().sum().backward()
    assert head.last_layer.weight_g.grad is None
    assert head.last_layer.weight_v.grad.abs().sum() > 0


def test_a_trained_gain_scales_the_logits_and_the_average_copies_it():
    head = PrototypeHead(6, 9, hidden=8, bottleneck=5, norm_last_layer=False)
    before = head(wave(4, 6))
    with torch.no_grad():
        head.last_layer.weight_g.mul_(3)
    torch.testing.assert_close(head(wave(4, 6)), 3 * before)
    head(wave(4, 6)).square().sum().backward()
    assert head.last_layer.weight_g.grad.abs().sum() > 0
    teacher = PrototypeHead(6, 9, hidden=8, bottleneck=5)
    ema_update(teacher, head, 0.0)
    assert torch.equal(teacher.last_layer.weight_g, head.last_layer.weight_g)
    torch.testing.assert_close(momentum_copy(head)(wave(4, 6)), head(wave(4, 6)))


def test_the_start():
    torch.manual_seed(0)
    head = PrototypeHead(64, 500, hidden=256, bottleneck=64)
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert all(torch.equal(part.bias, torch.zeros_like(part.bias)) for part in head.mlp[::2])
    v = head.last_layer.weight_v
    assert 0.124 < v.abs().max().item() <= 0.125  # 1 / sqrt(64)
    assert torch.equal(head.last_layer.weight_g, torch.ones(500, 1))


def test_one_layer_and_none():
    assert PrototypeHead(6, 9, bottleneck=5, layers=1).embed(wave(2, 3, 6)).shape == (2, 3, 5)
    with pytest.raises(UsageError, match="layers = 0"):
        PrototypeHead(6, 9, layers=0)


def test_prototypes_are_normalised_in_place_without_gradient():
    prototypes = Prototypes(5, 7)
    weight = prototypes.weight
    before = weight.detach().clone()
    prototypes.normalise_()
    assert prototypes.weight is weight
    assert weight.requires_grad
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(weight.detach(), before / before.norm(dim=1, keepdim=True))
    assert list(prototypes.state_dict()) == ["weight"]
    z = F.normalize(wave(3, 5), dim=1)
    torch.testing.assert_close(prototypes(z), F.cosine_similarity(z[:, None], weight[None], dim=2))


def test_scores_keep_their_digits_inside_an_autocast_region():
    prototypes, x = Prototypes(8, 5), F.normalize(wave(4, 8), dim=1)
    prototypes.normalise_()
    with torch.autocast("cpu", torch.bfloat16):
        found = prototypes(x)
        assert prototypes(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(found, x @ prototypes.weight.T, atol=1e-6, rtol=0)
