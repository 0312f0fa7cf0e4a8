"""Fixed positions, first weights, and views that must not share a batch."""

import math

import pytest
import torch

from tacit import encoders
from tacit.encoders import sincos_2d, sincos_positions_, view_by_view, xavier_
from tacit.errors import UsageError


@pytest.mark.parametrize(("first", "a", "b"), [("row", 3, 5), ("column", 5, 3)])
def test_the_formula_at_row_three_and_column_five(first, a, b):
    table = sincos_2d(16, 6, 7, first)
    omega = [10000 ** (-j / 4) for j in range(4)]
    angles = [[axis * o for o in omega] for axis in (a, b)]
    expected = [f(x) for axis in angles for f in (math.sin, math.cos) for x in axis]
    assert table.shape == (42, 16)
    torch.testing.assert_close(table[3 * 7 + 5], torch.tensor(expected))


def test_the_official_table_of_moco_v3():
    """Of facebookresearch/moco-v3 c349e6e, on a grid of 7 x 7 at width 384: row 3, column 5, and the sum of all."""
    table = sincos_2d(384, 7, 7, "row")
    assert table[3 * 7 + 5, 10].item() == pytest.approx(0.9125007, abs=1e-6)
    assert table.sum().item() == pytest.approx(9301.3486, rel=1e-6)


def test_positions_are_set_and_frozen_and_the_class_token_has_none():
    encoder = sincos_positions_(encoders.build("vit_mini", size=32), "row")
    table = encoder.trunk.pos_embed
    assert not table.requires_grad
    assert not table[0, 0].any()
    torch.testing.assert_close(table[0, 1:], sincos_2d(128, 8, 8, "row"))


def test_what_has_no_such_positions_is_refused():
    with pytest.raises(UsageError, match="swin_mini has no table of positions"):
        sincos_positions_(encoders.build("swin_mini", size=32))
    with pytest.raises(UsageError, match="multiple of 4"):
        sincos_2d(6, 2, 2)
    with pytest.raises(UsageError, match="row, column"):
        sincos_2d(8, 2, 2, "diagonal")


@pytest.mark.parametrize(("split", "rows"), [(True, 128), (False, 384)])
def test_xavier_counts_queries_keys_and_values_as_three_or_as_one(split, rows):
    encoder = xavier_(encoders.build("vit_mini", size=32), split_qkv=split)
    block = encoder.trunk.blocks[0]
    bounds = {
        block.attn.qkv: math.sqrt(6 / (rows + 128)),
        block.mlp.fc1: math.sqrt(6 / (512 + 128)),
        encoder.trunk.patch_embed.proj: math.sqrt(6 / (3 * 4 * 4 + 128)),
    }
    for module, bound in bounds.items():
        assert module.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not module.bias.any()


def test_the_vit_s_of_moco_v3_has_twelve_heads_and_as_many_parameters_as_deits():
    with torch.device("meta"):
        encoder, deit = (encoders.build(name, size=224) for name in ("vit_small_12h", "deit_small"))
    assert [block.attn.num_heads for block in encoder.trunk.blocks] == [12] * 12
    assert encoder.trunk.norm.eps == 1e-6
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in deit.parameters()) == 21_665_664


def test_views_share_a_pass_unless_a_batch_norm_would_mix_them():
    torch.manual_seed(0)
    views = [torch.randn(4, 3, 32, 32), 3 + torch.randn(4, 3, 32, 32)]
    for name, apart in (("vit_mini", False), ("resnet_mini", True)):
        encoder = encoders.build(name, size=32)
        passes = []
        encoder.register_forward_hook(lambda module, given, found, passes=passes: passes.append(len(found)))
        found = view_by_view(encoder, views)
        assert passes == ([4, 4] if apart else [8])
        for x, y in zip(views, found, strict=True):
            torch.testing.assert_close(encoder(x), y, atol=1e-5, rtol=1e-4)
