"""The decoder of masked autoencoders: where tokens go, what starts how."""

import math

import pytest
import torch
from torch import nn

from tacit.heads import TokenDecoder, decoder_problems


def decoder(prefix: int = 1, **how) -> TokenDecoder:
    torch.manual_seed(0)
    positions = torch.randn(6, 16)
    return TokenDecoder(8, positions, **{"depth": 1, "heads": 2, "out": 5, "prefix": prefix, **how})


def test_tokens_return_to_their_places_and_mask_tokens_fill_the_others():
    head = decoder()
    seen = []
    head.blocks.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tokens, ids = torch.randn(2, 3, 8), torch.tensor([[4, 1], [0, 5]])
    assert head(tokens, ids).shape == (2, 6, 5)
    inside = head.embed(tokens)
    expected = head.mask_token.expand(2, 6, -1).clone()
    for row, places in enumerate(ids.tolist()):
        for number, place in enumerate(places):
            expected[row, place] = inside[row, 1 + number]
    torch.testing.assert_close(seen[0], torch.cat([inside[:, :1], expected + head.positions], dim=1))


def test_the_order_in_which_tokens_are_given_does_not_matter():
    head, tokens, ids = decoder(), torch.randn(1, 4, 8), torch.tensor([[5, 0, 2]])
    torch.testing.assert_close(head(tokens, ids), head(tokens[:, [0, 3, 1, 2]], ids[:, [2, 0, 1]]))


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_the_prefix_is_attended_to_and_has_no_prediction(prefix):
    head = decoder(prefix)
    tokens = torch.randn(2, prefix + 2, 8, requires_grad=True)
    out = head(tokens, torch.tensor([[0, 1], [3, 2]]))
    assert out.shape == (2, 6, 5)
    out.sum().backward()
    assert (tokens.grad.abs().sum((0, 2)) > 0).all()


def test_it_starts_and_is_built_as_published():
    head = TokenDecoder(1024, torch.zeros(196, 512), depth=8, heads=16, out=768)
    block = 12 * 512**2 + 13 * 512
    count = 1024 * 512 + 512 + 512 + 8 * block + 2 * 512 + 512 * 768 + 768
    assert sum(p.numel() for p in head.parameters()) == count
    for module, width, out in ((head.embed, 1024, 512), (head.blocks[0].attn.qkv, 512, 3 * 512)):
        bound = math.sqrt(6 / (width + out))
        assert 0.99 * bound < module.weight.abs().max() <= bound
        assert not module.bias.any()
    assert head.mask_token.std().item() == pytest.approx(0.02, rel=0.1)
    norms = [m for m in head.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 17
    assert {norm.eps for norm in norms} == {1e-6}
    assert "positions" not in head.state_dict()


def test_widths_that_cannot_be_are_named():
    assert decoder_problems(512, 16) == []
    assert "decoder_width = 96: must be a multiple of 4, for its positions, and of decoder_heads = 5." in str(
        decoder_problems(96, 5)
    )
    assert decoder_problems(6, 2)
