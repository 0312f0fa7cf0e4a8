"""What is left out to be fast, against the plain way: equal values and equal gradients."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block
from torch import nn

from tacit import encoders
from tacit.encoders import window_attention
from tacit.encoders.class_token import reads_class_token
from tacit.encoders.encoder import TokenBatchNorm
from tacit.encoders.skip_rows import SkippingBlock, SkippingSwinBlock, add_branch, skip_dropped_rows
from tacit.encoders.window_attention import FewerPasses


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


def windows_trained(encoder: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Tokens and the gradients of all weights, in autocast to `dtype`."""
    encoder.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y = encoder.tokens(x)
    (y.float() * torch.sin(torch.arange(y.numel()).float()).view_as(y)).sum().backward()
    return [y.detach().float(), *(p.grad for p in encoder.parameters())]


def far(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm().clamp_min(1e-6)) for a, b in zip(found, wanted, strict=True)]


def slow(encoder: nn.Module) -> nn.Module:
    made = copy.deepcopy(encoder)
    for part in made.modules():
        if isinstance(part, FewerPasses):
            part.__class__ = WindowAttention
    return made


@pytest.mark.parametrize("any_size", [False, True])
def test_windows_attend_in_fewer_passes_with_the_same_outcome(any_size, monkeypatch):
    torch.manual_seed(0)
    encoder = encoders.build("swin_mini", size=32)  # maps of 16, 8 and 4, windows of 4: several with a shift, and one
    for name, p in encoder.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(p)
    if any_size:
        encoder = encoders.any_size(encoder)
    masks, calls = [], []
    monkeypatch.setattr(window_attention, "attend_windows", lambda *given: calls.append(given) or attend(*given))
    attend = window_attention._Attention.apply
    for part in encoder.modules():
        if isinstance(part, FewerPasses):
            part.register_forward_pre_hook(lambda _, __, given: masks.append(given["mask"]), with_kwargs=True)
    plain, x = slow(encoder), torch.randn(3, 3, 32 + 8 * any_size, 32)
    exact = windows_trained(plain, x, None)
    for a, b in zip(windows_trained(encoder, x, None), exact, strict=True):
        assert torch.equal(a, b)
    assert not calls
    assert any(mask is None for mask in masks)
    assert any(mask is not None for mask in masks)
    fast, usual = (windows_trained(one, x, torch.bfloat16) for one in (encoder, plain))
    assert len(calls) == len(encoder.trunk.layers) * 2
    for off, before in zip(far(fast, exact), far(usual, exact), strict=True):
        assert off < max(1.5 * before, 0.02)
    assert encoder.trunk.state_dict().keys() == timm_keys(encoder)


def timm_keys(encoder: nn.Module) -> set[str]:
    return timm.create_model(encoder.arch, num_classes=0, **encoder.kwargs).state_dict().keys()


def test_windows_attend_as_the_formula_says():
    torch.manual_seed(0)
    heads, tokens, bias = 2, 5, torch.randn(3, 2, 5, 5, requires_grad=True)
    qkv = torch.randn(6, tokens, 3 * heads * 4).bfloat16().requires_grad_()
    g = torch.randn(6, tokens, heads * 4)

    def formula(qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = qkv.unflatten(2, (3, heads, 4)).permute(2, 0, 3, 1, 4)
        return ((q @ k.mT * 0.7 + bias.repeat(2, 1, 1, 1)).softmax(-1) @ v).transpose(1, 2).flatten(2)

    given = [qkv.detach().double().requires_grad_(), bias.detach().double().requires_grad_()]
    wanted = formula(*given)
    found = window_attention.attend_windows(qkv, bias, 0.7)
    found.backward(g.bfloat16())
    wanted.backward(g.double())
    told = [found.detach(), qkv.grad, bias.grad]
    assert [x.dtype for x in told] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert max(far([x.double() for x in told], [wanted.detach(), *(x.grad for x in given)])) < 0.01


def test_windows_that_cannot_be_fast_are_timms():
    torch.manual_seed(0)
    attention = encoders.build("swin_mini", size=32).trunk.layers[0].blocks[0].attn
    plain = slow(attention)
    x = torch.randn(4, 16, 32)
    for change in ({"fused_attn": True}, {"attn_drop": nn.Dropout(0.5)}):
        found = []
        for one in (copy.deepcopy(attention), copy.deepcopy(plain)):
            for name, value in change.items():
                setattr(one, name, value)
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                found.append(one(x))
        assert torch.equal(*found)
    v2 = encoders.build("swinv2_mini", size=32)
    assert not any(isinstance(part, FewerPasses) for part in v2.modules())
