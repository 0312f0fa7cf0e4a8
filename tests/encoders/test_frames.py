"""ViTs on spectrograms: shapes, positions that are cut, and sounds that end before their input."""

import pytest
import torch

from tacit import encoders
from tacit.errors import BadSettings, UsageError
from tacit.heads import PixelDecoder
from tacit.views import kaldi_inputs, mel_db_inputs

ATST = {"qkv_bias": False, "cut_positions": 1000}


def test_the_published_spectrogram_has_296_patches():
    with torch.device("meta"):
        encoder = encoders.build("vit_base_patch16_224", inputs=kaldi_inputs(592))
        assert encoder.tokens(torch.empty(2, 1, 592, 128)).shape == (2, 296, 768)
        assert encoder.trunk.pos_embed.shape == (1, 297, 768)


@pytest.mark.parametrize("tokens", [False, True])
def test_patches_of_all_bands_give_a_token_every_forty_milliseconds(tokens):
    how = ATST | ({"class_token": False, **encoders.MEAN_PATCH} if tokens else {})
    encoder = encoders.build("vit_mini", inputs=mel_db_inputs(601), patch=(4, 64), **how).eval()
    assert encoder.trunk.pos_embed.shape[1] == 250 + (not tokens)
    assert encoder.trunk.blocks[0].attn.qkv.bias is None
    assert encoder.trunk.blocks[0].attn.proj.bias is not None
    for frames, count in ((601, 150), (603, 150), (1001, 250)):  # 6 s, 25 ms more of it, 10 s
        x = torch.randn(1, 1, frames, 64)
        assert encoder.tokens(x).shape == (1, count, 128)
        assert encoders.token_grid(encoder, x).shape == (1, count, 1, 128)
    assert ("cls" in encoder.can) is not tokens
    assert {"tokens", "mask_tokens"} <= encoder.can
    with pytest.raises(UsageError, match="1004 frames, and the encoder positions for 1000"):
        encoder(torch.randn(1, 1, 1004, 64))


def test_positions_are_cut_not_interpolated():
    encoder = encoders.build("vit_mini", inputs=mel_db_inputs(41), patch=(4, 64), qkv_bias=False, cut_positions=80)
    x = torch.randn(1, 1, 80, 64)
    longer = encoder.trunk._pos_embed(encoder.trunk.patch_embed(x))
    shorter = encoder.trunk._pos_embed(encoder.trunk.patch_embed(x[:, :, :41]))
    assert longer.shape[1] == 21
    assert torch.equal(shorter, longer[:, :11])  # class token and ten frames
    encoder.trunk.pos_embed.data[:, 11:] = 7.0
    assert torch.equal(encoder.trunk._pos_embed(encoder.trunk.patch_embed(x[:, :, :41])), shorter)


def test_mask_tokens_know_where_they_are():
    encoder = encoders.build("vit_mini", inputs=mel_db_inputs(41), patch=(4, 64), cut_positions=80).eval()
    token = encoders.MaskTokens(encoder)
    mask = torch.zeros(2, 10, 1, dtype=torch.bool)
    x = torch.randn(2, 1, 41, 64)
    assert torch.equal(token(encoder, x, mask)[1], encoder.tokens(x))
    mask[:, 3:6] = True
    other = x.clone()
    other[:, :, 12:24] += 1
    assert torch.equal(token(encoder, other, mask)[1], token(encoder, x, mask)[1])  # hidden frames are not seen
    assert (token(encoder, x, mask)[1][:, 3] != token(encoder, x, mask)[1][:, 4]).any()


@pytest.mark.parametrize("how", [{}, {"class_token": False, **encoders.MEAN_PATCH}])
def test_what_lies_behind_the_end_changes_nothing(how):
    encoder = encoders.build("vit_mini", inputs=mel_db_inputs(41), patch=(4, 64), cut_positions=80, **how).eval()
    x = torch.randn(2, 1, 30, 64)
    padded = torch.cat([x, torch.zeros(2, 1, 30, 64)], dim=2)
    pooled, tokens, valid = encoders.encode_valid(encoder, padded, torch.tensor([30, 30]))
    assert valid.sum(1).tolist() == [7, 7]
    assert torch.allclose(pooled, encoder(x), atol=1e-4)
    assert torch.allclose(tokens[:, :7], encoder.tokens(x), atol=1e-4)
    noisy = padded.clone()
    noisy[:, :, 28:] = 5.0
    assert torch.allclose(encoders.encode_valid(encoder, noisy, torch.tensor([30, 30]))[0], pooled, atol=1e-5)
    mixed = encoders.encode_valid(encoder, padded, torch.tensor([30, 60]))[0]
    assert torch.allclose(mixed[0], pooled[0], atol=1e-5)
    assert torch.allclose(mixed[1], encoder(padded)[1], atol=1e-4)
    with pytest.raises(UsageError, match="fewer than 4 frames"):
        encoders.encode_valid(encoder, padded, torch.tensor([30, 3]))


def test_patches_that_do_not_tile_are_said():
    with pytest.raises(BadSettings, match=r"size = 598: .*598 = 37 x 16 \+ 6. Set size=592 or size=608"):
        encoders.build("vit_base_patch16_224", inputs=kaldi_inputs(598))
    with pytest.raises(BadSettings, match=r"mels = 100: .*Set mels=96 or mels=112"):
        encoders.build("vit_base_patch16_224", inputs=kaldi_inputs(592, mels=100))
    with pytest.raises(BadSettings, match="spectrograms are no squares"):
        encoders.build("swin_mini", inputs=kaldi_inputs(64, mels=64))
    with pytest.raises(BadSettings, match="mels = 80: must be a multiple of the 64 bands"):
        encoders.build("vit_mini", inputs=mel_db_inputs(601, mels=80), patch=(4, 64), **ATST)


def test_a_decoder_of_rows_that_are_no_square():
    decoder = PixelDecoder(8, 1, 4, rows=6)
    tokens = torch.randn(2, 12, 8)
    drawn = decoder(tokens)
    assert drawn.shape == (2, 1, 24, 8)
    tokens[:, 3] += 1  # second row, second column
    changed = (decoder(tokens) != drawn).nonzero()
    assert changed[:, 2].unique().tolist() == [4, 5, 6, 7]
    assert changed[:, 3].unique().tolist() == [4, 5, 6, 7]
    with pytest.raises(UsageError, match="13 tokens do not fill 6 rows"):
        decoder(torch.randn(2, 13, 8))
