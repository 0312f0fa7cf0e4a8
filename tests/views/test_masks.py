"""Masks by their counts and places, and the view that carries one."""

from functools import partial

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.views import Crop, Masked, Views, collate, finish, input_spec, random_mask, ratio_problems, rng


def masks(count: int, rows: int = 14, cols: int = 14, **how) -> np.ndarray:
    return np.stack([random_mask(rng(0, 0, i, 0), rows, cols, **how) for i in range(count)])


def test_the_same_number_is_hidden_everywhere_alike():
    found = masks(2000, ratio=0.75)
    assert (found.sum((1, 2)) == 147).all()
    assert found.mean(0) == pytest.approx(np.full((14, 14), 0.75), abs=0.05)
    assert (masks(5, 3, 3, ratio=0.75).sum((1, 2)) == 7).all()  # int(9 x .25) stay


def test_units_are_hidden_whole():
    found = masks(500, 12, 12, ratio=0.6, unit=4)
    units = found.reshape(500, 3, 4, 3, 4).swapaxes(2, 3).reshape(500, 9, 16)
    assert set(units.mean(2).ravel()) == {0.0, 1.0}
    assert (units[:, :, 0].sum(1) == 6).all()


def test_a_masked_crop_is_the_crop_with_a_mask_whatever_the_batch(digits):
    crop = Crop(inputs=input_spec(16, 3))
    view = Masked(crop, partial(random_mask, ratio=0.5), cell=4)
    source = open_source(digits)
    with_mask, plain = Views(source, [view], seed=1), Views(source, [crop], seed=1)
    (a,) = finish(collate([with_mask[(3, i)] for i in range(4)]), [view])
    (b,) = finish(collate([plain[(3, i)] for i in range(4)]), [crop])
    assert torch.equal(a["image"], b["image"])
    assert a["mask"].shape == (4, 4, 4)
    assert a["mask"].dtype == torch.bool
    assert a["mask"].sum((1, 2)).tolist() == [8] * 4
    (alone,) = finish(collate([with_mask[(3, 2)]]), [view])
    assert torch.equal(alone["mask"][0], a["mask"][2])


def test_a_ratio_that_leaves_nothing_seen_or_hidden_is_refused_with_one_that_does():
    assert ratio_problems(0.75, 4) == ratio_problems(0.5, 2) == []
    (said,) = ratio_problems(0.9, 4, "ratio")
    assert said == "ratio = 0.9: leaves none visible of 4 patches. Choose one from 0.25 to 0.749."
    assert ratio_problems(0.749, 4) == ratio_problems(0.25, 4) == []
    for patches in (2, 10, 49, 64, 196, 256):  # whatever the rounding, what is advised works
        (said,) = ratio_problems(1.0, patches)
        low, high = (float(word.rstrip(".")) for word in said.split("from ")[1].split(" to "))
        assert ratio_problems(low, patches) == ratio_problems(high, patches) == []
    assert "none hidden" in ratio_problems(0.0, 9)[0]
    assert "a smaller patch" in ratio_problems(0.5, 1)[0]
