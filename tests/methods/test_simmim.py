"""SimMIM against its papers and official code: what is hidden, what stands in for it, what is compared, and where."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.encoders import MaskTokens
from tacit.engine import Progress
from tacit.engine.optim import decays, learning_rate
from tacit.heads import pixel_head
from tacit.methods.image.simmim import Settings, SimMIM
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)
SHAPE = {"embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}


def tiny(**changes) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(dataclasses.replace(SimMIM.presets["small"], batch_size=4, **(SimMIM.tiny | changes)))


def batch(method: SimMIM, count: int = 4) -> list[dict[str, torch.Tensor]]:
    (view,) = method.views()
    masks = [torch.from_numpy(view.draw(rng(0, 0, i, 0), 40, 40)["mask"]) for i in range(count)]
    size = view.inputs.size
    x = torch.randn(count, view.inputs.channels, size, size, generator=torch.Generator().manual_seed(0))
    return [{"image": x, "mask": torch.stack(masks)}]


def test_the_paper_is_the_default():
    s = Settings()
    assert SimMIM.presets["paper"] == s
    assert (s.encoder, s.size, s.window, s.patch) == ("swin_base_patch4_window7_224", 192, 6, None)
    assert (s.mask_ratio, s.mask_unit, s.target_window, s.drop_path, s.min_area) == (0.6, 32, None, 0.0, 0.67)
    assert (s.epochs, s.batch_size, s.lr, s.lr_batch, s.weight_decay, s.clip) == (800, 2048, 1e-4, 512, 0.05, 5.0)
    v2 = SimMIM.presets["swinv2"]
    assert (v2.window, v2.target_window, v2.drop_path) == (12, 47, 0.1)


def test_the_rate_is_flat_and_a_tenth_from_epoch_700_on():
    s, per_epoch = Settings(), 625
    rates = {
        epoch: learning_rate(s, epoch * per_epoch + s.lr_lag, 800 * per_epoch, per_epoch) for epoch in (5, 10, 699)
    }
    assert rates == pytest.approx({5: (2e-6 + 4e-4) / 2, 10: 4e-4, 699: 4e-4})
    drop = 700 * per_epoch + s.lr_lag
    assert learning_rate(s, drop - 1, 800 * per_epoch, per_epoch) == pytest.approx(4e-4)
    assert learning_rate(s, drop, 800 * per_epoch, per_epoch) == pytest.approx(4e-5)
    short = SimMIM.presets["short"]
    assert learning_rate(short, 10**6, 100 * per_epoch, per_epoch) == pytest.approx(4e-5)  # 1e-5 for 512 records
    assert learning_rate(short, 0, 100 * per_epoch, per_epoch) == pytest.approx(4e-6)


@pytest.mark.parametrize(("preset", "units", "hidden"), [("paper", 6, 22), ("vit", 7, 30), ("small", 4, 10)])
def test_hidden_are_whole_units_the_share_rounded_up(preset, units, hidden):
    s = SimMIM.presets[preset]
    patch = encoders.patch_of(s.encoder, s.patch)
    (view,) = tiny(size=s.size, mask_unit=s.mask_unit, mask_ratio=s.mask_ratio, patch=patch).views()
    for i in range(5):
        mask = torch.from_numpy(view.draw(rng(0, 0, i, 0), 300, 400)["mask"])
        assert mask.shape == (s.size // patch,) * 2
        cells = mask.unflatten(0, (units, -1)).unflatten(2, (units, -1)).transpose(1, 2).flatten(2).float().mean(2)
        assert set(cells.unique().tolist()) == {0.0, 1.0}  # aligned squares of one unit, hidden whole
        assert cells.sum() == hidden


def test_views_are_large_crops_and_flips_alone():
    (view,) = tiny().views()
    drawn = [view.draw(rng(0, 0, i, 0), 100, 100) for i in range(500)]
    areas = [p["height"] * p["width"] / 100**2 for p in drawn]
    assert min(areas) > 0.65
    assert sum(areas) / 500 == pytest.approx(0.81, abs=0.03)
    assert sum(p["flip"] for p in drawn) / 500 == pytest.approx(0.5, abs=0.07)
    assert not any(p["jitter"] or p["gray"] or p["solarize"] or p["blur"] for p in drawn)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("encoder", ["vit_mini", "swin_mini", "swinv2_mini"])
def test_the_loss_counts_hidden_pixels_alone_and_what_is_hidden_is_not_seen(encoder, window):
    method = tiny(encoder=encoder, target_window=window).eval()
    (view,) = batch(method)
    x, mask = view["image"], view["mask"]
    _, before = method.predict(x, mask)
    pixels = mask.repeat_interleave(method.patch, 1).repeat_interleave(method.patch, 2).unsqueeze(1)
    other = torch.where(pixels, torch.randn_like(x), x)
    torch.testing.assert_close(method.predict(other, mask)[1], before)  # what lies there makes no difference
    assert before.shape == x.shape
    found = float(method.loss([view], START).terms["pixels"].detach())
    difference = (before - method.target(x)).abs().detach()
    expected = difference.masked_select(pixels.expand_as(x)).mean()
    assert found == pytest.approx(float(expected), rel=1e-5)
    if encoder == "swinv2_mini":  # whose blocks are the identity at first
        return
    seen = torch.where(pixels, x, x + torch.randn_like(x))
    assert (method.predict(seen, mask)[1] - before).abs().max() > 1e-3


def test_one_linear_layer_predicts_a_square_of_pixels_for_every_token():
    for encoder, stride in (("vit_mini", 4), ("swin_mini", 8), ("swinv2_mini", 8)):
        method = tiny(encoder=encoder, channels=2)
        assert sum(p.numel() for p in method.head.parameters()) == 129 * 2 * stride**2
    tokens = torch.zeros(1, 128, 2, 2)
    tokens[0, :, 1, 0] = 1.0
    changed = (method.head(tokens) - method.head(torch.zeros_like(tokens))).abs().sum(1)[0] > 0
    assert changed[8:, :8].all()
    assert changed.sum() == 64


def test_gradients_reach_everything_and_the_token_is_not_the_encoders():
    method = tiny()
    method.loss(batch(method), START).terms["pixels"].backward()
    assert all(p.grad is not None for p in method.parameters())
    assert method.mask_tokens.token.grad.abs().sum() > 0
    assert not any("mask" in name for name in method.encoder.state_dict())


def test_what_is_handed_over_is_a_plain_encoder(tmp_path):
    method = tiny().eval()
    method.hand_over(tmp_path)
    found = encoders.load(tmp_path)
    assert type(found) is encoders.Encoder
    assert found.feature == "mean of the patch tokens after the last norm"
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(found(x), method.encoder(x))
    torch.testing.assert_close(found(x), found.tokens(x).mean(1))


def test_the_class_token_stays_the_feature_where_asked_for():
    assert tiny(mean_feature=False).encoder.feature == "class token after the last norm"


def test_weight_decay_spares_what_the_papers_spare():
    method = tiny(encoder="swinv2_mini")
    left = {n for n, p in method.named_parameters() if not decays(n, p, method.s.decay_positions)}
    assert {n for n, _ in method.named_parameters() if "cpb_mlp" in n or "logit_scale" in n} <= left
    assert "mask_tokens.token" in left
    table = next((n, p) for n, p in tiny(encoder="swin_mini").named_parameters() if n.endswith("bias_table"))
    assert not decays(*table, Settings().decay_positions)
    assert "head.0.weight" not in left


def test_reconstructions_keep_what_is_seen_and_undo_the_normalisation():
    method = tiny(target_window=5).eval()
    (view,) = batch(method)
    with torch.no_grad():
        method.head[0].weight.zero_()
        method.head[0].bias.zero_()
    shown = method.reconstructions([view])
    assert list(shown) == ["input", "masked", "reconstruction"]
    hidden = view["mask"].repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand_as(view["image"])
    assert shown["masked"][hidden].eq(0).all()
    assert torch.equal(shown["reconstruction"][~hidden], view["image"][~hidden])
    mean = torch.nn.functional.avg_pool2d(view["image"], 5, 1, 2, count_include_pad=False)  # of a target of 0
    torch.testing.assert_close(shown["reconstruction"][hidden], mean[hidden])


@pytest.mark.parametrize(
    "changes", [{"encoder": "swin_mini", "size": 32, "mask_unit": 8}, {"patch": 8, "mask_unit": 8}]
)
def test_other_trunks_and_patches_run(changes):
    method = tiny(**changes)
    step = method.loss(batch(method), START)
    assert torch.isfinite(step.terms["pixels"])
    assert step.signals["embeddings"].norm(dim=1) == pytest.approx(torch.ones(4))


def test_settings_that_cannot_work_are_named():
    small = SimMIM.presets["small"]

    def said(**changes) -> str:
        return " ".join(SimMIM.problems(dataclasses.replace(small, **changes)))

    assert said() == ""
    assert "mask_unit = 6: must divide size = 32" in said(mask_unit=6)
    assert "Set mask_unit=4 or 8 or 16 or 32" in said(mask_unit=64)
    assert "multiple of the patch of vit_mini, 16" in said(patch=16)
    assert "leaves 0 of 16 units" in said(mask_ratio=0.95)
    assert "leaves 16 of 16 units" in said(mask_ratio=0.0)
    assert "leaves 0 of 1 units" in said(mask_unit=32)
    assert "Set target_window=7 or 9" in said(target_window=8)
    assert "mask_tokens" in encoders.lacking("resnet_mini", SimMIM.needs, 32)[0]
    assert not encoders.lacking("simmim_vit_base", SimMIM.needs, 224)


def wave(*shape: int, f: float) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * f).float().view(shape)


def sines(encoder: encoders.Encoder) -> None:
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(encoder.trunk.named_parameters())):
            x = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + k).float().view(p.shape)
            if name.endswith("logit_scale"):
                p.copy_(math.log(10) + 2.5 * x)  # some above the clamp at ln 100
            else:
                p.copy_(1 + 0.2 * x if "norm" in name and name.endswith("weight") else 0.3 * x)


@pytest.mark.parametrize(
    ("name", "target", "loss", "square", "last"),
    [
        ("swin_tiny", None, 0.8070090413093567, 0.8667515516281128, (-1.632741, 0.266867, 0.853274)),
        ("swinv2_tiny", None, 0.8137299418449402, 0.8574305176734924, (-0.404720, -0.131221, 0.196484)),
        ("swinv2_tiny", 7, 0.9858482480049133, 0.8574305176734924, (-0.404720, -0.131221, 0.196484)),
    ],
)
def test_golden_loss_of_the_official_code(name, target, loss, square, last):
    """`SimMIM` over Swin and Swin V2 of microsoft/Swin-Transformer (f82860b), at these weights, images and masks."""
    method = tiny(encoder=name.replace("tiny", "mini"), size=24, window=3, mask_unit=8, target_window=target)
    method.encoder = encoders.build(name, size=24, patch=2, window=3, **SHAPE).eval()
    sines(method.encoder)
    method.mask_tokens, method.head = MaskTokens(method.encoder), pixel_head(32, 8)
    with torch.no_grad():
        method.mask_tokens.token.copy_(wave(8, f=0.9))
        method.head[0].weight.copy_(0.3 * wave(192, 32, 1, 1, f=0.77))
        method.head[0].bias.copy_(wave(192, f=0.41))
    mask = torch.arange(9).view(1, 3, 3) % 2 == torch.tensor([0, 1]).view(2, 1, 1)
    mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
    x = wave(2, 3, 24, 24, f=0.37)
    assert method.loss([{"image": x, "mask": mask}], START).terms["pixels"].item() == pytest.approx(loss, rel=1e-5)
    features, tokens = method.mask_tokens(method.encoder, x, mask)
    assert tokens.square().mean().item() == pytest.approx(square, rel=1e-5)
    assert tokens[1, -1, :3].tolist() == pytest.approx(last, abs=2e-5)
    torch.testing.assert_close(features, tokens.mean(1))
