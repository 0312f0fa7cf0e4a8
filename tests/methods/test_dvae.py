"""The discrete VAE against appendix A of its paper: likelihood, what codes cost, schedules, averages."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.engine import Progress
from tacit.engine.optim import learning_rate
from tacit.engine.schedules import cosine
from tacit.methods.image.dvae import DiscreteVAE, Settings
from tacit.objectives import divergence_from_uniform, logit_laplace


def tiny(**changes) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(dataclasses.replace(DiscreteVAE.presets["small"], size=16, **(DiscreteVAE.tiny | changes)))


def view(method: DiscreteVAE, count: int = 4) -> list[dict[str, torch.Tensor]]:
    x = torch.rand(count, method.s.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return [{"image": method.encoder.inputs.prepare(x)}]


def at(step: int) -> Progress:
    return Progress(step, 3_000_000, 1000)


def test_the_paper_is_the_default():
    s = Settings()
    assert (s.encoder, s.size, s.vocabulary, s.batch_size) == ("dall_e_dvae", 256, 8192, 512)
    assert (s.lr, s.lr_end, s.betas, s.eps, s.weight_decay) == (1e-4, 1.25e-6, (0.9, 0.999), 1e-8, 1e-4)
    assert (s.kl_weight, s.kl_steps, s.temperature, s.temperature_end, s.temperature_steps) == (
        6.6, 5000, 1.0, 1 / 16, 150_000,
    )  # fmt: skip
    assert (s.average, s.straight_through) == (0.999, False)
    steps = s.epochs * s.epoch_steps
    assert steps == 1_200_000
    assert [learning_rate(s, i, steps, 1000) for i in (0, steps // 2, steps)] == pytest.approx(
        [1e-4, 5.0625e-5, 1.25e-6]
    )
    assert cosine(75_000, s.temperature_steps, 1.0, 1 / 16) == pytest.approx(17 / 32)


def test_the_likelihood_is_a_density_of_pixels():
    for mean, log_scale in ((0.0, 0.0), (1.0, -1.0), (-0.5, 0.7)):
        x = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
        m, b = torch.full_like(x, mean), torch.full_like(x, log_scale)
        assert (-logit_laplace(x, m, b)).exp().mean().item() == pytest.approx(1, abs=2e-3)
    half = torch.tensor([0.5])
    assert logit_laplace(half, torch.zeros(1), torch.zeros(1)).item() == pytest.approx(math.log(2 * 0.25))


def test_what_codes_cost():
    assert not divergence_from_uniform(torch.full((2, 8, 3, 3), 4.0)).abs().gt(1e-6).any()
    sure = torch.zeros(1, 8, 1, 1)
    sure[0, 3] = 100.0
    assert divergence_from_uniform(sure).item() == pytest.approx(math.log(8))


def test_the_loss_is_over_all_values_of_the_picture_and_codes_are_free_at_first():
    method = tiny(kl_weight=2.0, kl_steps=100)
    x = view(method)
    assert method.loss(x, at(0)).terms["codes"] == 0
    nn.init.zeros_(method.codes.weight)
    with torch.no_grad():
        method.codes.bias[5] = 200.0  # the same code everywhere, and sure of it
    found = method.loss(x, at(50)).terms["codes"], method.loss(x, at(100)).terms["codes"]
    assert [f.item() for f in found] == pytest.approx([c * 16 * math.log(32) / (3 * 16 * 16) for c in (1.0, 2.0)])
    signals = method.loss(x, at(0)).signals
    assert signals["metric/codes_used"].item() == pytest.approx(1)


def test_the_choice_is_relaxed_as_published_or_one_code():
    for hard in (True, False):
        method, given = tiny(straight_through=hard), []
        method.decoder.register_forward_hook(lambda module, x, y, given=given: given.append(x[0].detach()))
        method.loss(view(method), at(0)).terms["pixels"].backward()
        (chosen,) = given
        torch.testing.assert_close(chosen.sum(1), torch.ones(4, 4, 4))
        assert (chosen.amax(1) > 0.9999).all() == hard
        assert method.codes.weight.grad.abs().sum() > 0
        assert method.encoder.trunk.blocks.input.weight.grad.abs().sum() > 0
    method, sharp = tiny(straight_through=False, temperature_steps=10), []
    method.decoder.register_forward_hook(lambda module, x, y: sharp.append(x[0].detach().amax(1).mean()))
    for step in (0, 5, 10):
        torch.manual_seed(0)
        method.loss(view(method), at(step))
    assert sharp[0] < sharp[1] < sharp[2]


def test_the_average_is_handed_over(tmp_path):
    method = tiny(average=0.75)
    before = [p.clone() for p in method.averaged.parameters()]
    with torch.no_grad():
        for part in method.parts().values():
            for p in part.parameters():
                p.add_(1.0)
    method.after_step([], at(0))
    for old, new in zip(before, method.averaged.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    assert not any(p.requires_grad for p in method.averaged.parameters())
    method.hand_over(tmp_path)
    x = view(method)[0]["image"]
    kept = encoders.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(kept(x), method.averaged["encoder"](x))
    assert (kept.inputs.mean, kept.inputs.std) == ((-0.125,) * 3, (1.25,) * 3)
    assert torch.equal(encoders.build_targets("codes", str(tmp_path), 16, 4, 3, 2)(x), method.tokenizer()(x))


def test_reconstructions_are_told_by_codes_alone():
    method = tiny()
    found = method.reconstructions(view(method))
    assert list(found) == ["input", "reconstruction"]
    assert found["reconstruction"].shape == (4, 3, 16, 16)
    nn.init.zeros_(method.averaged["codes"].weight)  # every patch has the same code
    told = method.reconstructions(view(method))["reconstruction"]
    torch.testing.assert_close(told[0], told[3])


def test_what_cannot_work_is_said_before():
    small = DiscreteVAE.presets["small"]
    said = DiscreteVAE.problems(dataclasses.replace(small, size=30))
    assert said == ["size = 30: codes of dvae_mini are of 4 x 4 pixels. Set size=28 or 32."]
    assert "must be dall_e_dvae or dvae_mini" in DiscreteVAE.problems(dataclasses.replace(small, encoder="vit_mini"))[0]


def test_views_are_squares_of_the_published_area():
    (crop,) = DiscreteVAE(dataclasses.replace(Settings(), encoder="dvae_mini", vocabulary=2)).views()
    assert (crop.scale, crop.ratio, crop.flip, crop.jitter) == ((0.444, 0.79), (1.0, 1.0), 0.5, None)
    assert [round(side**2, 3) for side in (8 / 12, 8 / 9)] == [0.444, 0.79]
