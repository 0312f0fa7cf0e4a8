import pytest
import torch

from tacit import encoders
from tacit.errors import UsageError
from tacit.evaluation.detection.pyramid import Pyramid, maps_of


def made(name: str, size: int, **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, size=size, **kwargs).eval()


@pytest.mark.parametrize(
    ("name", "size", "strides", "multiple"),
    [
        ("swin_mini", 32, [2, 4, 8, 16], 8),  # three stages, so three levels and the pooled one
        ("vit_mini", 32, [4, 8, 16, 32, 64], 32),
        ("resnet10t", 64, [4, 8, 16, 32, 64], 32),
    ],
)
def test_levels_halve_from_the_finest_stride(name, size, strides, multiple):
    pyramid = Pyramid(made(name, size), channels=16)
    assert (pyramid.strides, pyramid.multiple) == (strides, multiple)
    h, w = 2 * multiple, 3 * multiple
    maps = pyramid(torch.randn(2, 3, h, w))
    assert list(maps) == [*pyramid.names, "pool"]
    assert [tuple(m.shape) for m in maps.values()] == [(2, 16, -(-h // s), -(-w // s)) for s in strides]


def test_swin_tiny_has_four_stages_of_the_published_widths():
    with torch.device("meta"):
        assert maps_of(encoders.build("swin_tiny", size=224)) == ([96, 192, 384, 768], [4, 8, 16, 32], 32)


def test_sizes_with_other_patches_divide_the_padded_image():
    for patch, strides in ((16, [4, 8, 16, 32, 64]), (8, [4, 8, 16, 32, 64]), (14, [7, 14, 28, 56, 112])):
        pyramid = Pyramid(made("vit_mini", patch * 4, patch=patch, depth=1), channels=8)
        assert pyramid.strides == strides
        assert pyramid.multiple % patch == 0
        side = pyramid.multiple
        maps = pyramid(torch.randn(1, 3, side, side))
        assert [m.shape[-1] for m in maps.values()] == [-(-side // s) for s in strides]


def test_every_stage_passes_a_fresh_layernorm_and_the_encoder_is_copied():
    encoder = made("swin_mini", 32, drop_path=0.3)
    pyramid = Pyramid(encoder, channels=16, drop_path=0.1)
    assert [n.normalized_shape for n in pyramid.norms] == [(32,), (64,), (128,)]
    assert encoder.trunk.layers[2].blocks[1].drop_path1.drop_prob == 0.3
    assert pyramid.encoder.trunk.layers[2].blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
    seen = []
    pyramid.fpn.register_forward_pre_hook(lambda m, args: seen.extend(args[0].values()))
    pyramid(torch.randn(1, 3, 64, 64))
    for stage in seen:
        assert stage.mean(1).abs().max() < 1e-5
        assert stage.var(1, correction=0).mean().item() == pytest.approx(1, abs=1e-2)
    with torch.no_grad():
        next(pyramid.encoder.parameters()).add_(1)
    assert not torch.equal(next(pyramid.encoder.parameters()), next(encoder.parameters()))


def test_a_frozen_encoder_stays_in_eval_mode_without_gradient():
    pyramid = Pyramid(made("swin_mini", 32), channels=16, frozen=True, drop_path=0.5).train()
    assert not pyramid.encoder.training
    assert pyramid.fpn.training
    sum(m.sum() for m in pyramid(torch.randn(1, 3, 32, 32)).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in pyramid.encoder.parameters())
    assert pyramid.norms[0].weight.grad is not None
    tuned = Pyramid(made("swin_mini", 32), channels=16).train()
    sum(m.square().sum() for m in tuned(torch.randn(1, 3, 32, 32)).values()).backward()
    assert tuned.encoder.training
    unused = {"norm.weight", "norm.bias"}  # the final norm is dropped, as in Swin's detectors
    assert {n for n, p in tuned.encoder.trunk.named_parameters() if p.grad is None} == unused


def test_what_cannot_carry_a_detector_is_said():
    with torch.device("meta"):
        with pytest.raises(UsageError, match=r"mixer_s16_224 cannot carry a detector.*Take a Swin"):
            Pyramid(encoders.build("mixer_s16_224", size=224))
        with pytest.raises(UsageError, match="HybridEmbed"):
            Pyramid(encoders.build("vit_tiny_r_s16_p8_224", size=224, depth=1))
