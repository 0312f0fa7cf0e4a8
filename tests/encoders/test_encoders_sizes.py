"""Encoders at other sizes than their own."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torchvision.models.swin_transformer import shifted_window_attention

from tacit import encoders
from tacit.encoders import any_size, pad, step, token_grid
from tacit.errors import UsageError


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return encoders.build("swin_mini", size=32).eval()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return encoders.build("vit_mini", size=32).eval()


def test_a_swin_built_for_32_is_at_64_what_timm_builds_for_64(swin):
    """Its last stage has windows as large as its grid at 32, and shifts them at 64."""
    built = encoders.build("swin_mini", size=64).eval()
    built.trunk.load_state_dict(swin.trunk.state_dict())
    x = images(64, 64)
    torch.testing.assert_close(any_size(swin)(x), built(x), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(any_size(swin).stages(x), built.stages(x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("name", ["swin", "vit"])
def test_at_its_own_size_an_encoder_stays_what_it_is(name, mask_padding, request):
    encoder = request.getfixturevalue(name)
    x = images(32, 32)
    before = encoder(x)
    torch.testing.assert_close(any_size(encoder, mask_padding=mask_padding)(x), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder(x), before)  # the copy was changed, not the encoder
    with pytest.raises(AssertionError, match="doesn't match model"):
        encoder(images(64, 64))


def test_a_vit_at_another_size_has_its_positions_interpolated(vit):
    """As when a run is started from the weights of another size."""
    from timm.layers import resample_abs_pos_embed

    built = encoders.build("vit_mini", size=64).eval()
    state = vit.trunk.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[16, 16], num_prefix_tokens=1)
    built.trunk.load_state_dict(state)
    x = images(64, 64)
    torch.testing.assert_close(any_size(vit)(x), built(x), atol=1e-5, rtol=1e-5)
    assert any_size(vit).tokens(images(64, 40)).shape == (2, 16 * 10, 128)


@pytest.mark.parametrize("size", [(18, 22), (16, 9), (7, 30)])
@pytest.mark.parametrize("which", [0, 1])
def test_padded_windows_are_those_of_the_official_code(swin, size, which):
    """torchvision's function pads, shifts and masks as the official detection code does; both block kinds."""
    block = any_size(swin, mask_padding=False).trunk.layers[0].blocks[which]
    x = torch.randn(2, *size, 32, generator=torch.Generator().manual_seed(1))
    attn = block.attn
    theirs = shifted_window_attention(
        x, attn.qkv.weight, attn.proj.weight, attn._get_rel_pos_bias(), [4, 4], 2, [2 * which, 2 * which],
        qkv_bias=attn.qkv.bias, proj_bias=attn.proj.bias, training=False,
    )  # fmt: skip
    torch.testing.assert_close(block._attn(x), theirs, atol=1e-5, rtol=1e-5)


def test_masked_padding_takes_no_part(swin):
    """A grid of 4 x 2 under windows of 4 x 4 is attention in one window of 4 x 2 with the middle of the table."""
    block = any_size(swin).trunk.layers[0].blocks[1]
    x = torch.randn(2, 4, 2, 32, generator=torch.Generator().manual_seed(1))
    small = WindowAttention(32, 2, window_size=(4, 2)).eval()
    state = block.attn.state_dict()
    table = state["relative_position_bias_table"].view(7, 7, 2)[:, 2:5].reshape(21, 2)
    small.load_state_dict({**state, "relative_position_bias_table": table})
    torch.testing.assert_close(block._attn(x), small(x.flatten(1, 2)).view_as(x), atol=1e-5, rtol=1e-5)
    attended = any_size(swin, mask_padding=False).trunk.layers[0].blocks[1]
    assert not torch.allclose(attended._attn(x), block._attn(x), atol=1e-3)


def test_tokens_lie_on_the_grid_of_the_picture(swin, vit):
    tall = images(72, 36)
    assert token_grid(any_size(swin), tall).shape == (2, 9, 5, 128)  # padded
    assert token_grid(any_size(vit), tall).shape == (2, 18, 9, 128)
    x = images(32, 32)
    torch.testing.assert_close(token_grid(vit, x).flatten(1, 2), vit.tokens(x))
    torch.testing.assert_close(token_grid(swin, x), swin.trunk.forward_features(x))
    made = any_size(encoders.build("vit_mini", size=32, patch=8, depth=1))
    assert token_grid(made, torch.zeros(1, 3, 480, 832)).shape == (1, 60, 104, 128)


def test_positions_of_a_paper_sized_table_are_interpolated(vit):
    encoder = encoders.build("vit_mini", size=224, patch=16, depth=1).eval()
    table = encoder.trunk.pos_embed
    seen = []
    made = any_size(encoder)
    made.trunk.norm_pre.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        made.trunk.patch_embed.proj.weight.zero_()
        made.trunk.patch_embed.proj.bias.zero_()
        made.trunk.cls_token.zero_()
        made(torch.zeros(1, 3, 224, 224))
        made(torch.zeros(1, 3, 96, 96))
    assert torch.equal(seen[0], table)  # the stored table itself
    grid = table[:, 1:].view(1, 14, 14, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen[1], torch.cat([table[:, :1], expected], dim=1))


def test_convolutional_trunks_take_any_size_and_others_say_what_they_cannot(vit):
    resnet = any_size(encoders.build("resnet18", size=64).eval())
    assert step(resnet) == 32
    assert token_grid(resnet, images(96, 64)).shape == (2, 3, 2, 512)
    fixed = any_size(encoders.build("mixer_s16_224", size=224).eval())
    with pytest.raises(UsageError, match=r"mixer_s16_224 cannot take images of 64 x 64.*set size=224"):
        token_grid(fixed, images(64, 64))
    with pytest.raises(UsageError, match=r"cannot take images of 30 x 32.*divisible by patch size"):
        token_grid(any_size(vit), images(30, 32))
    with torch.device("meta"), pytest.raises(UsageError, match="HybridEmbed"):
        any_size(encoders.build("vit_tiny_r_s16_p8_224", size=224, depth=1))


def test_padding_is_right_and_below():
    x = torch.ones(1, 2, 5, 8)
    padded = pad(x, 4)
    assert padded.shape == (1, 2, 8, 8)
    assert padded[..., :5, :].eq(1).all()
    assert padded[..., 5:, :].eq(0).all()


def sines(encoder) -> None:
    """Weights that are the same everywhere and on every machine; those of norms near one."""
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(encoder.trunk.named_parameters())):
            x = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + k).float().view(p.shape)
            norm = ("norm" in name or ".bn." in name) and name.endswith("weight")
            p.copy_(1 + 0.2 * x if norm else 0.3 * x)


@pytest.mark.parametrize(
    ("size", "square", "first", "last"),
    [
        (56, 0.8636274337768555, (-1.667434, 0.392152, 0.737885), (-1.637207, 0.339941, 0.765454)),
        (24, 0.8560114502906799, (-1.667566, 0.343741, 0.805484), (-1.642191, 0.224219, 0.924757)),
    ],
)
def test_the_golden_features_of_the_official_swin_of_esvit(size, square, first, last):
    """As at 224 and 96 pixels, windows of 7 fill grids of 28, 14 and 7, and grids of 12, 6 and 3 only with padding."""
    shape = {"patch": 2, "window": 7, "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    built = encoders.build("swin_tiny", size=56, norm_eps=1e-6, **shape).eval()
    sines(built)
    x = torch.sin(torch.arange(2 * 3 * size**2, dtype=torch.float64) * 0.37).float().view(2, 3, size, size)
    pooled, tokens = any_size(built, mask_padding=False, shift_as_built=True).features_and_tokens(x)
    assert tokens.shape == (2, 49 if size == 56 else 9, 32)
    assert pooled.square().mean().item() == pytest.approx(square, rel=1e-5)
    assert pooled[0, :3].tolist() == pytest.approx(first, abs=2e-5)
    assert tokens[1, -1, :3].tolist() == pytest.approx(last, abs=2e-5)
    if size == 56:  # without padding it is the plain Swin
        torch.testing.assert_close(pooled, built(x))
    else:
        for others in ({"shift_as_built": False}, {"shift_as_built": True, "mask_padding": True}):
            made = any_size(built, **{"mask_padding": False} | others)
            assert (made(x) - pooled).abs().max() > 1e-3
