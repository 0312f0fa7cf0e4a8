"""Mixtures of images by their counts and places, and the view whose records draw them."""

import pytest
import torch

from tacit.data import open_source
from tacit.errors import UsageError
from tacit.views import Crop, Mixable, Views, collate, finish, input_spec, mixture, rng


def drawn(count: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    view = Mixable(Crop(inputs=input_spec(4 * side, 3)), cell=4)
    params = [view.draw(rng(0, 0, i, 0), 40, 40) for i in range(count)]
    return torch.stack([torch.from_numpy(p["permutation"]) for p in params]), torch.tensor([p["place"] for p in params])


def test_every_image_of_a_group_owns_as_many_positions_and_together_all():
    slots, owners = mixture(*drawn(64), sources=4)
    assert slots.shape == owners.shape == (16, 64)
    for found in (slots, owners):
        assert (torch.stack([(found == n).sum(1) for n in range(4)]) == 16).all()
    for group in range(16):  # an image owns one slot, whole
        assert len(set(zip(slots[group].tolist(), owners[group].tolist(), strict=True))) == 4


def test_positions_and_slots_are_as_likely_for_any_image():
    slots, owners = mixture(*drawn(1600), sources=4)
    shares = torch.stack([(owners == n).float().mean(0) for n in range(4)])
    assert shares.mean(1).tolist() == pytest.approx([0.25] * 4)
    assert (shares - 0.25).abs().max() < 0.12  # 400 groups: five standard errors
    of_first = torch.stack([slots[g][owners[g] == 0][0] for g in range(400)])
    assert (of_first.bincount() / 400).tolist() == pytest.approx([0.25] * 4, abs=0.1)


def test_the_shifts_show_every_patch_of_every_image_once():
    order, place = drawn(8)
    owners = torch.stack([mixture(order, place, 4, shift)[1] for shift in range(4)])
    assert torch.equal(owners.sort(0).values, torch.arange(4).view(4, 1, 1).expand(4, 2, 64))
    slots = torch.stack([mixture(order, place, 4, shift)[0] for shift in range(4)])
    assert torch.equal(slots[1], (slots[0] + 1) % 4)


def test_the_map_is_the_first_record_s_and_the_places_are_each_record_s_own():
    order, place = drawn(4)
    slots, owners = mixture(order, place, 4)
    assert torch.equal(slots[0], order[0].flatten() // 16)
    assert place[owners[0][slots[0] == 0][0]] == place.min()
    other, _ = drawn(8)
    assert torch.equal(mixture(torch.cat([order[:1], other[5:]]), place, 4)[1], owners)


def test_what_cannot_be_cut_is_refused():
    order, place = drawn(6)
    with pytest.raises(UsageError, match="sources = 4: must divide the 6 images"):
        mixture(order, place, 4)
    with pytest.raises(UsageError, match="the 64 patches"):
        mixture(order, place, 3)


def test_a_record_draws_the_same_whatever_the_batch_and_its_crop_is_as_without(digits):
    crop = Crop(inputs=input_spec(16, 3))
    view = Mixable(crop, cell=4)
    source = open_source(digits)
    (a,) = finish(collate([Views(source, [view], seed=1)[(3, i)] for i in range(4)]), [view])
    (b,) = finish(collate([Views(source, [crop], seed=1)[(3, i)] for i in range(4)]), [crop])
    (alone,) = finish(collate([Views(source, [view], seed=1)[(3, 2)]]), [view])
    assert torch.equal(a["image"], b["image"])
    assert torch.equal(alone["permutation"][0], a["permutation"][2])
    assert alone["place"][0] == a["place"][2]
    assert a["permutation"].flatten(1).sort().values.tolist() == [list(range(16))] * 4
    assert ((a["place"] >= 0) & (a["place"] < 1)).all()
