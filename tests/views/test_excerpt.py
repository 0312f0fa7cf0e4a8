"""Excerpts of sounds: where they begin, and what two of one recording share."""

import numpy as np
import torch

from tacit.views import Another, Blocks, Corrupted, Excerpt, kaldi_inputs, rng

INPUTS = kaldi_inputs(98)  # 16,000 - 80 samples
LENGTH = 400 + 97 * 160


def test_an_excerpt_begins_anywhere_and_lies_inside():
    view = Excerpt(INPUTS)
    drawn = [view.draw(rng(0, 0, i, 0), 3 * 8000, 8000) for i in range(2000)]  # 3 s at half the rate
    starts = np.array([d["start"] for d in drawn])
    assert starts.min() >= 0
    assert starts.max() <= 48_000 - LENGTH
    assert abs(starts.mean() / (48_000 - LENGTH) - 0.5) < 0.03
    assert {d["shift"] for d in drawn} == {0}
    cut = view.cut(drawn[0])
    assert (cut.samples, cut.rate, cut.shift) == (LENGTH, 16_000, 0)
    assert view.draw(rng(0, 0, 0, 0), 100, 8000)["start"] == 0  # all of a short one


def test_half_of_the_recordings_are_rolled_by_anything():
    drawn = [Excerpt(INPUTS, roll=0.5).draw(rng(0, 0, i, 0), 32_000, 16_000) for i in range(2000)]
    shifts = np.array([d["shift"] for d in drawn])
    assert abs((shifts > 0).mean() - 0.5) < 3 * 0.5 / 2000**0.5
    assert abs(shifts[shifts > 0].mean() / 32_000 - 0.5) < 0.03
    plain = [Excerpt(INPUTS).draw(rng(0, 0, i, 0), 32_000, 16_000)["start"] for i in range(2000)]
    assert [d["start"] for d in drawn] == plain  # a chance changes nothing else


def test_another_excerpt_is_of_the_same_rolled_recording():
    first, second = Excerpt(INPUTS, roll=0.5), Another(INPUTS, roll=0.5)
    pairs = [[v.draw(rng(0, 0, i, 0), 64_000, 16_000) for v in (first, second)] for i in range(500)]
    assert all(a["shift"] == b["shift"] for a, b in pairs)
    starts = np.array([[a["start"], b["start"]] for a, b in pairs])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.15
    assert (starts[:, 0] != starts[:, 1]).mean() > 0.99


def test_a_corrupted_excerpt_knows_by_whose_numbers_it_draws():
    blocks = Blocks()
    assert Corrupted(Another(INPUTS), blocks, ("zeros",)).of == 0
    assert getattr(Corrupted(Excerpt(INPUTS), blocks, ("zeros",)), "of", None) is None
    masks = [
        Corrupted(view, blocks, ("zeros",)).draw(rng(0, 0, 5, 0), 64_000, 16_000)["mask"]
        for view in (Excerpt(INPUTS), Another(INPUTS))
    ]
    assert masks[0].shape == (98, 128)
    assert (masks[0] != masks[1]).any()  # from here on the numbers are its own


def test_its_picture_is_what_the_inputs_prepare():
    waves = torch.sin(torch.arange(2 * LENGTH) * 0.1).view(2, 1, -1)
    assert torch.equal(Excerpt(INPUTS).finish(waves, {})["image"], INPUTS.prepare(waves))
