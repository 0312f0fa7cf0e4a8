"""EsViT's CvT against its official code, at the same weights."""

import pytest
import timm
import torch

from tacit import encoders
from tacit.encoders.cvt import ConvWindowAttention, CvT
from tacit.errors import BadSettings
from tacit.evaluation import choices
from tests.encoders.test_encoders_sizes import sines

SHAPE = {
    "dims": (8, 16, 32), "depths": (1, 2, 1), "num_heads": (1, 2, 4), "kernels": (7, 3, 3), "strides": (4, 2, 2),
    "paddings": (2, 1, 1), "window_size": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "train", "square", "first", "last"),
    [  # grids of 10, 5 and 3; of 14, 7 and 4; of 3, 2 and 1, below the window
        (40, True, 0.7570503950119019, (-1.338124, 0.693199, 0.986589), (-1.09524, 1.018761, 1.357694)),
        (40, False, 0.7492453455924988, (-1.354498, 0.683858, 0.993882), (-1.070297, 1.07238, 1.266991)),
        (56, False, 0.7561064958572388, (-1.262396, 0.80003, 1.127559), (-1.112155, 0.980836, 1.415537)),
        (12, False, 0.8586634993553162, (-1.102785, 1.023658, 1.372969), (-1.091617, 1.028246, 1.327848)),
    ],
)
def test_the_golden_features_of_the_official_code(size, train, square, first, last):
    encoder = encoders.build("cvt_13_esvit", size=40, **SHAPE)
    sines(encoder)
    if not train:  # the running statistics are those after the three sizes in train mode
        for other in (40, 56, 12):
            encoder.train()(wave(other))
    pooled, tokens = encoder.train(train).features_and_tokens(wave(size))
    assert pooled.square().mean().item() == pytest.approx(square, rel=1e-4)
    assert pooled[0, :3].tolist() == pytest.approx(first, abs=2e-5)
    assert tokens[1, -1, :3].tolist() == pytest.approx(last, abs=2e-5)


def wave(size: int) -> torch.Tensor:
    return torch.sin(torch.arange(2 * 3 * size**2, dtype=torch.float64) * 0.37).float().view(2, 3, size, size)


def test_the_published_shape():
    with torch.device("meta"):
        encoder = encoders.build("cvt_13_esvit", size=224)
        assert isinstance(encoder.trunk, CvT)
        assert sum(p.numel() for p in encoder.parameters()) == 29_303_616
        assert [encoder.tokens(torch.empty(1, 3, s, s)).shape[1] for s in (224, 96)] == [49, 9]
        assert encoder.width == 768
        maps = encoder.stages(torch.empty(1, 3, 224, 224))
        assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]
        last4 = choices.choose(encoder, torch.empty(1, 3, 224, 224), ["last4"])["last4"]
        assert last4.shape[1] == 384 + 384 + 768 + 768
    assert timm.is_model("cvt_13_esvit")


def test_windows_do_not_see_each_other_and_padding_is_attended():
    torch.manual_seed(0)
    attention = ConvWindowAttention(8, 2, 4).eval()
    torch.nn.init.dirac_(attention.dw.weight, groups=8)  # a convolution would look beyond the window
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, :4, :4] += 1
    differs = (attention(x) - attention(changed)).abs().amax((0, 3)) > 1e-6
    assert differs[:4, :4].all()
    assert not differs[4:].any()
    assert not differs[:, 4:].any()
    one = attention(x[:, :4, :4])
    torch.testing.assert_close(one, attention(x)[:, :4, :4])
    assert (attention(x[:, :4, :3]) - attention(x[:, :4, :4])[:, :, :3]).abs().max() > 1e-4


def test_mini_is_for_small_inputs_and_its_window_is_a_choice():
    encoder = encoders.build("cvt_mini", size=32, channels=1, window=2, drop_path=0.1)
    assert encoder.tokens(torch.randn(2, 1, 32, 32)).shape == (2, 16, 128)
    assert encoder.trunk.layers[0].blocks[0].attn.window == 2
    assert encoder.trunk.layers[2].blocks[1].drop_path2.drop_prob == pytest.approx(0.1)
    assert encoder.feature == "mean of the tokens after the last norm"
    assert encoders.any_size(encoder)(torch.randn(2, 1, 24, 40)).shape == (2, 128)
    with pytest.raises(BadSettings, match="the patch size of cvt_mini cannot be chosen"):
        encoders.build("cvt_mini", size=32, patch=4)
