import pytest
import torch

from tacit import encoders
from tacit.encoders import any_size
from tacit.errors import UsageError
from tacit.evaluation.dense import maps


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_maps_have_the_grid_of_the_picture():
    swin, vit = (encoders.build(name, size=32).eval() for name in ("swin_mini", "vit_mini"))
    tall = images(72, 36)
    assert maps.maps(any_size(swin), tall).shape == (2, 128, 9, 5)
    assert maps.maps(any_size(swin), tall, "all").shape == (2, 32 + 64 + 128, 36, 18)
    assert maps.maps(any_size(vit), tall).shape == (2, 128, 18, 9)
    assert maps.maps(any_size(vit), tall, "all").shape == (2, 4 * 128, 18, 9)
    x = images(32, 32)
    expected = vit.tokens(x).transpose(1, 2).reshape(2, 128, 8, 8)
    torch.testing.assert_close(maps.maps(any_size(vit), x), expected, atol=1e-5, rtol=1e-5)
    expected = swin.trunk.forward_features(x).permute(0, 3, 1, 2)
    torch.testing.assert_close(maps.maps(any_size(swin), x), expected, atol=1e-5, rtol=1e-5)


def test_convolutional_maps_and_what_has_none():
    resnet = any_size(encoders.build("resnet18", size=64).eval())
    assert maps.maps(resnet, images(96, 64)).shape == (2, 512, 3, 2)
    fixed = any_size(encoders.build("mixer_s16_224", size=224).eval())
    with pytest.raises(UsageError, match=r"mixer_s16_224 cannot take images of 64 x 64.*set size=224"):
        maps.maps(fixed, images(64, 64))
