"""Blocks by their counts and places, aliens by where they come from, and all of it the record's own."""

import math

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.errors import UsageError
from tacit.views import (
    Blocks,
    Corrupted,
    Crop,
    Excerpt,
    Spoiled,
    Turned,
    Views,
    collate,
    finish,
    input_spec,
    kaldi_inputs,
    rng,
)
from tacit.views.corruption import copied_from, gaussian, row_of


def covers(count: int, side: int, most: float, **how) -> list[tuple[np.ndarray, list]]:
    return [Blocks(**how).cover(rng(7, 0, i, 0), side, side, most) for i in range(count)]


# Coverage and blocks a picture of the official sampler over 400 draws at 224 pixels.
@pytest.mark.parametrize(
    ("most", "align", "mean", "std", "blocks"),
    [(0.3, 1, 0.314, 0.013, 20), (0.5, 1, 0.511, 0.010, 40), (0.7, 1, 0.613, 0.057, 55), (0.75, 1, 0.632, 0.070, 60),
     (0.3, 16, 0.315, 0.013, 12), (0.75, 16, 0.633, 0.072, 33)],
)  # fmt: skip
def test_coverage_is_the_published_samplers(most, align, mean, std, blocks):
    drawn = covers(120, 224, most, align=align)
    shares = np.array([mask.mean() for mask, _ in drawn])
    assert shares.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(120) + 0.002)
    assert shares.std() == pytest.approx(std, rel=0.35)
    assert np.mean([len(places) for _, places in drawn]) == pytest.approx(blocks, rel=0.15)
    assert (shares >= min(0.5, most)).all()  # every draw reaches its target
    for mask, places in drawn:
        before = np.zeros_like(mask)
        for top, left, h, w in places[:-1]:
            before[top : top + h, left : left + w] = True
        assert before.mean() < most  # and it is the last block that does


# The official function under the same generator: pixels covered, and the sums of their rows and columns.
@pytest.mark.parametrize(
    ("seed", "side", "most", "align", "sums"),
    [(0, 224, 0.75, 1, (26142, 3239193, 2838823)), (1, 224, 0.3, 16, (15360, 1659392, 1647104)),
     (2, 224, 0.75, 16, (31488, 3693184, 3963520)), (3, 32, 0.75, 1, (753, 12431, 12882)),
     (4, 32, 0.5, 4, (544, 8816, 7600))],
)  # fmt: skip
def test_the_same_numbers_cover_the_same_pixels_as_officially(seed, side, most, align, sums):
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    mask, _ = Blocks(align=align).cover(generator, side, side, most)
    rows, cols = np.nonzero(mask)
    assert (mask.sum(), rows.sum(), cols.sum()) == sums


def test_aligned_blocks_hide_whole_patches_and_others_mostly_not():
    def partly(align: int) -> float:
        masks = np.stack([mask for mask, _ in covers(60, 224, 0.75, align=align)])
        shares = masks.reshape(60, 14, 16, 14, 16).mean((2, 4))
        return float(((shares > 0) & (shares < 1)).mean())

    assert partly(16) == 0
    assert partly(1) == pytest.approx(0.52, abs=0.03)


def test_sides_are_less_than_their_share_of_the_picture():
    sides = np.array([place[2:] for _, places in covers(40, 224, 0.75) for place in places])
    assert sides.max() == 66  # floor(.3 x 224) - 1
    assert sides.min() >= 1
    assert max(place[2] for _, places in covers(40, 32, 0.5, align=8) for place in places) == 8


def test_the_published_blocks_hardly_touch_the_top_left_and_unbiased_ones_are_everywhere_alike():
    published = np.mean([mask for mask, _ in covers(250, 64, 0.75)], axis=0)
    assert published[:2, :2].mean() < 0.06
    assert published[28:36, 28:36].mean() == pytest.approx(0.74, abs=0.05)
    assert published[-2:, -2:].mean() > 0.5
    even = np.mean([mask for mask, _ in covers(250, 64, 0.75, unbiased=True)], axis=0)
    cells = even.reshape(8, 8, 8, 8).mean((1, 3))
    assert cells.mean() == pytest.approx(0.63, abs=0.02)
    assert np.abs(cells - cells.mean()).max() < 0.1
    aligned = np.mean([mask for mask, _ in covers(300, 32, 0.75, align=8, unbiased=True)], axis=0)
    assert np.abs(aligned - aligned.mean()).max() < 0.1


def test_what_blocks_cannot_cover_is_said_before_they_try():
    assert Blocks().problems(224, 0.75, 0.3) == []
    assert "must divide" in Blocks(align=16).problems(40, 0.5)[0]
    assert "there are none" in Blocks(align=8).problems(16, 0.5)[0]
    # Sides of exactly one patch never reach the last row and column of patches: 9 of 16.
    assert Blocks(align=8).reach(32) == pytest.approx(9 / 16)
    assert "unbiased=true" in Blocks(align=8).problems(32, 0.75)[0]
    with pytest.raises(UsageError, match="unbiased=true"):
        view(32, blocks=Blocks(align=8))
    assert Blocks(align=8).problems(32, 0.5) == Blocks(align=8, unbiased=True).problems(32, 0.75) == []


def view(size: int = 16, channels: int = 3, **how) -> Corrupted:
    return Corrupted(Crop(inputs=input_spec(size, channels), whole=True), **how)


def batch(view, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    size, channels = view.inputs.size, view.inputs.channels
    images = torch.randint(0, 256, (count, size, size, channels), generator=g, dtype=torch.uint8).numpy()
    samples = [
        {
            "crops": [images[i]],
            "params": [view.draw(rng(seed, 0, i, 0), size, size)],
            "index": i,
            "label": -1,
            "bad": [],
        }
        for i in range(count)
    ]
    made = collate(samples)
    (found,) = finish(made, [view])
    return found | {"params": made["views"][0]["params"]}


def test_one_kind_a_record_each_equally_likely_and_the_rest_untouched_to_the_last_bit():
    v = view(fills=("noise", "zeros", "copy"))
    found = batch(v, 400)
    kinds, clean, mask = found["params"]["kind"], found["clean"], found["mask"]
    assert v.kinds == ("noise", "zeros", "copy", "donor")
    assert (kinds.bincount(minlength=4) / 400).tolist() == pytest.approx([0.25] * 4, abs=3 * math.sqrt(0.1875 / 400))
    assert torch.equal(found["image"].where(~mask, torch.tensor(0.0)), clean.where(~mask, torch.tensor(0.0)))
    assert mask.shape == (400, 1, 16, 16)
    assert not found["image"].masked_select(mask & (kinds == 1)[:, None, None, None]).any()
    noise = found["image"].masked_select(mask & (kinds == 0)[:, None, None, None])
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    shares = mask.float().mean((1, 2, 3))
    assert (shares[kinds == 3] >= 0.3).all()
    assert shares[kinds == 3].mean() < 0.36
    assert (shares[kinds != 3] >= 0.5).all()


def test_half_of_the_records_have_a_donor_whose_clean_pixels_lie_at_the_same_place():
    found = batch(view(), 300)
    given = (found["params"]["kind"] == 1).nonzero().flatten().tolist()
    assert len(given) / 300 == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / 300))
    donors = (found["params"]["donor"] * 300).long().tolist()
    assert len({donors[i] for i in given}) > 100
    for i in given:
        assert torch.equal(
            found["image"][i], torch.where(found["mask"][i], found["clean"][donors[i]], found["clean"][i])
        )


def test_without_donors_or_without_fills_all_records_have_the_other():
    assert view(donor_share=0.0).kinds == ("noise",)
    assert set(batch(view(fills=()), 20)["params"]["kind"].tolist()) == {0}
    assert view(fills=()).kinds == ("donor",)


def test_a_record_may_be_its_own_donor_and_rows_are_equally_likely():
    rows = row_of(torch.linspace(0, 1, 10001)[:-1], 8)
    assert rows.bincount().tolist() == [1250] * 8
    assert row_of(torch.tensor([0.99999999]), 8).tolist() == [7]  # which is 1 in float32


def test_copied_blocks_come_from_the_picture_as_the_blocks_before_left_it():
    places = [(0, 0, 4, 4), (2, 2, 4, 3), (1, 0, 5, 5)]
    source = copied_from(rng(0, 0, 0, 0), 8, places, 1)
    pixels = np.random.default_rng(1).random((8, 8))
    by_hand, again = pixels.copy(), rng(0, 0, 0, 0)
    for top, left, h, w in places:
        y, x = int(again.integers(8 - h)), int(again.integers(8 - w))
        by_hand[top : top + h, left : left + w] = by_hand[y : y + h, x : x + w].copy()
    assert np.array_equal(pixels.ravel()[source], by_hand)
    found = batch(view(fills=("copy",), donor_share=0.0), 6)
    values = [set(image.flatten().tolist()) for image in found["clean"][:, 0]]
    assert all(set(image.flatten().tolist()) <= v for image, v in zip(found["image"][:, 0], values, strict=True))
    assert not torch.equal(found["image"], found["clean"])


def test_noise_is_normal_follows_from_its_record_and_is_never_shared():
    seeds = torch.tensor([[1, 2], [1, 2], [1, 3], [2, 2]])
    x = gaussian(seeds, 40_000)
    assert torch.equal(x[0], x[1])
    assert torch.equal(gaussian(seeds[2:3], 100)[0], x[2, :100])
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    for row in x[[0, 2, 3]].double():
        assert row.mean() == pytest.approx(0, abs=4 / 200)
        assert row.var() == pytest.approx(1, abs=4 * math.sqrt(2) / 200)
        assert (row**4).mean() == pytest.approx(3, abs=4 * math.sqrt(96) / 200)
        assert abs((row[1:] * row[:-1]).mean()) < 4 / 200
    between = torch.corrcoef(x[[0, 2, 3]])
    assert (between - torch.eye(3)).abs().max() < 4 / 200
    ends = gaussian(torch.tensor([[2**32 - 1, 2**32 - 1], [0, 0]]), 1000)
    assert torch.isfinite(ends).all()
    assert x[0].unique().numel() > 39_000


def test_a_corrupted_crop_is_the_crop_whatever_the_batch(digits):
    crop = Crop(inputs=input_spec(16, 3))
    noisy = Corrupted(crop, donor_share=0.0)
    source = open_source(digits)
    ours, plain = Views(source, [noisy], seed=1), Views(source, [crop], seed=1)
    (a,) = finish(collate([ours[(3, i)] for i in range(6)]), [noisy])
    (b,) = finish(collate([plain[(3, i)] for i in range(6)]), [crop])
    assert torch.equal(a["clean"], b["image"])
    (alone,) = finish(collate([ours[(3, 4)]]), [noisy])
    assert torch.equal(alone["image"][0], a["image"][4])
    assert torch.equal(alone["mask"][0], a["mask"][4])
    (next_epoch,) = finish(collate([ours[(4, 4)]]), [noisy])
    assert not torch.equal(next_epoch["mask"][0], a["mask"][4])
    assert (noisy.name, noisy.field, noisy.inputs, noisy.notes()) == (crop.name, crop.field, crop.inputs, crop.notes())


def test_a_turned_crop_aligns_when_turned_back_and_all_turns_are_equally_likely():
    crop = Crop(inputs=input_spec(8, 3), whole=True)
    plain, turned = batch(Corrupted(crop), 200), batch(Corrupted(Turned(crop)), 200)
    turns = turned["turn"]
    assert (turns.bincount() / 200).tolist() == pytest.approx([0.25] * 4, abs=3 * math.sqrt(0.1875 / 200))
    for i in range(40):
        back = turned["clean"][i].rot90(int(turns[i]), (1, 2))
        assert torch.equal(back, plain["clean"][i])
        hidden, given = turned["mask"][i], turned["image"][i]
        assert torch.equal(
            given.where(~hidden, torch.tensor(0.0)), turned["clean"][i].where(~hidden, torch.tensor(0.0))
        )
    quarter = turned["clean"][turns == 1][0]
    upright = plain["clean"][turns == 1][0]
    assert torch.equal(
        quarter[:, 0], upright[:, :, 0].flip(1)
    )  # clockwise: the first column is the first row, reversed


def test_the_older_corruption_spoils_in_its_order_and_keeps_the_rest():
    v = Spoiled(Crop(inputs=input_spec(32, 3), whole=True))
    found = batch(v, 60)
    p, clean, x, mask = found["params"], found["clean"], found["image"], found["mask"]
    assert torch.equal(x.where(~mask, torch.tensor(0.0)), clean.where(~mask, torch.tensor(0.0)))
    donors = row_of(p["donor"], 60)
    for i in range(60):
        at = p["pasted"][i]
        if (d := int(donors[i])) != i:  # lower rows give what has become of them, higher ones what they were
            given = x[d] if d < i else clean[d]
            assert torch.equal(x[i][:, at], given[:, at])
        at = p["noisy"][i] & ~at
        noise = gaussian(p["seed"][i : i + 1], clean[0].numel()).view_as(clean[0])
        assert torch.equal(x[i][:, at], noise[:, at])
        top, left, h, w = p["faded"][i].tolist()
        grey = torch.zeros(32, 32, dtype=torch.bool)
        grey[top : top + h, left : left + w] = True
        stop, sleft, sh, sw = p["smooth"][i].tolist()
        grey[stop : stop + sh, sleft : sleft + sw] = False
        grey &= ~p["noisy"][i] & ~p["pasted"][i]
        expected = clean[i].mean(0, keepdim=True).expand(3, -1, -1)
        torch.testing.assert_close(x[i][:, grey], expected[:, grey])
    assert set(p["reach"].tolist()) <= set(range(1, 8))
    assert p["sigma"].min() >= 0.1
    assert p["sigma"].max() < 5.1
    shares = p["noisy"].float().mean((1, 2))  # U(0, .3) summed with overlaps, the last rectangle beyond
    assert shares.mean() == pytest.approx(0.15, abs=0.04)
    assert shares.max() < 0.3 + 0.25**2


def test_the_blurred_rectangle_keeps_its_mean_of_a_plain_colour_and_loses_contrast():
    v = Spoiled(Crop(inputs=input_spec(32, 3), whole=True), share=0.0)
    found = batch(v, 30)
    p, clean, x = found["params"], found["clean"], found["image"]
    calmer = 0
    for i in range(30):
        top, left, h, w = p["smooth"][i].tolist()
        if min(h, w) >= 8 and p["sigma"][i] > 1:
            a, b = (y[i, :, top : top + h, left : left + w] for y in (x, clean))
            assert a.std(dim=(1, 2)).mean() < 0.6 * b.std(dim=(1, 2)).mean()
            calmer += 1
    assert calmer >= 5


def test_donors_are_of_another_group_each_equally_often():
    group = torch.tensor([4, 4, 4, 9, 9, 2])
    rows = torch.tensor([0, 3, 5]).repeat_interleave(3000)
    picked = row_of(torch.arange(3000).repeat(3) / 3000, 6, rows, group)
    counts = [torch.bincount(picked[rows == row], minlength=6).tolist() for row in (0, 3, 5)]
    assert counts == [[0, 0, 0, 1000, 1000, 1000], [750, 750, 750, 0, 0, 750], [600, 600, 600, 600, 600, 0]]
    one = torch.zeros(4, dtype=torch.long)
    share = torch.tensor([0.0, 0.3, 0.6, 0.9])
    assert torch.equal(row_of(share, 4, torch.arange(4), one), row_of(share, 4))  # where there is no other


def test_pixels_of_donors_come_from_other_exams_only():
    spec = input_spec(8)
    view = Corrupted(Crop(spec, whole=True, flip=0.0), Blocks(largest=0.6), (), 0.5, 0.5, apart=True)
    drawn = [view.draw(rng(0, 0, i, 0), 8, 8) for i in range(40)]
    params = {
        name: torch.from_numpy(np.stack([np.asarray(d[name]) for d in drawn])) for name in drawn[0] if name != "order"
    }
    group = torch.arange(40) // 10
    images = (group * 50).to(torch.uint8)[:, None, None, None].expand(40, 3, 8, 8).contiguous()
    found = view.finish(images, params | {"group": group})
    assert torch.equal(found["mask"].expand_as(found["image"]), found["image"] != found["clean"])
    assert torch.equal(found["group"], group)
    alone = view.finish(images, params)["group"]  # records without groups are groups of one
    assert torch.equal(alone, torch.arange(40))


def test_grey_noise_is_the_same_in_all_channels():
    spec = input_spec(8, mean=(0.3,) * 3, std=(0.2,) * 3)
    for grey in (True, False):
        view = Corrupted(Crop(spec), Blocks(largest=0.6), ("noise",), donor_share=0.0, grey=grey)
        records = Views(open_source(np.full((3, 9, 9), 90, np.uint8)), [view], 0)
        image = finish(collate([records[(0, i)] for i in range(3)]), [view])[0]["image"]
        assert bool((image[:, 0] == image[:, 1]).all()) is grey


# Coverage over 400 draws of the sampler on ASiT's spectrograms of 592 frames and 128 bands, in patches of 16 x 16.
@pytest.mark.parametrize(
    ("most", "mean", "std", "hidden", "untouched"), [(0.7, 0.611, 0.057, 0.32, 0.15), (0.3, 0.314, 0.013, 0.12, 0.45)]
)
def test_coverage_of_rectangles_is_the_published_samplers(most, mean, std, hidden, untouched):
    drawn = [Blocks().cover(rng(7, 0, i, 0), 592, 128, most) for i in range(150)]
    shares = np.array([mask.mean() for mask, _ in drawn])
    assert shares.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(150) + 0.002)
    assert shares.std() == pytest.approx(std, rel=0.35)
    patches = np.stack([mask for mask, _ in drawn]).reshape(150, 37, 16, 8, 16).mean((2, 4))
    assert (patches == 1).mean() == pytest.approx(hidden, abs=0.02)
    assert (patches == 0).mean() == pytest.approx(untouched, abs=0.02)
    sides = np.array([place[2:] for _, places in drawn for place in places])
    assert tuple(sides.max(0)) == (176, 37)  # below 177 frames and 38 bands
    if most == 0.7:
        assert np.mean([len(places) for _, places in drawn]) == pytest.approx(55, rel=0.1)


def test_whole_frames_and_whole_bands_are_overwritten():
    inputs = kaldi_inputs(40, mels=32)
    waves = torch.sin(torch.arange(2 * inputs.samples) ** 1.5).view(2, 1, -1)
    for fill, axis in (("time", 1), ("freq", 0)):
        view = Corrupted(Excerpt(inputs), fills=(fill,), share=0.5, donor_share=0.0)
        params = [view.draw(rng(1, 0, i, 0), 20_000, 16_000) for i in range(2)]
        for drawn in params:
            lines = drawn["mask"].any(axis)
            assert (drawn["mask"] == (lines[:, None] if axis else lines[None])).all()
            assert 0.5 <= drawn["mask"].mean() < 0.8
        found = view.finish(waves, {k: torch.tensor(np.array([p[k] for p in params])) for k in params[0]})
        assert (found["image"][found["mask"]] == 0).all()
        assert torch.equal(found["image"][~found["mask"]], found["clean"][~found["mask"]])
    assert Corrupted(Excerpt(inputs), fills=("time", "noise", "freq"), donor_share=0.3).kinds[-1] == "donor"


def test_noise_has_the_mean_and_deviation_asked_for():
    inputs = kaldi_inputs(96, mels=64)
    view = Corrupted(Excerpt(inputs), donor_share=0.0, normal=(-4.0, 0.5))
    params = view.draw(rng(1, 0, 0, 0), 30_000, 16_000)
    found = view.finish(torch.zeros(1, 1, inputs.samples), {k: torch.tensor(np.array([v])) for k, v in params.items()})
    noise = found["image"][found["mask"]]
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((-4, 0.5), abs=0.03)


def test_copies_of_a_rectangle_come_from_inside_it():
    places = [(0, 0, 3, 2), (4, 1, 2, 3)]
    source = copied_from(rng(0, 0, 0, 0), (9, 5), places, 1)
    assert source.shape == (9, 5)
    assert (source != np.arange(45).reshape(9, 5)).any()
    assert 0 <= source.min() <= source.max() < 45


def test_rectangles_that_blocks_cannot_cover_are_said():
    assert Blocks().problems((592, 128), 0.7, 0.3) == []
    assert "of 5 pixels" in Blocks().problems((592, 5), 0.7)[0]
    assert "608 x 128" in Blocks(align=32).problems((608, 128), 0.95)[0]
    assert "128 % 48 > 0" in Blocks(align=48).problems((48 * 9, 128), 0.5)[0]
