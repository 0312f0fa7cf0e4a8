"""What is left out to be fast, against the plain way: equal values and equal gradients."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import nn

from tacit import encoders
from tacit.encoders.class_token import reads_class_token
from tacit.encoders.encoder import TokenBatchNorm
from tacit.encoders.skip_rows import SkippingBlock, SkippingSwinBlock, add_branch, skip_dropped_rows


def trained(module: nn.Module, x: torch.Tensor, seed: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(seed)
    module.zero_grad(set_to_none=True)
    y = module(x)
    (y * torch.sin(torch.arange(y.numel()).float()).view_as(y)).sum().backward()
    return y.detach(), [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize(
    ("block", "skipping", "shape"),
    [
        (Block(16, 2, qkv_bias=True, drop_path=0.5, init_values=0.5), SkippingBlock, (9, 5, 16)),
        (SwinTransformerBlock(16, (8, 8), 2, window_size=4, shift_size=2, drop_path=0.5), SkippingSwinBlock,
         (9, 8, 8, 16)),
    ],
)  # fmt: skip
def test_rows_that_are_dropped_are_not_computed_and_all_else_is_equal(block, skipping, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fast = copy.deepcopy(block)
    skip_dropped_rows(fast)
    assert type(fast) is skipping
    seen = []
    fast.mlp.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for seed in range(4):
        (y, gradients), (z, others) = trained(block, x, seed), trained(fast, x, seed)
        torch.testing.assert_close(z, y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-5)
    assert 0 < min(seen) < 9
    block.eval(), fast.eval()
    torch.testing.assert_close(fast(x), block(x))


def test_a_mask_of_attention_has_every_row():
    x = torch.randn(9, 5, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.arange(1, 10)[:, None].clamp_max(5)
    block = Block(16, 2, drop_path=0.5)
    fast = copy.deepcopy(block)
    skip_dropped_rows(fast)
    found = []
    for one in (block, fast):
        torch.manual_seed(0)
        found.append(one(x, attn_mask=mask[:, None, None].expand(-1, 1, 5, -1)))
    torch.testing.assert_close(*found)


def test_a_batch_of_which_no_row_is_kept_still_gives_every_weight_a_gradient():
    branch, drop, x = nn.Linear(3, 3), DropPath(0.999).train(), torch.ones(2, 3)
    y = add_branch(x, drop, branch)
    assert torch.equal(y, x)
    y.sum().backward()
    assert branch.weight.grad.count_nonzero() == 0


def test_blocks_with_statistics_of_all_rows_stay_as_they_are():
    block = Block(16, 2, drop_path=0.5)
    block.norm2 = TokenBatchNorm(16)
    skip_dropped_rows(block)
    assert type(block) is Block


@pytest.mark.parametrize("name", ["vit_mini", "vit_tiny_12h"])
@pytest.mark.parametrize("training", [False, True])
def test_the_class_token_alone_is_what_the_whole_trunk_gives(name, training):
    encoder = encoders.build(name, size=32, patch=8, drop_path=0.3 * training).train(training)
    for p in encoder.parameters():  # biases are zero at first
        nn.init.normal_(p, std=0.1)
    assert reads_class_token(encoder.trunk)
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (y, gradients), (z, others) = trained(encoder.trunk, x), trained(encoder, x)
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others, gradients, rtol=1e-3, atol=1e-4)


def test_where_the_last_block_is_needed_whole_it_is_computed_whole():
    def last(**how):
        return encoders.build("vit_mini", size=32, patch=8, **how).trunk

    assert not reads_class_token(last(**encoders.MEAN_PATCH))  # the mean of all tokens
    assert not reads_class_token(last(norm_before_mlp="bn"))  # statistics of all tokens
    assert not reads_class_token(last(proj_drop_rate=0.1))  # other draws
    assert not reads_class_token(encoders.build("swin_mini", size=32).trunk)
    assert not reads_class_token(timm.create_model("deit_tiny_distilled_patch16_224", img_size=32))
    for part in ("", "attn.qkv"):
        watched = last()
        watched.blocks[-1].get_submodule(part).register_forward_hook(lambda *_: None)
        assert not reads_class_token(watched)
