"""A learned token in the place of hidden patches: where it stands in, and what it leaves as it is."""

import math

import pytest
import torch

from tacit import encoders
from tacit.encoders import MaskTokens

TRUNKS = {
    "vit_mini": {},
    "swin_mini": {},
    "swinv2_mini": {},
    "simmim_vit_base": {"embed_dim": 16, "depth": 2, "num_heads": 4},
}


@pytest.fixture(params=TRUNKS)
def encoder(request):
    torch.manual_seed(0)
    return encoders.build(request.param, size=32, **TRUNKS[request.param]).eval()


def masks(encoder, share: float) -> torch.Tensor:
    side = 32 // encoder.trunk.patch_embed.patch_size[0]
    return torch.rand(2, side, side, generator=torch.Generator().manual_seed(1)) < share


def test_with_nothing_hidden_an_encoder_is_what_it_is(encoder):
    x, before = torch.randn(2, 3, 32, 32), set(encoder.state_dict())
    pooled, tokens = MaskTokens(encoder)(encoder, x, masks(encoder, 0.0))
    torch.testing.assert_close(pooled, encoder(x))
    torch.testing.assert_close(tokens, encoder.tokens(x))
    assert set(encoder.state_dict()) == before
    assert "mask_tokens" in encoder.can


def test_the_token_stands_in_after_the_patch_embedding_and_its_norm(encoder):
    """As if the embedding had given the token itself: of the first stage's width, positions still to come."""
    token = MaskTokens(encoder)
    mask, x = masks(encoder, 0.5), torch.randn(2, 3, 32, 32)

    def replaced(_, __, y):
        rows = y.flatten(1, -2).clone()
        rows[mask.flatten(1)] = token.token
        return rows.view_as(y)

    found = token(encoder, x, mask)[1]
    handle = encoder.trunk.patch_embed.register_forward_hook(replaced)
    expected = encoder.tokens(x)
    handle.remove()
    torch.testing.assert_close(found, expected)
    assert token.token.shape == (encoder.trunk.patch_embed.proj.out_channels,)


def test_a_hidden_patch_is_still_known_by_its_place():
    encoder = encoders.build("vit_mini", size=32).eval()
    tokens = MaskTokens(encoder)(encoder, torch.randn(2, 3, 32, 32), masks(encoder, 1.1))[1]
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 1e-3
    torch.testing.assert_close(tokens[0], tokens[1])  # of the images nothing is left


def test_the_token_starts_as_a_normal_of_0_02():
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=32, depth=1)
    values = torch.cat([MaskTokens(encoder).token.detach() for _ in range(40)])
    assert values.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_golden_features_of_the_official_vit_of_simmim():
    """`VisionTransformerForSimMIM` of microsoft/SimMIM (d3e29bc): one table of relative positions, LayerScale 0.1."""
    encoder = encoders.build("simmim_vit_base", size=48, embed_dim=16, depth=3, num_heads=4).eval()
    token = MaskTokens(encoder)
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(encoder.trunk.named_parameters())):
            x = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + k).float().view(p.shape)
            p.copy_(1 + 0.2 * x if "norm" in name and name.endswith("weight") else 0.3 * x)
        token.token.copy_(torch.sin(torch.arange(16, dtype=torch.float64) * 0.9).float())
    shape = (2, 3, 48, 48)
    x = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37).float().view(shape)
    mask = torch.arange(9).view(1, 3, 3) % 2 == torch.tensor([0, 1]).view(2, 1, 1)
    tokens = token(encoder, x, mask)[1]
    assert tokens.square().mean().item() == pytest.approx(1.0017982721328735, rel=1e-5)
    assert tokens[1, -1, :3].tolist() == pytest.approx((0.501664, -1.086283, 0.034430), abs=2e-5)
    assert (
        encoders.build("simmim_vit_base", size=48, embed_dim=16, depth=1, num_heads=4).trunk.blocks[0].gamma_1[0] == 0.1
    )


def test_without_hidden_patches_it_is_the_encoder_and_with_them_what_is_hidden_does_not_count():
    x, token = torch.randn(2, 3, 16, 16), torch.randn(128)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    for encoder in (_vit(), encoders.any_size(_vit()), _vit(reg_tokens=2)):
        for found, expected in zip(
            encoder(x, with_tokens=True, hidden=(mask, token)), encoder.features_and_tokens(x), strict=True
        ):
            torch.testing.assert_close(found, expected)
    hidden = mask.clone()
    hidden[0, 1, 2] = True
    feature, tokens = encoder(x, with_tokens=True, hidden=(hidden, token))
    changed = x.clone()
    changed[0, :, 4:8, 8:12] = 7.0
    again = encoder(changed, with_tokens=True, hidden=(hidden, token))
    assert torch.equal(again[0], feature)
    assert torch.equal(again[1], tokens)
    assert not torch.allclose(encoder(changed)[0], encoder(x)[0])
    assert not torch.allclose(feature[0], encoder(x)[0])
    torch.testing.assert_close(feature[1], encoder(x)[1])  # nothing of it is hidden
    # the token takes the embedding's place before the position is added, so two hidden patches still differ
    hidden[0] = True
    tokens = encoder(x, with_tokens=True, hidden=(hidden, token))[1]
    assert not torch.allclose(tokens[0, 0], tokens[0, 1])


def _vit(**changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", **{"size": 16, "depth": 2, **changes})
