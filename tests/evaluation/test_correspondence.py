import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tacit import encoders
from tacit.data import open_source
from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation import intervals
from tacit.evaluation.correspondence import correspondence, correspondences, matches, second_view
from tacit.views import input_spec
from tacit.views.photometry import grayscale


def positions(h: int, w: int) -> torch.Tensor:
    """[1, h, w, h * w]: every region has a direction of its own."""
    return torch.eye(h * w).view(1, h, w, h * w)


@pytest.mark.parametrize(("h", "w"), [(7, 7), (3, 8)])
def test_features_that_know_the_place_find_every_region(h, w):
    accuracy, distance = correspondence(positions(h, w), positions(h, w).flip(2), pixels=(h * 32, w * 32))
    assert (accuracy.tolist(), distance.tolist()) == ([1.0], [0.0])


def test_features_of_coordinates_find_every_region():
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    first = torch.stack([y, x, torch.full_like(x, 3)], dim=2)[None]  # no two of them point the same way
    accuracy, distance = correspondence(first, first.flip(2), pixels=(224, 224), top=49)
    assert (accuracy.tolist(), distance.tolist()) == ([1.0], [0.0])


def test_a_match_that_is_not_mirrored_is_off_by_hand():
    same = positions(1, 3)  # regions 0, 1, 2 find 0, 1, 2, and should find 2, 1, 0, in cells of 10 pixels
    accuracy, distance = correspondence(same, same, pixels=(10, 30), top=3)
    assert accuracy.tolist() == pytest.approx([1 / 3])
    assert distance.tolist() == pytest.approx([(20 + 0 + 20) / 3])
    both = positions(2, 2)  # mirrored, and upside down: all are one row of 8 pixels off
    accuracy, distance = correspondence(both, both.flip(1, 2), pixels=(16, 10), top=4)
    assert (accuracy.tolist(), distance.tolist()) == ([0.0], [8.0])
    accuracy, distance = correspondence(both, both.flip(1), pixels=(16, 10), top=4)
    assert distance.tolist() == pytest.approx([math.hypot(8, 5)])


def test_only_the_most_similar_pairs_count():
    first = positions(1, 4)
    second = first.flip(2).clone()
    second[0, 0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.9])  # of region 3, now nearer to 2 and still found by 3
    second[0, 0, 1] = torch.tensor([0.0, 0.0, 0.0, 0.01])  # of region 2, lost: it looks like 3
    here, there = matches(first, second, top=3)
    assert dict(zip(here[0].tolist(), there[0].tolist(), strict=True)) == {0: 3, 1: 2, 3: 1}
    assert correspondence(first, second, pixels=(4, 16), top=3)[0].tolist() == pytest.approx([2 / 3])
    assert correspondence(first, second, pixels=(4, 16), top=4)[0].tolist() == pytest.approx([2 / 4])


def test_random_features_find_about_one_in_49():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1000, 7, 7, 16, generator=generator)
    accuracy, distance = correspondence(first, second, pixels=(224, 224))
    assert accuracy.shape == distance.shape == (1000,)
    low, high = intervals.bootstrap(accuracy.numpy())
    assert low < 1 / 49 < high
    assert accuracy.mean().item() == pytest.approx(1 / 49, abs=0.005)
    # The mean distance of two cells drawn at random: 32 pixels times the mean over all pairs of the 7 x 7 grid.
    at = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0))
    assert distance.mean().item() == pytest.approx(32 * torch.cdist(at, at).mean().item(), rel=0.02)


def test_collapsed_features_are_no_better_than_chance():
    accuracy, _ = correspondence(torch.ones(1, 7, 7, 4), torch.ones(1, 7, 7, 4), pixels=(224, 224), top=49)
    assert accuracy.item() == pytest.approx(1 / 49)


def test_the_second_view_is_mirrored_grey_and_of_the_record():
    inputs = input_spec(16)
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    index = torch.arange(60)
    views = second_view(images, inputs, index=index)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (inputs.mean, inputs.std))
    pixels = views * std + mean
    torch.testing.assert_close(pixels[:, 0], pixels[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels[:, 0], pixels[:, 2], atol=1e-5, rtol=0)
    plain = inputs.prepare(grayscale(images.flip(-1)))
    unchanged = sum(bool(torch.allclose(a, b, atol=1e-6)) for a, b in zip(views, plain, strict=True))
    assert 4 <= unchanged <= 22  # one in five is not jittered
    aligned = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(views, plain, strict=True)]
    assert np.median(aligned) > 0.95
    assert torch.equal(views[7:9], second_view(images[7:9], inputs, index=index[7:9]))
    assert not torch.equal(views, second_view(images, inputs, index=index, seed=1))
    kept = images.clone()
    second_view(images, inputs, index=index)
    assert torch.equal(images, kept)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """24 grey pictures of 8 x 8 random patches of 4 pixels."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(60, 200, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{i:02d}.png")
    return folder


def patches_only() -> Encoder:
    """A ViT without blocks and positions whose patches look the same in the mirror."""
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=32, patch=4, depth=0)
    with torch.no_grad():
        encoder.trunk.pos_embed.zero_()
        weight = encoder.trunk.patch_embed.proj.weight
        weight.normal_().add_(weight.flip(3).clone())
        weight -= weight.mean((1, 2, 3), keepdim=True)  # blind to brightness
    return encoder


def test_an_encoder_that_sees_content_finds_it_again_and_one_that_sees_none_does_not(noise):
    source = open_source(noise, labels=None)
    told = []
    seeing = correspondences(
        patches_only(), source, batch_size=10, device="cpu", progress=lambda *done: told.append(done)
    )
    assert told == [(10, 24), (20, 24), (24, 24)]
    assert seeing.index.tolist() == list(range(24))
    assert seeing.accuracy.shape == seeing.distance.shape == (24,)
    assert seeing.accuracy.mean() > 0.95
    assert seeing.distance.mean() < 1
    assert seeing.chance == 1 / 64
    assert np.array_equal(seeing.accuracy, correspondences(patches_only(), source, batch_size=7, device="cpu").accuracy)
    blind = patches_only()
    torch.nn.init.zeros_(blind.trunk.patch_embed.proj.weight)
    torch.nn.init.normal_(blind.trunk.pos_embed)  # every place its own direction, whatever is in it
    found = correspondences(blind, source, device="cpu")
    assert found.accuracy.mean() == 0  # a place finds itself, which is never its mirrored one on an even grid
    assert found.distance.mean() > 8


def test_unreadable_records_are_left_out_and_named(noise, tmp_path):
    import shutil

    folder = shutil.copytree(noise, tmp_path / "copy")
    (folder / "03.png").write_bytes(b"")
    found = correspondences(patches_only(), open_source(folder, labels=None), device="cpu")
    assert 3 not in found.index
    assert len(found.accuracy) == 23
    assert [(Path(name).name, reason) for name, reason in found.bad] == [("03.png", "empty file")]


def test_what_cannot_be_matched_is_said():
    with pytest.raises(DataError, match=r"\[1, 2, 2, 4\] and \[1, 3, 3, 9\] must both be"):
        matches(positions(2, 2), positions(3, 3))
    with pytest.raises(DataError, match="not numbers"):
        matches(positions(2, 2), positions(2, 2) * math.nan)
    with pytest.raises(UsageError, match="top = 0"):
        matches(positions(2, 2), positions(2, 2), top=0)
