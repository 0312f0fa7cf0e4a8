"""Pixels as targets, against closed forms."""

import pytest
import torch

from tacit.objectives import (
    denormalise_patches,
    masked_l1,
    masked_mean,
    normalise_patches,
    normalise_windows,
    patchify,
    to_pixels,
    unpatchify,
    window_statistics,
)


def test_patches_are_rows_of_pixels_with_channels_fastest_and_come_back():
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    assert patches[0, 0].tolist() == [0, 24, 48, 1, 25, 49, 6, 30, 54, 7, 31, 55]
    torch.testing.assert_close(patches[0, 4, :3], images[0, :, 2, 2])  # the second row's second patch
    assert torch.equal(unpatchify(patches, 2, 2, 3), images)


def test_a_zero_prediction_of_normalised_patches_costs_what_the_unbiased_variance_says():
    patches = torch.randn(4, 5, 48, generator=torch.Generator().manual_seed(0)) * 0.01
    var = patches.var(-1)
    expected = (47 / 48 * var / (var + 1e-6)).mean()
    torch.testing.assert_close(normalise_patches(patches).square().mean(), expected)
    assert torch.equal(normalise_patches(torch.full((1, 1, 48), 3.0)), torch.zeros(1, 1, 48))  # flat


def test_a_normalised_patch_comes_back_with_its_own_mean_and_spread():
    patches = 3 + torch.randn(4, 5, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denormalise_patches(normalise_patches(patches), patches), patches)


def test_the_mean_is_of_the_hidden_values_of_the_whole_batch():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert masked_mean(x, torch.tensor([[True, False], [True, True]])) == pytest.approx(8 / 3)
    assert masked_mean(x, torch.tensor([[True], [False]])) == 1.5
    assert masked_mean(x, torch.zeros(2, 2, dtype=torch.bool)) == 0
    x.requires_grad_()
    masked_mean(x, torch.tensor([[True, False], [False, True]])).backward()
    assert x.grad.tolist() == [[0.5, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize(
    ("mask", "value"), [([[1, 0], [0, 1]], 2.5), ([[1, 1], [1, 1]], 2.5), ([[0, 0], [1, 1]], 3.5), (None, 2.5)]
)
def test_l1_is_of_what_was_hidden(mask, value):
    x_hat = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    mask = torch.tensor(mask).bool()[None, None] if mask else None
    loss = masked_l1(x_hat, torch.zeros(1, 1, 2, 2), mask)
    assert loss == value
    loss.backward()
    assert torch.equal(x_hat.grad != 0, torch.ones(1, 1, 2, 2).bool() if mask is None else mask)


def test_l1_is_pooled_over_the_batch_and_never_reaches_its_target():
    x_hat, x = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2, requires_grad=True)
    x_hat[1] = 4
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool().view(2, 1, 2, 2)
    loss = masked_l1(x_hat.requires_grad_(), x, mask)
    assert float(loss.detach()) == pytest.approx((4 * 1 + 4) / 5)  # a mean of the records' means would be 2.5
    loss.backward()
    assert x.grad is None


def test_masked_l1_is_the_mean_offset_of_hidden_pixels():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [False, True]]])
    assert masked_l1(x + 0.7, x, to_pixels(mask, x)).item() == pytest.approx(0.7, rel=1e-5)
    hidden = to_pixels(mask, x)
    assert hidden.shape == (2, 1, 8, 8)
    assert hidden[0, 0, :4, :4].all()
    assert hidden.sum() == 4 * 16
    assert masked_l1(torch.where(hidden, x - 0.2, x + 9), x, hidden).item() == pytest.approx(0.2, rel=1e-5)
    assert masked_l1(x + 1, x, torch.zeros_like(hidden)) == 0
    prediction = (x + 1).requires_grad_()
    masked_l1(prediction, x, hidden).backward()
    assert prediction.grad[~hidden.expand_as(x)].eq(0).all()
    torch.testing.assert_close(prediction.grad[hidden.expand_as(x)], torch.full((192,), 1 / 192))


def test_windows_normalise_pixels_by_those_that_there_are():
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    found = normalise_windows(x, 3)
    for row, column, part in ((0, 0, x[..., :2, :2]), (2, 3, x[..., 1:4, 2:5]), (5, 4, x[..., 4:, 3:])):
        expected = (x[..., row, column] - part.mean((2, 3))) / (part.var((2, 3)) + 1e-6).sqrt()
        torch.testing.assert_close(found[..., row, column], expected)
    whole = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(normalise_windows(x, 13), whole)  # the window holds the image from everywhere
    assert normalise_windows(torch.full((1, 3, 6, 6), 2.6), 3).abs().max() < 1e-3
    mean, spread = window_statistics(x, 3)
    torch.testing.assert_close(found * spread + mean, x)


@pytest.mark.parametrize(("window", "square"), [(5, 0.8589590787887573), (7, 0.9230932593345642), (47, 0.99826169013)])
def test_the_golden_targets_of_the_official_code(window, square):
    """`norm_targets` of microsoft/Swin-Transformer (f82860b) on this image."""
    x = torch.sin(torch.arange(2 * 3 * 24 * 24, dtype=torch.float64) * 0.37).float().view(2, 3, 24, 24)
    found = normalise_windows(x, window)
    assert found.square().mean().item() == pytest.approx(square, rel=1e-5)
    if window == 7:
        expected = (-0.5951753, -0.9835184, -1.1892307, -1.2290801)
        assert found[1, 2, 0, :4].tolist() == pytest.approx(expected, abs=1e-5)
