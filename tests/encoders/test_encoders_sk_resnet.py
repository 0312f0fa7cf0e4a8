"""The ResNets of SimCLR v2: published sizes, the selective kernel's arithmetic, any size, and a place on disk."""

import pytest
import timm
import torch
import torch.nn.functional as F

from tacit import encoders
from tacit.encoders.sk_resnet import NAMES, SKBottleneck
from tacit.errors import UsageError
from tacit.export import export


def small(**changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(
        "resnet50_sk", **{"size": 32, "layers": (1, 1, 1, 1), "width": 0.25, "small_stem": True, **changes}
    )


@pytest.mark.parametrize(
    ("name", "millions", "width"),
    [
        ("resnet50_sk", 35, 2048),
        ("resnet50_2x", 94, 4096),
        ("resnet101_2x_sk", 257, 4096),
        ("resnet152_3x_sk", 795, 6144),
    ],
)
def test_the_sizes_of_the_papers_table(name, millions, width):
    with torch.device("meta"):
        trunk = timm.create_model(name, num_classes=0)
    assert trunk.num_features == width
    assert sum(p.numel() for p in trunk.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.mark.parametrize(("planes", "width", "narrow"), [(64, 1, 32), (512, 1, 32), (512, 2, 64), (256, 3, 48)])
def test_a_sixteenth_of_the_channels_choose_but_thirty_two_at_least(planes, width, narrow):
    with torch.device("meta"):
        block = SKBottleneck(256, planes * width)
    assert block.conv2.attn.fc_reduce.weight.shape == (narrow, planes * width, 1, 1)
    assert block.conv2.attn.fc_select.weight.shape == (2 * planes * width, narrow, 1, 1)
    assert block.conv2.attn.fc_reduce.bias is None
    assert block.conv2.attn.fc_select.bias is None


def test_the_selective_kernel_is_the_papers_one_convolution_in_two_halves():
    kernel = small().trunk.layer2[0].conv2.eval()
    x = torch.sin(torch.arange(2 * 32 * 64, dtype=torch.float32)).view(2, 32, 8, 8)
    first, second = (path.conv.weight for path in kernel.paths)
    norm = kernel.paths[0].bn
    both = F.conv2d(x, torch.cat([first, second]), stride=2, padding=1) / (norm.running_var[0] + norm.eps).sqrt()
    streams = F.relu(both).unflatten(1, (2, 32))
    pooled = streams.sum(1).mean((2, 3))
    a = kernel.attn
    narrow = F.relu(a.bn(a.fc_reduce(pooled[:, :, None, None])))
    weights = a.fc_select(narrow).unflatten(1, (2, 32)).softmax(1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 32, 1, 1))
    torch.testing.assert_close(a(streams), weights)
    torch.testing.assert_close(kernel(x), (streams * weights).sum(1))


def test_the_deep_stem_the_averaging_shortcut_and_the_last_norms():
    trunk = encoders.build("resnet50_2x_sk", size=64, width=0.5, layers=(1, 1, 1, 1)).trunk
    convolutions = [m for m in trunk.conv1 if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in convolutions] == [(16, 2), (16, 1), (32, 1)]
    x = torch.randn(1, 32, 5, 5)
    once = trunk.layer1[0].downsample[0](x)
    assert once.shape == x.shape
    torch.testing.assert_close(once[0, 0, 1, 1], x[0, 0, 1:3, 1:3].mean())
    torch.testing.assert_close(once[0, 0, 4, 4], x[0, 0, 4, 4])  # what lies outside is not counted
    torch.testing.assert_close(trunk.layer2[0].downsample[0](x[:, :, :4, :4]), F.avg_pool2d(x[:, :, :4, :4], 2))
    assert all(trunk.get_submodule(f"layer{i}")[0].conv3.bn.weight.eq(0).all() for i in (1, 2, 3, 4))
    first = F.pad(torch.arange(16.0).view(1, 1, 4, 4), (0, 1, 0, 1), value=-1)
    torch.testing.assert_close(trunk.maxpool(first[:, :, :4, :4]), F.max_pool2d(first, 3, 2))


def test_the_convolutions_start_with_a_variance_of_one_over_the_inputs():
    trunk = small().trunk
    weight = trunk.layer2[0].conv2.paths[1].conv.weight.detach()
    assert float(weight.std()) * (32 * 9) ** 0.5 == pytest.approx(1, abs=0.03)


def test_a_wide_one_without_selective_kernels_has_a_wide_plain_stem():
    trunk = encoders.build("resnet50_2x", size=32, layers=(1, 1, 1, 1)).trunk
    assert trunk.conv1.weight.shape == (128, 3, 7, 7)
    assert not any(isinstance(m, SKBottleneck) for m in trunk.modules())


@pytest.mark.parametrize("changes", [{}, {"width": 0.5, "channels": 2}, {"small_stem": False, "size": 48}])
def test_any_size_and_a_place_on_disk(changes, tmp_path):
    encoder = small(**changes)
    i = encoder.inputs
    x = torch.randn(2, i.channels, i.size, i.size)
    encoder.train()(x)
    encoders.save(encoder, tmp_path)
    back = encoders.load(tmp_path)
    assert torch.equal(back(x), encoder.eval()(x))
    assert back(x).shape == (2, 2048 * changes.get("width", 0.25))
    assert back(torch.randn(1, i.channels, 64, 40)).shape == (1, back.width)
    side = i.size // (8 if encoder.kwargs["small_stem"] else 32) + (i.size == 48)
    assert encoder.tokens(x).shape == (2, side * side, back.width)
    assert [m.shape[1] for m in encoder.stages(x)][1:] == [
        back.width // 8,
        back.width // 4,
        back.width // 2,
        back.width,
    ]


def test_what_timm_does_not_have_is_said(tmp_path):
    assert encoders.load("resnet50_sk:random").inputs.size == 224
    with pytest.raises(UsageError, match="resnet50_sk has no published weights"):
        encoders.load("resnet50_sk")
    with pytest.raises(UsageError, match="timm has no resnet50_sk"):
        export(small(small_stem=False), "timm", tmp_path / "out")
    assert len(NAMES) == 20
