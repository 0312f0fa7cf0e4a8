"""What fine-tuning does to sounds: nothing unless asked, and what the recipes ask for, by its statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit import encoders
from tacit.evaluation.sound_augment import changed, masked, shares, training_view
from tacit.evaluation.sound_recipes import RECIPES, Settings, wrong_together
from tacit.views import Excerpt, kaldi_inputs


@pytest.fixture(scope="module")
def encoder():
    return encoders.build("vit_mini", inputs=kaldi_inputs(frames=32, mels=32, rate=8000), patch=8, depth=1)


@pytest.fixture
def waves(encoder):
    return 0.1 * torch.randn(4, 1, encoder.inputs.samples, generator=torch.Generator().manual_seed(0))


def test_nothing_is_changed_or_drawn_unless_asked(encoder, waves):
    labels, state = torch.tensor([0, 1, 1, 0]), torch.get_rng_state()
    x, y = changed(Settings(), encoder, waves, {}, labels, 2)
    assert torch.equal(x, encoder.inputs.prepare(waves))
    assert y is labels
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(training_view(encoder, Settings()), Excerpt)


def test_masks_are_stretches_of_time_and_bands():
    torch.manual_seed(0)
    x = masked(torch.zeros(4000, 1, 40, 24), 10, 6, 5.0)[:, 0] == 5.0
    rows, bands = x.all(2), x.all(1)
    for hidden, most, length in ((rows, 10, 40), (bands, 6, 24)):
        count = hidden.sum(1)
        assert int(count.max()) == most - 1
        assert float(count.float().mean()) == pytest.approx((most - 1) / 2, abs=0.2)
        steps = (hidden[:, 1:] != hidden[:, :-1]).sum(1)
        assert int(steps.max()) <= 2  # one stretch
        assert bool(hidden[:, 0].any())
        assert bool(hidden[:, length - 1].any() or hidden[:, length - 2].any())
    assert torch.equal(x, rows[:, :, None] | bands[:, None, :])


def test_masks_are_levels_of_nought_not_means(encoder, waves):
    torch.manual_seed(0)
    s = Settings(freq_mask=32, time_mask=32)
    x, _ = changed(s, encoder, waves, {}, torch.zeros(4, dtype=torch.long), 2)
    new = x[x != encoder.inputs.prepare(waves)]
    assert len(new) > 100
    assert np.allclose(new, 4.2677393 / (2 * 4.5689974))


def test_shares_come_from_beta_as_often_as_asked():
    torch.manual_seed(0)
    found = shares(20_000, 0.6, 10.0)
    mixed = found[found < 1]
    assert len(mixed) / len(found) == pytest.approx(0.6, abs=0.015)
    assert float(mixed.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(mixed.std()) == pytest.approx((1 / (4 * 21)) ** 0.5, abs=0.005)
    assert bool((shares(100, 0.0, 0.5) == 1).all())


@pytest.mark.parametrize("of", ["waves", "levels"])
def test_sounds_are_mixed_as_their_labels_say(of, encoder, waves):
    torch.manual_seed(3)
    labels = torch.arange(4)
    x, y = changed(Settings(mixup=1.0, mixup_of=of), encoder, waves, {}, labels, 4)
    torch.manual_seed(3)
    partner, own = torch.randperm(4), shares(4, 1.0, 0.5)
    assert torch.allclose(y.sum(1), torch.ones(4))
    for i, (j, a) in enumerate(zip(partner.tolist(), own.tolist(), strict=True)):
        if of == "waves":
            wanted = encoder.inputs.prepare((a * waves[i] + (1 - a) * waves[j])[None])[0]
        else:
            one, other = (encoder.inputs.prepare(waves[k : k + 1])[0] for k in (i, j))
            wanted = (a * one.exp() + (1 - a) * other.exp()).log()
        assert torch.allclose(x[i], wanted, atol=1e-4)
        assert float(y[i, i]) == pytest.approx(1.0 if i == j else a)


def test_noise_is_small_and_rolls_by_rows(encoder, waves):
    torch.manual_seed(0)
    x, _ = changed(Settings(noise=True), encoder, waves, {}, torch.zeros(4, dtype=torch.long), 2)
    plain = encoder.inputs.prepare(waves)
    for one, before in zip(x, plain, strict=True):
        gap = torch.stack([(one - before.roll(by, 1)).abs().max() for by in range(-10, 10)])
        assert float(gap.min()) <= 0.1
        assert float(gap.sort().values[1]) > 0.1


def test_what_cannot_go_together_is_named():
    speech = {"spectrograms": False, "teacher": False}
    assert not wrong_together(RECIPES["speech"], **speech)
    assert "time_mask" in wrong_together(RECIPES["ast"], **speech)[0]
    assert "mixup_of=levels" in wrong_together(RECIPES["atst"], **speech)[0]
    assert not wrong_together(RECIPES["atst"], spectrograms=True, teacher=True)
    both = replace(RECIPES["small"], contrast="supcon", stage="before", mixup=0.5)
    assert len(wrong_together(both, spectrograms=True, teacher=True)) == 2
