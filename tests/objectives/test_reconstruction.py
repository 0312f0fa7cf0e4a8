"""Pixels as targets, against closed forms."""

import pytest
import torch

from tacit.objectives import denormalise_patches, masked_mean, normalise_patches, patchify, unpatchify


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
