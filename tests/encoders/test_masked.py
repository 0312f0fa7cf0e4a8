"""A ViT on some of its patches is the ViT, with the others gone."""

import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock

from tacit import encoders
from tacit.encoders import embed, encode_tokens, encode_visible, patch_grid, pick, visible_ids
from tacit.errors import UsageError


def vit(**changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, depth=2, **changes).eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_with_all_patches_it_is_the_encoder_itself():
    encoder, x = vit(), images()
    found = encode_visible(encoder, x, torch.arange(16).expand(3, -1))
    feature, tokens = encoder.features_and_tokens(x)
    assert torch.equal(found[:, 0], feature)
    assert torch.equal(found[:, 1:], tokens)


def test_positions_are_those_in_the_image_and_hidden_pixels_play_no_part():
    encoder, x = vit(), images(1)
    ids = torch.tensor([[2, 7, 11]])
    before = encode_visible(encoder, x, ids)
    other = x.clone()
    other[:, :, 4:8, :12] = 9.0  # patches 4, 5 and 6
    assert torch.equal(encode_visible(encoder, other, ids), before)
    moved = x.roll(4, dims=3)  # patch 2 comes to lie at 3, and so on: the same content elsewhere
    assert not torch.allclose(encode_visible(encoder, moved, torch.tensor([[3, 4, 8]])), before, atol=1e-3)
    trunk = encoder.trunk
    by_hand = trunk.patch_embed(x)[:, [2, 7, 11]] + trunk.pos_embed[:, [3, 8, 12]]
    by_hand = torch.cat([trunk.cls_token + trunk.pos_embed[:, :1], by_hand], dim=1)
    torch.testing.assert_close(before, trunk.norm(trunk.blocks(by_hand)))


def test_another_order_of_the_kept_is_another_order_of_the_same():
    encoder, x = vit(), images(2)
    ids = torch.tensor([[1, 5, 6, 12], [0, 3, 9, 15]])
    order = torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0]])
    straight, shuffled = (encode_visible(encoder, x, i) for i in (ids, ids.gather(1, order)))
    torch.testing.assert_close(shuffled[:, 0], straight[:, 0])
    torch.testing.assert_close(shuffled[:, 1:], pick(straight[:, 1:], order))


def test_a_trunk_without_class_token_and_one_with_two():
    bare = encoders.build("vit_mini", size=16, class_token=False, global_pool="avg", depth=1)
    two = encoders.build("vit_mini", size=16, reg_tokens=1, depth=1)
    for encoder, prefix in ((bare, 0), (two, 2)):
        front, patches = embed(encoder, images())
        assert (front.shape[1], patches.shape[1]) == (prefix, 16)
        assert encode_visible(encoder, images(), torch.tensor([[0, 9]] * 3)).shape == (3, prefix + 2, 128)


def test_another_attention_takes_the_place_of_every_block_s():
    encoder = vit(drop_path=0.5)
    tokens = torch.cat(embed(encoder, images()), dim=1)
    asked = []

    def attend(attention, x):
        asked.append(attention)
        return attention(x)

    torch.testing.assert_close(encode_tokens(encoder, tokens, attend), encode_tokens(encoder, tokens))
    assert asked == [block.attn for block in encoder.trunk.blocks]
    other = vit(block_fn=ParallelScalingBlock)
    with pytest.raises(UsageError, match="vit_mini is made of ParallelScalingBlock"):
        encode_tokens(other, tokens, attend)
    assert encode_tokens(other, tokens).shape == tokens.shape


def test_ids_are_those_that_the_mask_leaves():
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 0, 1] = mask[0, 1, 2] = mask[1, 1, 0] = mask[1, 0, 0] = False
    assert visible_ids(mask).tolist() == [[1, 5], [0, 3]]
    mask[0, 0, 0] = mask[1, 1, 0] = False
    mask[1, 1, 0] = True  # 3 and 1, which also make two each
    with pytest.raises(UsageError, match="different numbers"):
        visible_ids(mask)


def test_the_grid_is_known_before_anything_is_built():
    assert patch_grid("vit_large_patch16_224", 224) == 14
    assert patch_grid("vit_huge_patch14_224", 224) == 16
    assert (patch_grid("vit_mini", 32), patch_grid("vit_mini", 32, 8)) == (8, 4)
    assert patch_grid("vit_mini", 30) == patch_grid("swin_mini", 32) == patch_grid("resnet_mini", 32) == 0
