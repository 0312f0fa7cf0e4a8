"""The light decoder: what it counts, where a token draws, how it starts."""

import pytest
import torch

from tacit.errors import UsageError
from tacit.heads import PixelDecoder


def test_every_token_draws_its_own_patch():
    decoder = PixelDecoder(8, 3, patch=16)
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    image = decoder(tokens)
    assert image.shape == (2, 3, 32, 32)
    changed = tokens.clone()
    changed[:, 1] += 1  # the first row's second patch
    where = (decoder(changed) != image).any(1)
    assert where[:, :16, 16:].all()
    assert not where[:, 16:].any()
    assert not where[:, :, :16].any()


def test_equal_tokens_make_a_periodic_image():
    image = PixelDecoder(8, 2, patch=4)(torch.ones(1, 9, 8))
    assert torch.equal(image[..., 4:, :], image[..., :-4, :])
    assert torch.equal(image[..., 4:], image[..., :-4])
    assert image[0, 0, :4, :4].unique().numel() > 8


def test_it_starts_as_published_and_counts_what_it_counts():
    decoder = PixelDecoder(384, 3, patch=16)
    assert sum(p.numel() for p in decoder.parameters()) == 3 * (384 * 384 + 384) + 384 * 3 * 256 + 3
    assert float(decoder.mlp[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not any(part.bias.any() for part in decoder.mlp[::2])
    assert len(PixelDecoder(8, 3, patch=4, layers=0).mlp) == 0


def test_tokens_that_form_no_square_are_refused():
    with pytest.raises(UsageError, match="8 tokens form no square"):
        PixelDecoder(8, 3, patch=4)(torch.ones(1, 8, 8))
