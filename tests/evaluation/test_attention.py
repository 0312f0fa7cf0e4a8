import pytest
import torch
from sklearn.metrics import jaccard_score

from tacit import encoders
from tacit.encoders import Encoder
from tacit.errors import DataError, UsageError
from tacit.evaluation.attention import attention_jaccard, best_head, cls_attention, mass_masks


def vit(**kwargs) -> Encoder:
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", **{"size": 32, "patch": 8, "embed_dim": 32, "depth": 2, **kwargs})
    with torch.no_grad():
        for block in encoder.trunk.blocks:
            block.attn.qkv.weight.normal_(0, 0.3)  # fresh weights attend to everything alike
    return encoder


def held(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    """The weights that timm itself holds when attention is not fused: [B, heads, N, N]."""
    attention, found = encoder.trunk.blocks[-1].attn, []
    attention.fused_attn = False
    handle = attention.attn_drop.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    with torch.no_grad():
        encoder.eval()(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("kwargs", [{}, {"qk_norm": True}, {"reg_tokens": 3}])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_what_timm_computes(kwargs, fused):
    encoder = vit(**kwargs)
    encoder.trunk.blocks[-1].attn.fused_attn = fused
    images = torch.rand(3, 3, 32, 32)
    found = cls_attention(encoder, images)
    assert found.shape == (3, 4, 4, 4)
    prefix = encoder.trunk.num_prefix_tokens
    theirs = held(encoder, encoder.inputs.prepare(images))[:, :, 0]
    torch.testing.assert_close(found.flatten(2), theirs[:, :, prefix:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum((2, 3)) + theirs[:, :, :prefix].sum(2), torch.ones(3, 4))
    assert found.amax() > 2 * found.mean()


def test_the_encoder_stays_as_it_was():
    encoder = vit(drop_path=0.5)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    first = cls_attention(encoder, images)
    assert torch.equal(first, cls_attention(encoder, images))  # nothing is dropped at random
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_bytes_are_the_same_image_and_other_sizes_have_other_grids():
    encoder = vit()
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(cls_attention(encoder, images), cls_attention(encoder, images / 255))
    assert cls_attention(encoder, torch.rand(1, 3, 24, 48)).shape == (1, 4, 3, 6)


def test_a_block_without_queries_attends_to_all_tokens_alike():
    encoder = vit()
    torch.nn.init.zeros_(encoder.trunk.blocks[-1].attn.qkv.weight)
    found = cls_attention(encoder, torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(found, torch.full((1, 4, 4, 4), 1 / 17))  # 16 patches and the class token


def test_mass_masks_by_hand():
    attention = torch.tensor([[0.05, 0.3], [0.5, 0.15]])
    assert mass_masks(attention, 0.6).tolist() == [[False, True], [True, False]]
    assert mass_masks(attention, 0.5).tolist() == [[False, False], [True, False]]
    assert mass_masks(attention, 0.81).tolist() == [[False, True], [True, True]]
    assert mass_masks(attention, 1.0).all()
    assert torch.equal(mass_masks(attention * 0.1, 0.6), mass_masks(attention, 0.6))  # of what the patches get
    assert mass_masks(torch.full((2, 5), 0.1)).sum() == 6  # a uniform map keeps 60 % of its patches
    values = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    kept = mass_masks(values)
    share = (values * kept).sum((2, 3)) / values.sum((2, 3))
    least = values.masked_fill(~kept, torch.inf).amin((2, 3))
    assert (share >= 0.6).all()
    assert (share - least / values.sum((2, 3)) < 0.6).all()
    assert (values.masked_fill(kept, -1).amax((2, 3)) <= least).all()


def test_jaccard_of_each_head_by_hand_and_the_best():
    left = torch.zeros(1, 4, 4, dtype=torch.bool)
    left[:, :, :2] = True
    heads = torch.tensor([[[[0.4, 0.1], [0.4, 0.1]], [[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.4], [0.1, 0.4]]]])
    found = attention_jaccard(heads, left)
    assert found.tolist() == [[1.0, 0.5, 0.0]]  # the left half, its upper half, the right half
    value, head = best_head(found)
    assert (value.tolist(), head.tolist()) == ([1.0], [0])
    void = torch.zeros_like(left)
    void[:, 2:] = True
    assert attention_jaccard(heads, left, ignore=void).tolist() == [[1.0, 1.0, 0.0]]


def test_jaccard_is_scikit_learns_and_the_best_head_may_differ_by_image():
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(4, 3, 5, 6, generator=generator) ** 4
    truth = torch.rand(4, 15, 12, generator=generator) > 0.6
    found = attention_jaccard(attention, truth)
    masks = mass_masks(attention).repeat_interleave(3, dim=2).repeat_interleave(2, dim=3)
    for b in range(4):
        for h in range(3):
            assert found[b, h] == pytest.approx(jaccard_score(truth[b].flatten(), masks[b, h].flatten()), abs=1e-6)
    value, head = best_head(found)
    assert torch.equal(value, found.amax(1))
    assert torch.equal(found[torch.arange(4), head], value)


def test_what_has_no_such_attention_is_said():
    swin = encoders.build("swin_mini", size=32)
    with pytest.raises(UsageError, match=r"swin_mini has no class token.*Choose a ViT"):
        cls_attention(swin, torch.rand(1, 3, 32, 32))
    resnet = encoders.build("resnet18", size=32)
    with pytest.raises(UsageError, match="no class token"):
        cls_attention(resnet, torch.rand(1, 3, 32, 32))
    with pytest.raises(UsageError, match="multiples"):
        cls_attention(vit(), torch.rand(1, 3, 30, 32))
    broken = vit()
    torch.nn.init.constant_(broken.trunk.blocks[0].norm1.weight, float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        cls_attention(broken, torch.rand(1, 3, 32, 32))


def test_what_cannot_be_compared_is_said():
    attention, truth = torch.rand(2, 3, 4, 4), torch.ones(2, 8, 8, dtype=torch.bool)
    with pytest.raises(DataError, match=r"\[B, heads, h, w\]"):
        attention_jaccard(attention, truth[:1])
    with pytest.raises(DataError, match=r"ignore \[1, 8, 8\]"):
        attention_jaccard(attention, truth, ignore=truth[:1])
    truth[1] = False
    with pytest.raises(DataError, match="image 1 of the batch holds no object"):
        attention_jaccard(attention, truth)
    with pytest.raises(DataError, match="not zero everywhere"):
        mass_masks(torch.zeros(2, 2))
    with pytest.raises(DataError, match="finite"):
        mass_masks(torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(UsageError, match=r"mass = 60"):
        mass_masks(attention, 60)
