"""Attention to the most similar, against ordinary attention and by its weights."""

import pytest
import torch

from tacit import encoders
from tacit.encoders import topk_attention


def attention() -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=16, depth=1)
    return encoder.trunk.blocks[0].attn


def weights(module: torch.nn.Module, x: torch.Tensor, keys: int, prefix: int) -> torch.Tensor:
    """[B, heads, T, T], read off by giving token t the value e_t and no projection."""
    tokens = x.shape[1]
    dim = module.head_dim
    assert tokens <= dim
    found = []
    original = module.qkv.forward

    def with_marks(inputs):
        out = original(inputs).unflatten(-1, (3, module.num_heads, dim)).clone()
        out[:, :, 2] = torch.eye(tokens, dim).view(1, tokens, 1, dim)
        return out.flatten(2)

    module.qkv.forward, projection = with_marks, module.proj
    module.proj = torch.nn.Identity()
    found, chosen = topk_attention(module, x, keys, prefix)
    module.qkv.forward, module.proj = original, projection
    return found.unflatten(-1, (module.num_heads, dim)).transpose(1, 2)[..., :tokens], chosen


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_with_every_key_it_is_ordinary_attention(prefix):
    module, x = attention(), torch.randn(2, 17, 128)
    found, chosen = topk_attention(module, x, 17 - prefix, prefix)
    torch.testing.assert_close(found, module(x), atol=1e-6, rtol=1e-5)
    assert chosen.shape == (2, 4, 17 - prefix, 17 - prefix)


def test_every_query_meets_as_many_keys_the_most_similar_with_weights_of_sum_one():
    module, x = attention(), torch.randn(2, 16, 128)
    found, chosen = weights(module, x, 4, 0)
    assert ((found > 0).sum(-1) == 4).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, 16))
    q, k, _ = module.qkv(x).unflatten(-1, (3, 4, 32)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT * module.scale
    assert torch.equal(chosen.sort(-1).values, scores.topk(4).indices.sort(-1).values)
    torch.testing.assert_close(found.gather(3, chosen), scores.gather(3, chosen).softmax(-1))


def test_the_prefix_is_open_to_all_and_not_counted():
    found, chosen = weights(attention(), torch.randn(2, 17, 128), 4, 1)
    assert ((found[:, :, 1:] > 0).sum(-1) == 5).all()
    assert (found[:, :, :, 0] > 0).all()
    assert (found[:, :, 0] > 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4, 17))
    assert chosen.max() == 15


def test_gradients_reach_the_weights_but_not_through_the_choice():
    module, x = attention(), torch.randn(1, 9, 128, requires_grad=True)
    found, chosen = topk_attention(module, x, 2)
    found.square().sum().backward()
    assert not chosen.requires_grad
    assert module.qkv.weight.grad.abs().sum() > 0
    assert (x.grad.abs().sum(-1) > 0).all()
