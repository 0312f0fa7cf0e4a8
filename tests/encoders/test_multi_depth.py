"""Features of several depths as one, and which depths can be asked for."""

import pytest
import torch

from tacit import encoders


def vit(**how) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=16, **how).eval()


def streams(encoder: encoders.Encoder, x: torch.Tensor) -> list[torch.Tensor]:
    found = []
    hooks = [block.register_forward_hook(lambda _, __, y: found.append(y)) for block in encoder.trunk.blocks]
    encoder(x)
    for hook in hooks:
        hook.remove()
    return found


def test_streams_are_averaged_before_the_one_norm_and_the_pooled_feature_is_the_encoders():
    encoder, x = vit(), torch.randn(2, 3, 16, 16)
    behind, norm = streams(encoder, x), encoder.trunk.norm
    pooled, tokens = encoders.multi_depth(encoder, x, (2, 3, 4))
    torch.testing.assert_close(tokens, norm((behind[1] + behind[2] + behind[3]) / 3)[:, 1:])
    torch.testing.assert_close(pooled, encoder(x))
    normed_first = sum(norm(y) for y in behind[1:])[:, 1:] / 3
    assert not torch.allclose(tokens, normed_first, atol=1e-3)
    for last in ((), (4,)):
        torch.testing.assert_close(encoders.multi_depth(encoder, x, last)[1], encoder.tokens(x))


def test_gradient_reaches_every_depth():
    encoder = vit()
    _, tokens = encoders.multi_depth(encoder, torch.randn(2, 3, 16, 16), (2, 4))
    tokens.square().mean().backward()
    assert all(block.mlp.fc1.weight.grad.abs().sum() > 0 for block in encoder.trunk.blocks)


def test_depths_that_are_not_there_are_named():
    assert encoders.depth_problems("deit_small", (6, 8, 10, 12), 224) == []
    assert encoders.depth_problems("vit_mini", (), 16) == []
    (said,) = encoders.depth_problems("vit_mini", (6, 8, 10, 12), 16)
    assert said.startswith("depths = 6,8,10,12: must be different blocks of vit_mini, which has 4")
    assert said.endswith("Set depths=4, or 2,3,4.")
    for wrong in ((2, 3), (0, 4), (4, 4)):
        assert len(encoders.depth_problems("vit_mini", wrong, 16)) == 1
    assert "plain ViT" in encoders.depth_problems("swin_mini", (), 32)[0]


def test_an_encoder_of_mean_patches_is_saved_as_one(tmp_path):
    encoder, x = vit(**encoders.MEAN_PATCH), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(encoder(x), encoder.tokens(x).mean(1))
    assert encoder.feature == "mean of the patch tokens after the last norm"
    assert vit().feature == "class token after the last norm"
    encoders.save(encoder, tmp_path)
    loaded = encoders.load(tmp_path)
    assert loaded.feature == encoder.feature
    assert torch.equal(loaded(x), encoder(x))
    assert not torch.allclose(vit()(x), encoder(x))


@pytest.mark.parametrize("blocks", [(), (2, 4)])
def test_it_takes_other_sizes_where_the_encoder_does(blocks):
    encoder = encoders.any_size(vit())
    assert encoders.multi_depth(encoder, torch.randn(1, 3, 24, 24), blocks)[1].shape == (1, 36, 128)
