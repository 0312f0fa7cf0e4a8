"""VICReg against its paper and official code: numbers, the three terms, what each one of them is for."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.engine import Progress
from tacit.engine.monitors import CollapseWatch, health
from tacit.engine.optim import learning_rate, optimiser
from tacit.methods.image.vicreg import Settings, VICReg
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> VICReg:
    torch.manual_seed(0)
    return VICReg(
        dataclasses.replace(VICReg.presets["small"], **({"size": 16, "batch_size": 8} | VICReg.tiny | changes))
    )


def batch(seed: int = 0, count: int = 8) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, 16, 16, generator=g)} for _ in range(2)]


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert VICReg.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.hidden, s.out) == ("resnet50", 224, 2048, 1000, 8192, 8192)
    assert (s.optimizer, s.lr, s.lr_batch, s.weight_decay, s.warmup_epochs) == ("lars", 0.2, 256, 1e-6, 10)
    assert (s.trust, s.sgd_momentum, s.decay_vectors, s.clip) == (1e-3, 0.9, False, None)
    assert (s.invariance_weight, s.variance_weight, s.covariance_weight, s.target_std) == (25, 25, 1, 1)
    short = VICReg.presets["short"]
    assert (short.epochs, short.batch_size, short.lr, short.lr_end) == (100, 512, 0.3, 3e-4)


def test_the_rate_of_the_official_run():
    s, epoch = Settings(), 625
    at = [learning_rate(s, e * epoch, 1000 * epoch, epoch) for e in (0, 5, 10, 505, 1000)]
    assert at == pytest.approx([0, 0.8, 1.6, (1.6 + 0.0016) / 2, 0.0016])


def test_the_published_parts():
    with torch.device("meta"):
        method = VICReg(Settings())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    assert count == {"encoder": 23_508_032, "projector": 8192 * (2048 + 2 * 8192) + 6 * 8192}
    assert [type(part) for part in method.projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert method.projector[-1].bias is None
    trunk = tiny(encoder="resnet18").encoder.trunk
    assert all(bool((block.bn2.weight == 0).all()) for block in trunk.layer1)  # as officially, where SwAV starts at 1


def test_vectors_are_neither_adapted_nor_decayed():
    recipe = dataclasses.replace(VICReg.presets["small"], encoder="resnet_mini", size=16, optimizer="lars")
    adapted, plain = optimiser(VICReg(recipe), recipe).param_groups
    assert all(p.ndim > 1 for p in adapted["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert (adapted["adapt"], plain["adapt"], plain["weight_decay"]) == (True, False, 0.0)


def test_the_views_are_byols():
    views = tiny(min_area=0.08).views()
    assert all(v.inputs.interpolation == "bicubic" and v.solarize_threshold == 128 / 255 for v in views)
    drawn = [[v.draw(rng(0, 0, i, n), 100, 100) for i in range(1000)] for n, v in enumerate(views)]
    blurs = [sum(p["blur"] > 0 for p in ps) / 1000 for ps in drawn]
    solarised = [sum(p["solarize"] for p in ps) / 1000 for ps in drawn]
    assert blurs == [1.0, pytest.approx(0.1, abs=0.03)]
    assert solarised == [0.0, pytest.approx(0.2, abs=0.04)]
    for ps in drawn:
        assert sum(p["jitter"] for p in ps) / 1000 == pytest.approx(0.8, abs=0.04)
        assert max(p["saturation"] for p in ps) == pytest.approx(1.2, abs=0.01)
        assert 0.07 < min(p["height"] * p["width"] / 1e4 for p in ps) < 0.1


def test_the_closed_forms_of_two_records():
    method = tiny(invariance_weight=1.0, variance_weight=1.0)
    for x, expected in (([[1.0, 0], [-1, 0]], (0, 0.495, 0)), ([[1.0, 1], [-1, -1]], (0, 0, 8))):
        terms = method.terms(torch.tensor(x), torch.tensor(x))
        assert [float(t) for t in terms.values()] == pytest.approx(expected, abs=1e-6)


def test_the_golden_loss_and_gradient_of_the_official_code():
    """`VICReg.forward` of facebookresearch/vicreg 4e12602 on these embeddings, one process."""
    x = wave(6, 4, phase=0.1).requires_grad_()
    loss = sum(tiny().terms(x, wave(6, 4, phase=0.8)).values())
    loss.backward()
    assert loss.item() == pytest.approx(17.45853042602539, rel=1e-5)
    golden = [-0.33136844635009766, 0.14169573783874512, 0.4916435480117798, -0.33928465843200684]
    torch.testing.assert_close(x.grad[0], torch.tensor(golden), atol=1e-5, rtol=1e-4)


def test_each_weight_multiplies_its_own_term():
    x, y = wave(6, 4, phase=0.1), wave(6, 4, phase=0.8)
    usual = tiny().terms(x, y)
    for name in ("invariance", "variance", "covariance"):
        changed = tiny(**{f"{name}_weight": 3.0}).terms(x, y)
        share = 3.0 / getattr(tiny().s, f"{name}_weight")
        for other in usual:
            torch.testing.assert_close(changed[other], usual[other] * (share if other == name else 1.0))


def test_both_views_pass_alone_and_both_get_gradients():
    method, views = tiny(encoder="resnet_mini"), batch()
    for view in views:
        view["image"].requires_grad_(True)
    step = method.loss(views, START)
    x, y = (method.projector(method.encoder(view["image"])) for view in views)
    torch.testing.assert_close(sum(step.terms.values()), sum(method.terms(x, y).values()))
    torch.testing.assert_close(step.signals["embeddings"], F.normalize(torch.cat([x, y]).detach(), dim=1))
    torch.testing.assert_close(step.signals["positives"], F.normalize(torch.cat([y, x]).detach(), dim=1))
    assert float(step.signals["embedding_scale"]) == pytest.approx(float(x.detach().std(0).mean()), rel=1e-4)
    sum(step.terms.values()).backward()
    assert all(view["image"].grad.abs().sum() > 0 for view in views)
    assert all(p.grad is not None for p in method.parameters())


def run(**changes) -> tuple[dict[str, float], str | None]:
    """A few steps with two noisy copies of random pictures, the last ones watched."""
    method = tiny(patch=8, **changes)
    torch.manual_seed(1)
    pictures = torch.randn(4, 16, 3, 16, 16)
    solver = torch.optim.AdamW(method.parameters(), lr=5e-3)
    watch, said = CollapseWatch(), None
    for i in range(44):
        x = pictures[i % 4]
        step = method.loss([{"image": x + torch.randn_like(x)} for _ in range(2)], START)
        solver.zero_grad()
        sum(step.terms.values()).backward()
        solver.step()
        if i >= 39:
            values = health(step.signals)
            said = said or watch.see(values)
    return values, said


def test_without_the_variance_term_it_collapses_and_is_told_so():
    values, said = run()
    assert said is None
    assert values["embedding_std"] > 0.5
    assert values["embedding_scale"] > 0.3
    values, said = run(variance_weight=0.0)
    assert values["embedding_scale"] < 0.05
    assert "all embeddings shrink to one point" in said
