"""What fine-tuning draws for its training images: by the record, as often and as large as the papers say."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from tacit.data import Batches, open_source
from tacit.evaluation.augment import Augmented, Repeated
from tacit.evaluation.fine_tune import RECIPES
from tacit.views import Crop, Inputs, Views, erase


@pytest.fixture
def views(digits) -> Views:
    return Views(open_source(digits), [Crop(inputs=Inputs(16), name="x")], 0)


@pytest.mark.parametrize("augment", [(2, 20), "rand-m9-mstd0.5-inc1"])
def test_augmentation_belongs_to_the_record_and_leaves_the_generators(augment, views):
    data = Augmented(views, augment, Inputs(16))
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = data[0, 5]
    assert first["crops"][0].shape == (16, 16, 3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    again = data[0, 5]
    assert np.array_equal(first["crops"][0], again["crops"][0])
    assert first["params"][0]["erase"] == again["params"][0]["erase"] != data[1, 5]["params"][0]["erase"]
    assert not np.array_equal(first["crops"][0], data[1, 5]["crops"][0])
    changed = [not np.array_equal(data[0, i]["crops"][0], views[0, i]["crops"][0]) for i in range(40)]
    assert sum(changed) > 20


def test_timms_randaugment_changes_as_often_as_its_chance_says(views):
    data = Augmented(views, "rand-m9-mstd0.5-inc1-n1", Inputs(16))
    same = np.mean(
        [np.array_equal(data[e, i]["crops"][0], views[e, i]["crops"][0]) for e in range(3) for i in range(200)]
    )
    # one operation with chance 1/2; a few of them leave pictures of pure black and white as they are
    assert 0.45 < same < 0.75
    none = Augmented(views, None, Inputs(16))
    assert np.array_equal(none[0, 5]["crops"][0], views[0, 5]["crops"][0])


def test_erasing_is_as_frequent_and_as_large_as_published():
    count, size = 4000, 32
    images = erase(torch.full((count, 3, size, size), 9.0), torch.arange(count), 0.25)
    gone = (images != 9.0).all(1)
    hit = gone.any(2).any(1)
    assert float(hit.float().mean()) == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / count) ** 0.5)
    share = gone[hit].float().mean((1, 2))
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.36  # a third, and what rounding to whole pixels adds
    assert float(share.mean()) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    high, wide = gone[hit].any(2).sum(1), gone[hit].any(1).sum(1)
    assert torch.equal(high * wide, gone[hit].sum((1, 2)))  # rectangles
    ratio = (high / wide).log()
    assert abs(float(ratio.mean())) < 0.1
    assert float(ratio.abs().max()) < np.log(1 / 0.3) + 0.35
    noise = images[hit].transpose(0, 1)[:, gone[hit]]
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_what_is_erased_follows_the_number_alone():
    whole = torch.randn(60, 3, 16, 16)
    numbers = torch.arange(60) * 7919
    state = torch.get_rng_state()
    one = erase(whole.clone(), numbers, 0.5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(one[20:30], erase(whole[20:30].clone(), numbers[20:30], 0.5))
    assert torch.equal(whole, erase(whole.clone(), numbers, 0.0))


def test_repeats_stand_in_one_batch_and_an_epoch_meets_a_third(digits):
    source = open_source(digits)
    how = {"batch_size": 24, "seed": 3, "total_steps": 20}
    batches = list(Repeated(source, **how, repeats=3))
    assert len(batches) == 20
    for batch in batches:
        assert len(batch) == len(set(batch)) == 24
        assert set(Counter(index for _, index in batch).values()) == {3}
    for epoch in range(2):
        seen = [key for batch in batches[8 * epoch : 8 * epoch + 8] for key in batch]
        assert {e for e, _ in seen} == {3 * epoch, 3 * epoch + 1, 3 * epoch + 2}
        assert len({index for _, index in seen}) == 64  # of 192 places
    assert {i for _, i in batches[0]} != {i for _, i in batches[8]}
    assert list(Repeated(source, **how, start_step=13, repeats=3)) == batches[13:]
    assert list(Repeated(source, **how, repeats=1)) == list(Batches(source, **how))
    odd = [key for batch in Repeated(source, batch_size=50, seed=3, total_steps=4, repeats=3) for key in batch]
    assert sorted(Counter(index for _, index in odd).values()) == [2] + [3] * 66


def test_repeats_of_a_record_are_drawn_each_by_itself(views):
    data = Augmented(views, None, Inputs(16))
    (batch,) = list(Repeated(views.source, batch_size=6, seed=0, total_steps=1, repeats=3))
    crops = [data[key]["crops"][0] for key in batch]
    assert not np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[1], crops[2])
    assert len({data[key]["params"][0]["erase"] for key in batch}) == 6


def test_deits_recipe_is_whole():
    deit = RECIPES["deit"]
    assert (deit.augment, deit.erasing, deit.repeats) == ("rand-m9-mstd0.5-inc1", 0.25, 3)
    assert (deit.mixup, deit.cutmix, deit.smoothing, deit.drop_path, deit.weight_decay) == (0.8, 1.0, 0.1, 0.1, 0.05)
