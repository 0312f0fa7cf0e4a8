"""What a student misses of a crop: each kind by its counts, and what cannot be hidden."""

from dataclasses import replace

import pytest
import torch

from tacit.views import Corrupted, Crop, Hiding, Masked, hide, hiding_problems, input_spec, patches_of, rng

CROP = Crop(inputs=input_spec(32, 3))


def drawn(s: Hiding, count: int = 200) -> torch.Tensor:
    view = hide(s, CROP, 4)
    return torch.stack([torch.from_numpy(view.draw(rng(0, 0, i, 0), 40, 40)["mask"]) for i in range(count)])


def test_each_kind_is_the_view_of_its_paper():
    assert hide(Hiding(corrupt="none"), CROP, 4) is CROP
    pixels = hide(Hiding(), CROP, 4)
    assert isinstance(pixels, Corrupted)
    assert (pixels.kinds, pixels.share, pixels.donor_share, pixels.blocks.align) == (("zeros", "donor"), 0.5, 0.3, 1)
    dropped = drawn(Hiding(corrupt="drop"))
    assert set(dropped.flatten(1).sum(1).tolist()) == {64 - int(64 * 0.85)}
    view = hide(Hiding(corrupt="tokens"), CROP, 4)
    assert isinstance(view, Masked)
    assert view.sampler.keywords["smallest"] == 4  # (8 // 3)²
    masks = drawn(Hiding(corrupt="tokens")).flatten(1).sum(1)
    assert 0.4 < (masks == 0).float().mean() < 0.6
    assert masks.max() <= 32


def test_a_patch_is_hidden_from_a_share_of_its_pixels_on():
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    pixels[0, 0, :2, :4] = True  # half of the first patch
    pixels[0, 0, 4:, 4:7] = True  # three quarters of the last
    assert patches_of(pixels, 4, 0.5).flatten().tolist() == [True, False, False, True]
    assert patches_of(pixels, 4, 0.75).flatten().tolist() == [False, False, False, True]
    assert patches_of(pixels[:, 0], 4, 0.5) is not None
    assert torch.equal(patches_of(pixels[:, 0], 4, 0.9), pixels[:, 0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fills": ("grey",)}, "fills = grey: choose among"),
        ({"corrupt": "tokens", "mask_ratio": (0.0, 0.5)}, "mask_ratio = 0,0.5"),
        ({"corrupt": "drop", "drop_ratio": 1.0}, "drop_ratio = 1: leaves none visible"),
    ],
)
def test_what_hides_nothing_or_everything_is_refused(changes, said):
    (problem,) = hiding_problems(replace(Hiding(), **changes), 32, 4)
    assert said in problem
    assert not hiding_problems(Hiding(corrupt="none"), 32, 4)
