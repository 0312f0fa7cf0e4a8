"""Encoders made anew for another input size: what is interpolated, what is kept, and how a user gets there."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed

import tacit
from tacit import encoders
from tacit.encoders import any_size, at_size
from tacit.errors import BadSettings


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_swins_tables_are_interpolated_to_the_new_window():
    torch.manual_seed(0)
    swin = encoders.build("swin_mini", size=32).eval()
    larger = at_size(swin, 48, 6)
    assert larger(images(48)).shape == (2, 128)
    assert (larger.inputs.size, larger.name, larger.training) == (48, "swin_mini", False)
    old, new = (e.trunk.layers[1].blocks[0].attn.relative_position_bias_table for e in (swin, larger))
    expected = F.interpolate(old.T.view(1, 4, 7, 7), (11, 11), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(new, expected)
    kept = {n for n, v in larger.trunk.state_dict().items() if v.equal(swin.trunk.state_dict()[n])}
    assert kept == {n for n in larger.trunk.state_dict() if "table" not in n}


def test_with_the_same_windows_it_is_what_any_size_does_there():
    torch.manual_seed(0)
    for name in ("swin_mini", "vit_mini"):
        encoder = encoders.build(name, size=32).eval()
        torch.testing.assert_close(
            at_size(encoder, 64)(images(64)), any_size(encoder)(images(64)), atol=1e-5, rtol=1e-5
        )


def test_a_vits_positions_and_beits_table_are_interpolated():
    vit = encoders.build("vit_mini", size=32, depth=1)
    expected = resample_abs_pos_embed(vit.trunk.pos_embed, new_size=[12, 12], num_prefix_tokens=1)
    torch.testing.assert_close(at_size(vit, 48).trunk.pos_embed, expected)
    beit = encoders.build("simmim_vit_base", size=32, embed_dim=8, depth=1, num_heads=2)
    with torch.no_grad():
        beit.trunk.rel_pos_bias.relative_position_bias_table.normal_()
    old, new = (e.trunk.rel_pos_bias.relative_position_bias_table for e in (beit, at_size(beit, 48)))
    assert (len(old), len(new)) == (9 + 3, 25 + 3)
    assert torch.equal(new[-3:], old[-3:])  # to, from and of the class token
    table = F.interpolate(old[:9].T.view(1, 2, 3, 3), (5, 5), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(new[:25], table)


def test_convolutions_take_the_new_size_as_they_are():
    resnet = encoders.build("resnet_mini", size=32).eval()
    larger = at_size(resnet, 48)
    assert (larger.inputs.size, resnet.inputs.size) == (48, 32)
    assert torch.equal(larger(images(48)), resnet(images(48)))


def test_sizes_that_windows_do_not_fill_are_refused():
    swin = encoders.build("swin_mini", size=32)
    with pytest.raises(BadSettings, match=r"size = 48: in stage 3 .* as the one at 32 pixels fits, too: window=6"):
        at_size(swin, 48)


@pytest.mark.parametrize("name", ["swin_mini", "swinv2_mini"])
def test_it_is_loaded_exported_and_read_again(name, tmp_path):
    torch.manual_seed(0)
    encoder = encoders.build(name, size=32).eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    encoders.save(encoder, tmp_path / "run")
    larger = encoders.load(tmp_path / "run", size=48, window=6)
    x = images(48)
    torch.testing.assert_close(larger(x), at_size(encoder, 48, 6)(x))
    found = tacit.export(tmp_path / "run", "timm", tmp_path / "out", size=48, window=6)
    assert found["difference"] <= found["tolerance"]
    torch.testing.assert_close(encoders.load(tmp_path / "out")(x), larger(x))
