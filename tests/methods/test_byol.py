"""BYOL against its paper and official code: what is regressed on what, when the target moves, and how it collapses."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from tacit.engine import Progress
from tacit.engine.monitors import CollapseWatch, health
from tacit.engine.optim import learning_rate, optimiser
from tacit.methods.image.byol import BYOL, Settings
from tacit.objectives import normalised_mse
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> BYOL:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "hidden": 32, "out": 8, **changes}
    return BYOL(dataclasses.replace(BYOL.presets["small"], **small))


def batch(seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, 16, 16, generator=g)} for _ in range(2)]


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert BYOL.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.optimizer) == ("resnet50", 224, 4096, 1000, "lars")
    assert (s.lr, s.lr_batch, s.weight_decay, s.warmup_epochs, s.trust) == (0.2, 256, 1.5e-6, 10, 1e-3)
    assert (s.momentum, s.hidden, s.out, s.predictor, s.stop_gradient) == (0.996, 4096, 256, True, True)
    by_length = {s.epochs: (s.lr, s.weight_decay, s.momentum) for n, s in BYOL.presets.items() if n.endswith("_epochs")}
    assert by_length == {300: (0.3, 1e-6, 0.99), 100: (0.45, 1e-6, 0.99), 40: (0.45, 1e-6, 0.97)}


def test_the_published_heads():
    with torch.device("meta"):
        method = BYOL(Settings())
    for head, width in ((method.projector, 2048), (method.predictor, 256)):
        assert [type(m).__name__ for m in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert sum(p.numel() for p in head.parameters()) == 4096 * (width + 1) + 2 * 4096 + 4096 * 256
        assert (head[1].momentum, head[1].eps) == (pytest.approx(0.1), 1e-5)
    gammas = [m.bn3.weight for m in BYOL(Settings(encoder="resnet26")).encoder.modules() if hasattr(m, "bn3")]
    assert all(not g.any() for g in gammas)


def test_both_networks_start_apart_or_alike():
    def alike(method: BYOL) -> list[bool]:
        pairs = zip(method.encoder.parameters(), method.target.parameters(), strict=True)
        return [torch.equal(a, b) for a, b in pairs if a.std() > 0]

    assert not any(alike(tiny()))
    assert all(alike(tiny(target_start="copied")))
    loaded = tiny()
    loaded.after_init()
    assert all(alike(loaded))


def test_the_loss_is_the_sum_of_two_squared_distances_of_unit_vectors():
    method = tiny()
    views = batch()
    step = method.loss(views, START)
    online = [method.predictor(method.projector(method.encoder(v["image"]))) for v in views]
    target = [method.target_projector(method.target(v["image"])) for v in views]
    for name, p, z in (("p1z2", online[0], target[1]), ("p2z1", online[1], target[0])):
        expected = (F.normalize(p, dim=1) - F.normalize(z, dim=1)).square().sum(1).mean()
        torch.testing.assert_close(step.terms[name], expected, atol=1e-5, rtol=1e-4)
    assert 0 < float(sum(step.terms.values()).detach()) < 8


def test_gradients_reach_encoder_projector_and_predictor_and_never_the_target():
    method = tiny()
    sum(method.loss(batch(), START).terms.values()).backward()
    for part in (method.encoder, method.projector, method.predictor):
        assert all(p.grad is not None for p in part.parameters())
    for part in (method.target, method.target_projector):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())


def test_without_the_stop_both_sides_are_the_online_network_and_have_the_gradient():
    method = tiny(stop_gradient=False, predictor=False)
    views = batch()
    loss = sum(method.loss(views, START).terms.values())
    ours = torch.autograd.grad(loss, method.projector[0].weight)[0]
    z1, z2 = (F.normalize(method.projector(method.encoder(v["image"])), dim=1) for v in views)
    by_hand = 2 * (z1 - z2).square().sum(1).mean()  # without a predictor both terms are the same
    torch.testing.assert_close(loss, by_hand, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours, torch.autograd.grad(by_hand, method.projector[0].weight)[0], atol=1e-5, rtol=1e-3)


def test_the_target_moves_after_the_update_towards_what_the_online_network_has_become():
    method = tiny(momentum=0.9)
    before = [p.clone() for p in [*method.target.parameters(), *method.target_projector.parameters()]]
    solver = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)
    method.before_step(START)
    step = method.loss(batch(), START)
    sum(step.terms.values()).backward()
    target = [*method.target.parameters(), *method.target_projector.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(target, before, strict=True))
    solver.step()
    method.after_step([step.signals], START)
    online = [*method.encoder.parameters(), *method.projector.parameters()]
    for now, t0, o1 in zip(target, before, online, strict=True):
        torch.testing.assert_close(now, 0.9 * t0 + 0.1 * o1)


@pytest.mark.parametrize(("quarter", "value"), [(0, 0.99), (1, 0.991464), (2, 0.995), (4, 1.0)])
def test_the_targets_schedule(quarter, value):
    assert tiny(momentum=0.99).momentum(Progress(1000 * quarter, 4000, 10)) == pytest.approx(value, abs=5e-7)


def test_the_rates_of_the_published_run_and_what_lars_leaves_alone():
    s = Settings()
    rates = [learning_rate(s, epoch * 312, 1000 * 312, 312) for epoch in (0, 5, 10, 505, 1000)]
    assert rates == pytest.approx([0, 1.6, 3.2, 1.6, 0], abs=1e-9)
    adapted, spared = optimiser(tiny(encoder="resnet_mini"), s).param_groups
    assert (adapted["adapt"], adapted["weight_decay"], spared["adapt"], spared["weight_decay"]) == (
        True,
        1.5e-6,
        False,
        0,
    )
    assert {p.ndim for p in spared["params"]} == {1}


def test_the_views_are_the_papers():
    with torch.device("meta"):
        views = BYOL(Settings(encoder="resnet18")).views()
    assert [v.blur_reach for v in views] == [11, 11]  # 23 taps
    assert views[0].inputs.interpolation == "bicubic"
    assert views[0].solarize_threshold == 0.5
    drawn = [[v.draw(rng(0, 0, i, n), 40, 200) for i in range(1000)] for n, v in enumerate(views)]
    assert [sum(p["blur"] > 0 for p in ps) / 1000 for ps in drawn] == [1.0, pytest.approx(0.1, abs=0.03)]
    assert [sum(p["solarize"] for p in ps) / 1000 for ps in drawn] == [0.0, pytest.approx(0.2, abs=0.04)]
    shifts = [p["brightness"] for p in drawn[0]]
    assert min(shifts) == pytest.approx(-0.4, abs=0.01)
    assert max(shifts) == pytest.approx(0.4, abs=0.01)
    assert sum(p["height"] == 40 and p["width"] > 54 for p in drawn[0]) > 0  # cut to the picture, out of the ratios


def test_brightness_is_added():
    view = tiny().views()[0]
    params = [view.draw(rng(0, 0, 1, 0), 16, 16)]
    plain = {
        "jitter": True,
        "brightness": 0.25,
        "contrast": 1.0,
        "saturation": 1.0,
        "hue": 0.0,
        "gray": False,
        "blur": 0.0,
    }
    columns = {name: torch.tensor([value]) for name, value in (params[0] | plain).items()}
    image = view.finish(torch.full((1, 3, 16, 16), 0.5), columns)["image"]
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (view.inputs.mean, view.inputs.std))
    torch.testing.assert_close(image * std + mean, torch.full((1, 3, 16, 16), 0.75))


def test_the_golden_value_of_the_official_regression_loss():
    """`regression_loss` of google-deepmind/deepmind-research, byol/utils/helpers.py (f5de0ed), with numpy for jax."""
    value = normalised_mse(wave(5, 6, phase=0.1), wave(5, 6, phase=1.1))
    assert value.item() == pytest.approx(0.9546195864677429, rel=1e-6)


def test_a_batch_norm_inside_sees_each_view_alone_in_either_network():
    method = tiny(encoder="resnet_mini")
    method.loss(batch(), START)
    for trunk in (method.encoder.trunk, method.target.trunk):
        assert int(trunk.bn1.num_batches_tracked) == 2


def first_call(steps: int, **changes) -> int | None:
    """The step at which a collapse is called, of the first tenth of a run of `10 * steps`; None if it is not."""
    method = tiny(patch=8, hidden=64, out=32, **changes)
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=5e-3)
    g = torch.Generator().manual_seed(0)
    records = torch.randn(64, 3, 16, 16, generator=g)
    watch = CollapseWatch()
    for i in range(steps):
        x = records[torch.randint(0, 64, (16,), generator=g)]
        views = [{"image": x + 0.5 * torch.randn(x.shape, generator=g)} for _ in range(2)]
        progress = Progress(i, 10 * steps, steps)
        step = method.loss(views, progress)
        solver.zero_grad()
        sum(step.terms.values()).backward()
        solver.step()
        method.after_step([step.signals], progress)
        if watch.see(health(step.signals)):
            return i
    return None


def test_without_predictor_and_stop_a_collapse_is_called_within_the_first_tenth_of_the_run():
    assert first_call(40, predictor=False, stop_gradient=False) is not None


def test_with_both_it_is_not():
    assert first_call(40) is None
