import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tacit import encoders
from tacit.errors import BadSettings, Unknown

SWIN = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}


def parameters(encoder) -> int:
    return sum(p.numel() for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "count"), [("swin_tiny", 27_519_354), ("deit_small", 21_665_664)])
def test_the_published_architectures_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        assert parameters(encoders.build(name, size=224)) == count


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("name", "sizes"), [("swin_mini", (32, 64, 96)), ("vit_mini", (28, 36, 96))])
def test_our_small_ones_take_small_inputs_of_any_channels(name, sizes, channels):
    for size in sizes:
        encoder = encoders.build(name, size=size, channels=channels).eval()
        x = torch.randn(2, channels, size, size)
        side = encoder.stages(x)[-1].shape[-1]
        assert encoder(x).shape == (2, encoder.width) == (2, 128)
        assert encoder.tokens(x).shape == (2, side * side, 128)
        assert encoder.inputs.channels == channels == len(encoder.inputs.mean)


def test_pooled_features_are_the_mean_token_of_swin_and_the_class_token_of_vit():
    x = torch.randn(2, 3, 32, 32)
    swin, vit = (encoders.build(name, size=32).eval() for name in ("swin_mini", "vit_mini"))
    torch.testing.assert_close(swin(x), swin.tokens(x).mean(1))
    torch.testing.assert_close(vit(x), vit.trunk.forward_features(x)[:, 0])
    assert {"cls", "drop_tokens"} <= vit.can
    assert "cls" not in swin.can
    assert {"tokens", "stages", "mask_tokens"} <= swin.can & vit.can


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini", "resnet_mini", "cvt_mini", "vil_mini", "convnext_atto"])
def test_feature_and_tokens_come_from_one_pass(name):
    encoder = encoders.build(name, size=32).eval()
    x, passes = torch.randn(2, 3, 32, 32), []
    encoder.register_forward_hook(lambda *_: passes.append(1))
    pooled, tokens = encoder.features_and_tokens(x)
    assert len(passes) == 1
    torch.testing.assert_close(pooled, encoder(x))
    assert torch.equal(tokens, encoder.tokens(x))


def test_the_epsilon_of_a_swin_is_a_choice_and_others_keep_theirs():
    swin, vit, cvt = (encoders.build(name, size=32, norm_eps=1e-3) for name in ("swin_mini", "vit_mini", "cvt_mini"))
    found = [{m.eps for m in e.modules() if isinstance(m, nn.LayerNorm)} for e in (swin, vit, cvt)]
    assert found == [{1e-3}, {1e-6}, {1e-5}]
    assert {m.eps for m in encoders.build("swin_mini", size=32).modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_stage_maps_halve_and_widen():
    maps = encoders.build("swin_mini", size=32).stages(torch.randn(1, 3, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4)]


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "cvt_mini", "vil_mini"])
def test_any_timm_name_keeps_the_protocol(name):
    encoder = encoders.build(name, size=48, channels=2).eval()
    x = torch.randn(2, 2, 48, 48)
    assert encoder(x).shape == (2, encoder.width)
    assert encoder.tokens(x).ndim == 3
    assert encoder.stages(x)[0].ndim == 4


def test_a_window_shrinks_to_a_smaller_grid_and_does_not_shift_there():
    encoder = encoders.build("swin_mini", size=16)  # grids 8, 4, 2
    blocks = [stage.blocks for stage in encoder.trunk.layers]
    assert [[b.window_size for b in stage] for stage in blocks] == [[(4, 4)] * 2, [(4, 4)] * 2, [(2, 2)] * 2]
    assert [[b.shift_size for b in stage] for stage in blocks] == [[(0, 0), (2, 2)], [(0, 0)] * 2, [(0, 0)] * 2]


def test_swin_tiny_agrees_with_torchvision_at_the_same_weights():
    from torchvision.models import swin_t

    theirs, ours = swin_t().eval(), encoders.build("swin_tiny", size=224).eval()
    theirs.head = nn.Identity()
    with torch.no_grad():
        for parameter in ours.parameters():  # an initialised network hides errors behind zero biases
            parameter.add_(0.02 * torch.randn_like(parameter))
    theirs.load_state_dict({torchvision_name(k): v for k, v in ours.trunk.state_dict().items()}, strict=False)
    unchanged = {k for k in theirs.state_dict() if "index" not in k} - {
        torchvision_name(k) for k in ours.trunk.state_dict()
    }
    assert not unchanged
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=0)


def torchvision_name(name: str) -> str:
    name = re.sub(r"^patch_embed\.proj", "features.0.0", name)
    name = re.sub(r"^patch_embed\.norm", "features.0.2", name)
    name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1])}", name)
    name = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


def rates(encoder) -> list[float]:
    return [getattr(b.drop_path2, "drop_prob", 0.0) for b in encoder.modules() if hasattr(b, "drop_path2")]


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_drop_path_rises_linearly_and_is_set_per_branch(name):
    online = encoders.build(name, size=32, drop_path=0.2)
    n = len(rates(online))
    assert rates(online) == pytest.approx([0.2 * i / (n - 1) for i in range(n)])
    assert rates(encoders.set_drop_path(online, 0.0)) == [0.0] * n
    assert rates(encoders.build(name, size=32)) == [0.0] * n  # timm's default for Swin would be 0.1
    assert rates(encoders.like(online)) == [0.0] * n


def test_with_drop_path_training_is_random_and_evaluation_is_not():
    encoder = encoders.build("swin_mini", size=16, drop_path=0.5)
    x = torch.randn(4, 3, 16, 16)
    assert not torch.equal(encoder.train()(x), encoder(x))
    assert torch.equal(encoder.eval()(x), encoder(x))
    encoders.set_drop_path(encoder, 0.0)
    assert torch.equal(encoder.train()(x), encoder(x))


@pytest.mark.parametrize("name", ["swin_mini", "vit_mini"])
def test_batch_norm_before_the_mlp_is_registered_affine_and_over_batch_and_tokens(name):
    encoder = encoders.build(name, size=16, norm_before_mlp="bn")
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm1d)]
    blocks = [m for m in encoder.modules() if hasattr(m, "norm2")]
    assert len(norms) == len(blocks) > 0
    assert all(m.affine for m in norms)
    seen = []
    norms[0].register_forward_hook(lambda module, x, y: seen.append(y))
    encoder.train()(torch.randn(4, 3, 16, 16))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(seen[0].shape[1]), atol=1e-5, rtol=0)
    assert norms[0].running_mean.abs().sum() > 0
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in synced.modules()) == len(norms)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("swin_mini", 30), ["size = 30", "stage 1", "15 = 3 x 4 + 3", "size=16 or size=32"]),
        (("swin_mini", 28), ["14 = 3 x 4 + 2", "size=16 or size=32"]),
        (("swin_mini", 24), ["stage 2", "6 = 1 x 4 + 2", "size=16 or size=32 or window=3 or window=6"]),
        (("swin_mini", 33), ["33 = 16 x 2 + 1", "size=32 or size=64"]),
        (("swin_mini", 36, None, 9), ["the grid of stage 2 is 9 x 9", "does not halve for stage 3"]),
        (("vit_mini", 30), ["size = 30", "30 = 7 x 4 + 2", "size=28 or size=32"]),
        (("vit_mini", 3), ["3 = 0 x 4 + 3", "size=4"]),
        (("swin_tiny", 200), ["50 = 7 x 7 + 1", "size=224"]),
        (("vit_mini", 32, None, 4), ["window = 4", "no attention windows"]),
        (("resnet10t", 32, 4), ["patch = 4", "cannot be chosen"]),
        (("inception_v3", 32), ["size = 32", "inception_v3 does not take it"]),
        (("vit_mini", 0), ["size = 0", "at least 1"]),
    ],
)
def test_what_cannot_work_is_refused_with_the_arithmetic_and_what_would(call, words):
    name, size, patch, window = (*call, None, None)[:4]
    (problem,) = encoders.problems(name, size, patch, window, 3)
    assert all(word in problem for word in words), problem
    with pytest.raises(BadSettings):
        encoders.build(name, size=size, patch=patch, window=window)


@pytest.mark.parametrize("size", range(4, 60))
def test_every_proposed_way_out_works(size):
    for problem in encoders.problems("swin_mini", size):
        for field, number in re.findall(r"(size|window)=(\d+)", problem):
            if field == "size":
                assert encoders.problems("swin_mini", int(number)) == []
            else:
                assert encoders.problems("swin_mini", size, window=int(number)) == []


def test_other_refusals():
    with pytest.raises(Unknown, match="swin_mini"):
        encoders.build("swinmini", size=32)
    with pytest.raises(BadSettings, match=r"mean = .*each of the 4 channels"):
        encoders.build("vit_mini", size=32, channels=4, mean=(0.5, 0.5, 0.5))
    with pytest.raises(BadSettings, match="norm_before_mlp = bn: resnet10t"):
        encoders.build("resnet10t", size=32, norm_before_mlp="bn")
    with pytest.raises(BadSettings, match=r"drop_path = 0\.1: vgg11"), torch.device("meta"):
        encoders.build("vgg11", size=32, drop_path=0.1)


def test_means_of_any_channels_are_kept():
    encoder = encoders.build("vit_mini", size=16, channels=2, mean=(0.1, 0.2), std=(0.3, 0.4))
    assert encoder.inputs.mean == (0.1, 0.2)
    assert encoder.inputs.std == (0.3, 0.4)


def test_the_refusal_shown_in_the_documentation_is_the_real_one():
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    (problem,) = encoders.problems("swin_mini", 24)
    assert problem in page
