"""The checks of stage one against the paper and the official code: head, loss, norms, views, schedule."""

import dataclasses

import pytest
import torch
from torch import nn

from tacit.engine import Progress
from tacit.engine.lars import Lars
from tacit.engine.optim import learning_rate, optimiser
from tacit.methods.image.simclr_v2 import Settings, SimCLRv2
from tacit.objectives import nt_xent
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> SimCLRv2:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "out": 8, **changes}
    return SimCLRv2(dataclasses.replace(SimCLRv2.presets["small"], **small))


def batch(seed: int = 0, count: int = 6) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.rand(count, 3, 16, 16, generator=g)} for _ in range(2)]


def test_the_paper_is_the_default():
    s = Settings()
    assert SimCLRv2.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.weight_decay) == ("resnet50", 224, 4096, 800, 1e-4)
    assert (s.optimizer, s.sgd_momentum, s.trust, s.clip) == ("lars_lr_inside", 0.9, 1e-3, None)
    assert (s.temperature, s.out, s.projector_layers, s.jitter_strength, s.blur_p) == (0.1, 128, 3, 1.0, 0.5)


def test_the_rate_is_a_tenth_of_the_root_of_the_batch_after_a_twentieth_of_the_epochs():
    s, per_epoch = Settings(), 312
    steps = s.epochs * per_epoch
    rates = [learning_rate(s, step, steps, per_epoch) for step in (0, 20 * per_epoch, 40 * per_epoch, 420 * per_epoch)]
    assert rates == pytest.approx([0, 3.2, 6.4, 3.2])
    assert learning_rate(s, steps, steps, per_epoch) == 0
    linear = SimCLRv2.presets["linear"]
    assert learning_rate(linear, 10 * per_epoch, steps, per_epoch) == pytest.approx(4.8)


def test_the_optimiser_is_lars_with_the_rate_inside_the_momentum():
    method = tiny(optimizer="lars_lr_inside", encoder="resnet_mini")
    solver = optimiser(method, method.s)
    assert isinstance(solver, Lars)
    adapted, plain = solver.param_groups
    assert adapted["lr_inside"]
    assert adapted["adapt"]
    assert not plain["adapt"]
    assert plain["weight_decay"] == 0
    assert {p.ndim for p in plain["params"]} == {1}
    assert {p.ndim for p in adapted["params"]} == {2, 4}


def test_the_head_has_no_biases_and_its_last_norm_no_shift():
    with torch.device("meta"):
        head = SimCLRv2(Settings(size=64)).projector
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert [shapes[f"{i}.weight"] for i in (0, 3, 6)] == [(2048, 2048), (2048, 2048), (128, 2048)]
    assert [name for name in shapes if name.endswith("bias")] == ["1.bias", "4.bias"]  # the hidden norms'
    assert shapes["7.weight"] == (128,)
    assert head[7].bias is None


def test_its_linears_start_small_and_its_first_layer_can_be_cut_off():
    method = tiny(encoder="resnet_mini")
    assert isinstance(method.projector, nn.Sequential)
    linears = [layer for layer in method.projector if isinstance(layer, nn.Linear)]
    assert all(float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.06) for layer in linears)
    first = method.projector[:3]
    assert [type(layer).__name__ for layer in first] == ["Linear", "BatchNorm1d", "ReLU"]
    features = method.encoder(batch()[0]["image"])
    out = first(features)
    assert out.shape == (6, 256) == features.shape
    assert out.min() == 0


def test_the_loss_is_that_of_all_other_views_in_the_batch():
    method = tiny()
    views = batch()
    step = method.loss(views, START)
    features = method.encoder(torch.cat([v["image"] for v in views]))
    a, b = method.projector(features).chunk(2)
    torch.testing.assert_close(step.terms["nt_xent"], nt_xent(a, b, 0.5))
    torch.testing.assert_close(method.loss(views[::-1], START).terms["nt_xent"], step.terms["nt_xent"])
    torch.testing.assert_close(
        step.signals["embeddings"][:6],
        step.signals["positives"][6:],
        msg="row n of one view belongs to row n of the other",
    )


def test_every_norm_sees_both_views_at_once():
    method = tiny(encoder="resnet_mini")
    method.loss(batch(), START)
    norms = [m for m in method.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {int(m.num_batches_tracked) for m in norms} == {1}


def test_gradients_reach_everything():
    method = tiny()
    method.loss(batch(), START).terms["nt_xent"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.projector.parameters())


def test_golden_loss_of_the_official_function():
    """The values of the official `add_contrastive_loss` (google-research/simclr 383d414) on these tensors."""
    i = torch.arange(30, dtype=torch.float64).view(5, 6)
    a, b = torch.sin(i * 1.7 + 0.1).float(), torch.sin(i * 1.7 + 1.1).float()
    assert nt_xent(a, b, 0.1).item() == pytest.approx(7.941653495943584, rel=1e-6)
    assert nt_xent(a, b, 0.5).item() == pytest.approx(3.4004287046405857, rel=1e-6)


def test_pixels_stay_between_nought_and_one():
    method = tiny(jitter_strength=1.0, blur_p=1.0)
    view = method.views()[0]
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    params = [view.draw(rng(0, 0, i, 0), 16, 16) for i in range(8)]
    columns = {
        name: torch.tensor([p[name] for p in params]).float() for name in ("brightness", "contrast", "saturation")
    }
    columns |= {name: torch.tensor([p[name] for p in params]) for name in ("jitter", "gray", "solarize", "order")}
    columns |= {name: torch.tensor([p[name] for p in params]).float() for name in ("hue", "blur")}
    x = view.finish(images, columns)["image"]
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1 + 1e-6
    assert method.encoder.inputs.interpolation == "bicubic"
    torch.testing.assert_close(method.encoder.inputs.prepare(images), images / 255)


def test_both_views_are_drawn_alike_and_as_published():
    views = SimCLRv2(Settings(encoder="resnet_mini", channels=3)).views()
    assert dataclasses.replace(views[0], name="") == dataclasses.replace(views[1], name="")
    view = views[0]
    assert view.blur_reach == 11  # a kernel of 23 pixels at 224
    assert not view.brightness_adds
    drawn = [view.draw(rng(0, 0, i, 0), 100, 100) for i in range(2000)]
    for name, share in (("jitter", 0.8), ("gray", 0.2), ("flip", 0.5)):
        assert sum(p[name] for p in drawn) / 2000 == pytest.approx(share, abs=0.04)
    assert sum(p["blur"] > 0 for p in drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    for name, low, high in (
        ("brightness", 0.2, 1.8),
        ("contrast", 0.2, 1.8),
        ("saturation", 0.2, 1.8),
        ("hue", -0.2, 0.2),
    ):
        values = [p[name] for p in drawn]
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high >= max(values) > high - 0.01 * (high - low)
    areas = [p["height"] * p["width"] / 1e4 for p in drawn]
    assert min(areas) > 0.07
    assert tiny().views()[0].blur_p == 0


def test_other_trunks():
    for encoder in ("swin_mini", "resnet_mini"):
        assert torch.isfinite(tiny(encoder=encoder).loss(batch(), START).terms["nt_xent"])
