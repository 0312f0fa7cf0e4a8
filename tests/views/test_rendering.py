"""One crop rendered twice, and masks of an exact number of patches."""

import numpy as np
import torch
from PIL import Image

from tacit.data import Cut, Picture
from tacit.data.open import open_source
from tacit.views import (
    Crop,
    Masked,
    Rendering,
    Views,
    collate,
    count_problems,
    exact_mask,
    finish,
    input_spec,
    rendered_twice,
    rng,
)


def pair(**colours):
    crop = Crop(inputs=input_spec(16, 3, interpolation="bicubic"), scale=(0.2, 1.0), **colours)
    again = input_spec(8, 3, (0.0,) * 3, (1.0,) * 3, "lanczos")
    return rendered_twice(crop, exact_mask(8, 4), 4, again)


def test_the_second_draws_what_the_first_drew(digits):
    views = pair(jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0)
    assert [type(view) for view in views] == [Masked, Rendering]
    data = Views(open_source(digits), views, seed=5)
    for i in range(20):
        first, second = data[(1, i)]["params"]
        assert first.pop("mask").sum() == 8
        assert first == second
    alone = Views(open_source(digits), views[:1], seed=5)
    assert alone[(1, 3)]["params"][0]["top"] == data[(1, 3)]["params"][0]["top"]
    assert data[(1, 3)]["crops"][1].shape == (8, 8, 3)


def test_each_is_prepared_in_its_own_way(digits):
    views = pair()
    batch = collate([Views(open_source(digits), views, seed=5)[(1, i)] for i in range(4)])
    first, second = finish(batch, views)
    assert first["mask"].shape == (4, 4, 4)
    assert "mask" not in second
    assert 0 <= second["image"].min() <= second["image"].max() <= 1
    assert first["image"].min() < -1


def test_lanczos_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    (found,) = Picture(pixels).crops([Cut(2, 3, 12, 10, (5, 5), "lanczos")])
    expected = Image.fromarray(pixels).resize((5, 5), Image.Resampling.LANCZOS, box=(3, 2, 13, 14))
    assert np.array_equal(found, np.asarray(expected))


def test_masks_hide_just_as_many_as_asked():
    for grid, count, smallest in ((14, 98, 16), (14, 30, 16), (8, 32, 4), (4, 8, 4), (2, 3, 1)):
        for kind in (smallest, None):
            sampler = exact_mask(count, kind)
            found = np.stack([sampler(rng(0, 0, i, 0), grid, grid) for i in range(100)])
            assert (found.sum((1, 2)) == count).all()
            assert found.any(0).all() or count < 8
    rows = torch.from_numpy(np.stack([exact_mask(4, None)(rng(0, 0, i, 0), 4, 4) for i in range(3000)])).float()
    torch.testing.assert_close(rows.mean(0), torch.full((4, 4), 0.25), atol=0.04, rtol=0)


def test_counts_that_leave_nothing_are_refused():
    assert count_problems(14, 0.5, 16) == count_problems(4, 0.5, 1) == []
    assert count_problems(4, 0.05, 1)[0].startswith("mask_ratio = 0.05: hides 0 of 16 patches")
    assert count_problems(4, 1.0, 1)[0].startswith("mask_ratio = 1: hides 16 of 16 patches")
    assert "smaller patch" in count_problems(1, 0.5, 1)[0]
    assert count_problems(4, 0.5, 10)[0].startswith("mask_block = 10")
