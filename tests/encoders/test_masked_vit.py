"""Mask tokens in a ViT, and stochastic depth that leaves rows out."""

import pytest
import torch

from tacit import encoders
from tacit.errors import UsageError


def vit(**changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", **{"size": 16, "depth": 2, **changes})


def test_without_hidden_patches_it_is_the_encoder_and_with_them_what_is_hidden_does_not_count():
    x, token = torch.randn(2, 3, 16, 16), torch.randn(128)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    for encoder in (vit(), encoders.any_size(vit()), vit(reg_tokens=2)):
        for found, expected in zip(
            encoders.with_mask_tokens(encoder, x, mask, token), encoder.features_and_tokens(x), strict=True
        ):
            torch.testing.assert_close(found, expected)
    hidden = mask.clone()
    hidden[0, 1, 2] = True
    feature, tokens = encoders.with_mask_tokens(encoder, x, hidden, token)
    changed = x.clone()
    changed[0, :, 4:8, 8:12] = 7.0
    again = encoders.with_mask_tokens(encoder, changed, hidden, token)
    assert torch.equal(again[0], feature)
    assert torch.equal(again[1], tokens)
    assert not torch.allclose(encoder(changed)[0], encoder(x)[0])
    assert not torch.allclose(feature[0], encoder(x)[0])
    torch.testing.assert_close(feature[1], encoder(x)[1])  # nothing of it is hidden
    # the token takes the embedding's place before the position is added, so two hidden patches still differ
    hidden[0] = True
    tokens = encoders.with_mask_tokens(encoder, x, hidden, token)[1]
    assert not torch.allclose(tokens[0, 0], tokens[0, 1])
    with pytest.raises(UsageError, match="no ViT"):
        encoders.with_mask_tokens(encoders.build("swin_mini", size=16), x, mask, token)


def test_at_high_rates_a_branch_is_computed_for_some_rows_and_scaled():
    encoder = encoders.uniform_drop_path(vit(depth=1), 0.4)
    block, x = encoder.trunk.blocks[0], torch.randn(10, 5, 128)
    block.eval()
    branch = block.ls1(block.attn(block.norm1(x)))
    whole = block(x)
    torch.testing.assert_close(whole, x + branch + block.ls2(block.mlp(block.norm2(x + branch))))
    block.train()
    block.mlp = torch.nn.Identity()
    block.ls2 = torch.nn.Identity()
    block.norm2 = _Zero()
    torch.manual_seed(0)
    added = block(x) - x
    kept = added.abs().sum((1, 2)) > 0
    assert int(kept.sum()) == 6  # int(10 x .6)
    torch.testing.assert_close(added[kept], branch[kept] * 10 / 6, rtol=1e-4, atol=1e-5)


class _Zero(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_at_low_rates_every_block_drops_by_row_alike():
    encoder = encoders.uniform_drop_path(vit(), 0.05)
    rates = [block.drop_path1.drop_prob for block in encoder.trunk.blocks]
    assert rates == [0.05, 0.05]
    assert type(encoders.uniform_drop_path(vit(), 0.0).trunk.blocks[0].drop_path1) is torch.nn.Identity
