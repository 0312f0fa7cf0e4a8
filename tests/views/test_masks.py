"""Masks by their counts and places, and the view that carries one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.views import (
    Crop,
    Masked,
    Views,
    block_mask,
    collate,
    finish,
    input_spec,
    multi_block_masks,
    random_mask,
    ratio_problems,
    rng,
    sometimes_blocks,
    tube_mask,
)


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


@pytest.mark.parametrize(
    ("seed", "side", "count", "expected"),
    [
        (0, 14, 19, 0x3E00F803E000000002000800200000000000010),
        (1, 14, 58, 0x7001E007801E007001C007001C007181FE01F807E01F80000),
        (2, 14, 98, 0x107E01F807FF9FFE7FF9FFE3FE003C07F01FC07F01C0),
        (4, 4, 8, 0b0110011001110001),
    ],
)
def test_blocks_are_those_of_the_official_generator(seed, side, count, expected):
    """The published code with our generator's numbers in place of its own."""
    mask = block_mask(np.random.default_rng(seed), side, side, count=count)
    assert int("".join("01"[int(v)] for v in mask.ravel()), 2) == expected


def test_blocks_hide_what_is_asked_and_never_more():
    for side, count in ((14, 20), (14, 98), (8, 32), (4, 8)):
        found = np.stack([block_mask(rng(0, 0, i, 0), side, side, count=count) for i in range(300)])
        hidden = found.sum((1, 2))
        assert hidden.max() == count
        assert hidden.min() > 0
        assert hidden.mean() > 0.9 * count
    # together: hidden patches lie beside hidden ones far more often than by chance
    found = np.stack([block_mask(rng(0, 0, i, 0), 14, 14, count=39) for i in range(300)])
    beside = (found[:, :, 1:] & found[:, :, :-1]).sum() / found[:, :, :-1].sum()
    assert beside > 3 * 39 / 196


def test_some_images_keep_all_their_patches():
    drawn = [sometimes_blocks(rng(0, 0, i, 0), 8, 8, share=0.25, ratio=(0.25, 0.5)) for i in range(800)]
    hidden = np.array([mask.sum() for mask in drawn])
    assert np.mean(hidden > 0) == pytest.approx(0.25, abs=0.05)
    assert hidden.max() <= 32
    assert not sometimes_blocks(rng(0, 0, 0, 0), 8, 8, share=0.0, ratio=(0.1, 0.5)).any()


def test_a_view_around_a_crop_passes_on_what_the_crop_does_where_records_are_read(digits):
    crop = Crop(inputs=input_spec(16, 3), augment=(2, 9))
    view = Masked(crop, partial(random_mask, ratio=0.5), cell=4)
    source = open_source(digits)
    around, alone, plain = (
        Views(source, [v], seed=1)[(3, 2)]["crops"][0] for v in (view, crop, replace(crop, augment=None))
    )
    assert np.array_equal(around, alone)
    assert not np.array_equal(around, plain)


def test_blocks_to_be_told_lie_outside_their_context():
    found = np.stack([multi_block_masks(rng(0, 0, i, 0), 14, 14) for i in range(500)])
    assert found.shape == (500, 5, 14, 14)
    context, blocks = ~found[:, 0], found[:, 1:]
    assert not (context & blocks.any(1)).any()
    assert context.any((1, 2)).all()
    area = blocks.sum((2, 3)) / 196
    assert (area == area[:, :1]).all()  # one shape a record
    assert 0.12 < area.min() < area.max() < 0.22  # .15 to .2, and the rounding of sides
    assert area.mean() == pytest.approx(0.175, abs=0.005)
    high, wide = (blocks.any(axis).sum(-1) for axis in (3, 2))
    assert (high * wide == blocks.sum((2, 3))).all()  # whole rectangles
    assert 0.65 < (high / wide).min() < (high / wide).max() < 1.8
    with pytest.raises(ValueError, match="leave no context"):
        multi_block_masks(rng(0, 0, 0, 0), 2, 2, targets=4, scale=(0.9, 1.0))


def test_a_tube_hides_the_same_patches_of_every_frame():
    found = tube_mask(rng(0, 0, 3, 0), 8, 14, 14, ratio=0.9)
    assert found.shape == (8, 14, 14)
    assert (found == random_mask(rng(0, 0, 3, 0), 14, 14, ratio=0.9)).all()
