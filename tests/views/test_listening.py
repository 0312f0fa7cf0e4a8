"""Backgrounds and resized crops of spectrograms (BYOL-A), against their formulas and torch's own interpolation."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.views import Backgrounds, Excerpt, Heard, log_mixed, mel_db_inputs, resized_crop, rng, span_mask
from tacit.views.masks import span_problems


def pictures(count: int, frames: int = 20, mels: int = 8) -> torch.Tensor:
    return torch.sin(torch.arange(count * frames * mels, dtype=torch.float32)).view(count, 1, frames, mels)


def test_energies_are_added_not_logarithms():
    x, z = torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), math.log(3))
    mixed = log_mixed(x, z, torch.tensor([0.0, 0.25])).flatten()
    assert mixed.tolist() == pytest.approx([0.0, math.log(0.75 + 0.25 * 3)], abs=1e-6)


def test_backgrounds_are_the_last_ones_heard_of_the_same_view():
    bank = Backgrounds(2, 3, (20, 8))
    x = pictures(2)
    loud, pick = torch.tensor([0.4, 0.4]), torch.tensor([0.0, 0.999])
    assert torch.equal(bank.mixed(0, x, loud, pick), x)  # nothing yet
    heard = torch.stack([torch.full((4, 20, 8), float(v)) + torch.arange(4.0).view(4, 1, 1) / 8 for v in (1, -1)])
    bank.hear(heard[:, :2])
    assert torch.equal(bank.mixed(1, x, loud, pick), log_mixed(x, heard[1, :2, None], loud))
    bank.hear(heard[:, 2:])  # three places: the first is forgotten
    assert int(bank.heard) == 4
    kept = bank.rows[0, :, 0, 0].tolist()
    assert sorted(kept) == [1.125, 1.25, 1.375]
    bank.hear(heard.repeat(1, 3, 1, 1))  # more at once than it holds
    assert sorted(bank.rows[0, :, 0, 0].tolist()) == [1.125, 1.25, 1.375]


@pytest.mark.parametrize("place", [(0, 0, 30, 8), (5, 0, 20, 8), (3, 2, 13, 5), (29, 7, 1, 1), (10, 1, 7, 3)])
def test_a_resized_crop_is_torchs_bicubic_one(place):
    x = pictures(2)
    canvas = F.pad(x, (0, 0, 5, 5))
    top, left, h, w = place
    expected = F.interpolate(canvas[:, :, top : top + h, left : left + w], (20, 8), mode="bicubic", align_corners=True)
    found = resized_crop(x, torch.tensor([place, place]), 1.5)
    assert torch.allclose(found, expected, atol=2e-5)
    if place == (5, 0, 20, 8):
        assert torch.allclose(found, x, atol=1e-6)  # the excerpt itself


def test_each_record_has_a_crop_of_its_own():
    x = pictures(2)
    both = resized_crop(x, torch.tensor([(0, 0, 12, 8), (9, 1, 20, 6)]), 1.5)
    alone = [resized_crop(x[i : i + 1], torch.tensor([p]), 1.5) for i, p in enumerate([(0, 0, 12, 8), (9, 1, 20, 6)])]
    assert torch.equal(both, torch.cat(alone))


def test_the_record_draws_loudness_and_place():
    inputs = mel_db_inputs(101)
    view = Heard(Excerpt(inputs))
    drawn = [view.draw(rng(0, 0, i, 0), 40_000, 16_000) for i in range(3000)]
    loud = np.array([d["loudness"] for d in drawn])
    assert 0 <= loud.min() < 0.01 < 0.39 < loud.max() < 0.4
    top, left, high, wide = np.array([d["place"] for d in drawn]).T
    assert high.min() >= 60
    assert high.max() == 151  # a canvas half as long again; drawn up to 1.5 times the frames
    assert (top + high <= 151).all()
    assert (left + wide <= 64).all()
    assert wide.max() == 64
    assert (wide == 64).mean() == pytest.approx(0.5 / 0.9, abs=0.03)  # shares of 1 and more are the whole
    plain = [Excerpt(inputs).draw(rng(0, 0, i, 0), 40_000, 16_000)["start"] for i in range(20)]
    assert [d["start"] for d in drawn[:20]] == plain


def test_spans_hide_half_of_the_frames_not_two_thirds():
    """Dossier: mean .503, deviation .028, no span under 5, the last frame hidden is 248 at most."""
    masks = np.stack([span_mask(rng(3, 0, i, 0), 250, 1, ratio=0.65, span=5)[:, 0] for i in range(4000)])
    shares = masks.mean(1)
    assert shares.mean() == pytest.approx(0.503, abs=0.003)
    assert shares.std() == pytest.approx(0.028, abs=0.003)
    assert not masks[:, 249].any()
    assert masks[:, 248].any()
    edges = np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(int), axis=1)
    runs = np.concatenate([np.flatnonzero(e == -1) - np.flatnonzero(e == 1) for e in edges])
    assert runs.min() == 5


def test_two_spans_need_room():
    assert span_problems(250, 0.65, 5) == []
    assert "mask_span = 5: 10 frames" in span_problems(10, 0.65, 5)[0]
    assert span_mask(rng(0, 0, 0, 0), 11, 1, ratio=0.1, span=5).sum() > 5


def test_a_mask_comes_with_the_excerpt():
    inputs = mel_db_inputs(101)
    sampler = partial(span_mask, ratio=0.65, span=5)
    view = Heard(Excerpt(inputs), sampler=sampler)
    params = view.draw(rng(0, 0, 1, 0), 40_000, 16_000)
    assert params["mask"].shape == (25, 1)
    found = view.finish(torch.zeros(1, 1, inputs.samples), {k: torch.tensor(np.array([v])) for k, v in params.items()})
    assert set(found) == {"image", "loudness", "pick", "place", "mask"}
