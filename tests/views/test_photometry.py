"""Every change against torchvision's function of the same name, one record at a time."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as reference

from tacit.views import photometry

X = torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (photometry.brightness, reference.adjust_brightness, [0.6, 0.9, 1.0, 1.2, 1.4]),
        (photometry.contrast, reference.adjust_contrast, [0.6, 0.9, 1.0, 1.2, 1.4]),
        (photometry.saturation, reference.adjust_saturation, [0.8, 0.9, 1.0, 1.1, 1.2]),
        (photometry.hue, reference.adjust_hue, [-0.1, -0.03, 0.0, 0.05, 0.1]),
    ],
)
def test_colour_changes(ours, theirs, amounts):
    changed = ours(X, torch.tensor(amounts))
    for record, amount, result in zip(X, amounts, changed, strict=True):
        torch.testing.assert_close(result, theirs(record, amount), atol=2e-3, rtol=0)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_hue_of_greys_and_corners():
    corners = torch.tensor([[r, g, b] for r in (0.0, 1) for g in (0.0, 1) for b in (0.0, 1)]).view(8, 3, 1, 1)
    shift = torch.full((8,), 0.07)
    expected = torch.stack([reference.adjust_hue(c, 0.07) for c in corners])
    torch.testing.assert_close(photometry.hue(corners, shift), expected, atol=1e-5, rtol=0)


def test_grayscale_and_solarize():
    torch.testing.assert_close(photometry.grayscale(X), reference.rgb_to_grayscale(X, 3), atol=1e-3, rtol=0)
    values = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    ours = (photometry.solarize(values, 128 / 255) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    source = Image.fromarray((values[0].permute(1, 2, 0) * 255).round().byte().numpy())
    np.testing.assert_array_equal(ours, np.asarray(ImageOps.solarize(source, 128)))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_with_repeated_edges(sigma):
    reach = 8
    ours = photometry.gaussian_blur(X, torch.full((5,), sigma), reach)
    padded = torch.nn.functional.pad(X, [reach] * 4, mode="replicate")
    theirs = reference.gaussian_blur(padded, [2 * reach + 1] * 2, [sigma] * 2)[:, :, reach:-reach, reach:-reach]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_blur_is_close_to_pillows_approximation():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    ours = photometry.gaussian_blur(x, torch.tensor([1.5]), 8)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - np.asarray(image.filter(ImageFilter.GaussianBlur(1.5)), dtype=float)).mean() < 2


def test_other_channel_counts_are_left_alone_where_colour_is_meant():
    x = torch.rand(2, 5, 4, 4)
    amount = torch.full((2,), 0.1)
    for change in (photometry.saturation, photometry.hue):
        assert torch.equal(change(x, amount), x)
    assert torch.equal(photometry.grayscale(x), x)
    assert not torch.equal(photometry.contrast(x, torch.full((2,), 0.5)), x)
