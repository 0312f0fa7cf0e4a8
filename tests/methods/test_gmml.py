"""The checks of the method against its paper and official code: numbers, order of events, where gradients go."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.data import open_source
from tacit.engine import Progress
from tacit.engine.optim import learning_rate, optimiser, weight_decay
from tacit.heads import PixelDecoder
from tacit.methods.image.gmml import GMML, Settings
from tacit.objectives import masked_l1
from tacit.views import Views, collate, finish

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> GMML:
    torch.manual_seed(0)
    published = {"align": 1, "max_block": 0.3, "donor_share": 0.3}
    return GMML(dataclasses.replace(GMML.presets["small"], **{"size": 16, "batch_size": 6, **published, **changes}))


def batch(method: GMML, digits, count: int = 6) -> list[dict[str, torch.Tensor]]:
    pipelines = method.views()
    records = Views(open_source(digits, channels=method.s.channels), pipelines, seed=2)
    return finish(collate([records[(0, i)] for i in range(count)]), pipelines)


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert GMML.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.lr, s.lr_batch) == ("deit_small", 224, 256, 800, 5e-4, 256)
    assert (s.fills, s.share, s.donor_share, s.align, s.max_block) == (("noise",), 0.75, 0.3, 1, 0.3)
    assert (s.depths, s.decoder_layers, s.masked_only, s.unbiased) == ((6, 8, 10, 12), 3, True, False)
    assert (s.global_area, s.local_crops, s.drop_path, s.clip, s.clip_by) == ((0.05, 1.0), 0, 0.1, 3.0, "tensor")


def test_the_schedules_of_the_published_run():
    """801 epochs of ten steps: the official loop counts to one more than asked."""
    at = (0, 50, 99, 4000, 8009)
    rates = [learning_rate(Settings(), step, 8010, 10) for step in at]
    assert rates == pytest.approx([0, 2.52525e-4, 5e-4, 2.5595e-4, 1e-6], rel=1e-4)
    decays = [weight_decay(Settings(), step, 8010) for step in at]
    assert decays == pytest.approx([0.04, 0.0400346, 0.0401357, 0.219647, 0.4], rel=1e-5)


def test_positions_and_the_class_token_are_decayed_biases_and_norms_are_not():
    method = tiny()
    decayed, spared = optimiser(method, method.s).param_groups
    trunk = method.encoder.trunk
    assert any(p is trunk.pos_embed for p in decayed["params"])
    assert any(p is trunk.cls_token for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])


# The official network and head (embedding 32, 4 blocks, patch 4, 16 pixels), every tensor a wave.
@pytest.mark.parametrize(
    ("depths", "loss", "everywhere", "tokens", "of_block_2", "of_pixels"),
    [((2, 3, 4), 0.6369174719, 0.6476997733, 1780.346, 0.00535653609, 0.02229518454),
     ((4,), 0.6355482936, 0.6463303566, 1813.629, 0.00350925064, 0.01918051923)],
)  # fmt: skip
def test_the_loss_and_gradients_of_the_official_code(depths, loss, everywhere, tokens, of_block_2, of_pixels):
    encoder = encoders.build("vit_mini", size=16, embed_dim=32, num_heads=2, **encoders.MEAN_PATCH)
    decoder = PixelDecoder(32, 3, patch=4)
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(encoder.trunk.named_parameters())):
            is_norm = name.endswith(("norm1.weight", "norm2.weight", "norm.weight"))
            p.copy_(wave(*p.shape, phase=k) * 0.2 + is_norm)
        for k, p in enumerate(decoder.parameters()):
            p.copy_(wave(*p.shape, phase=50 + k) * 0.2)
    clean, corrupted = wave(4, 3, 16, 16, phase=0.3), wave(4, 3, 16, 16, phase=0.9)
    mask = wave(4, 1, 16, 16, phase=2.0) > 0.2
    _, found = encoders.multi_depth(encoder, corrupted, depths)
    assert float(found.detach().double().abs().sum()) == pytest.approx(tokens, rel=1e-5)
    value = masked_l1(decoder(found), clean, mask)
    assert float(value.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(masked_l1(decoder(found), clean).detach()) == pytest.approx(everywhere, rel=1e-5)
    value.backward()
    assert encoder.trunk.blocks[1].mlp.fc2.weight.grad.norm() == pytest.approx(of_block_2, rel=1e-4)
    assert decoder.pixels.weight.grad.norm() == pytest.approx(of_pixels, rel=1e-4)


def test_the_loss_is_one_mean_over_both_crops_of_what_was_overwritten(digits):
    method = tiny()
    views = batch(method, digits)
    step = method.loss(views, START)
    assert list(step.terms) == ["global"]
    off = [(method.decode(v["image"])[1] - v["clean"]).abs() for v in views]
    hidden = [v["mask"].expand_as(v["clean"]) for v in views]
    by_hand = sum(o[h].sum() for o, h in zip(off, hidden, strict=True)) / sum(h.sum() for h in hidden)
    torch.testing.assert_close(step.terms["global"], by_hand)
    everywhere = tiny(masked_only=False).loss(views, START).terms["global"]
    torch.testing.assert_close(everywhere, torch.stack(off).mean())


def test_what_was_not_overwritten_gets_no_gradient_and_the_class_token_gets_its_through_attention(digits):
    method = tiny()
    views = batch(method, digits)
    images = [method.decode(v["image"])[1] for v in views]
    for image in images:
        image.retain_grad()
    method.l1(images, views).backward()
    for image, v in zip(images, views, strict=True):
        assert not image.grad.masked_select(~v["mask"]).any()
        assert image.grad.masked_select(v["mask"]).any()
    assert method.encoder.trunk.cls_token.grad.abs().sum() > 0


def test_pixels_under_the_mask_are_not_seen(digits):
    """Whatever the picture holds where it is overwritten by noise, the network is shown the same."""
    method = tiny(donor_share=0.0)
    pipelines = method.views()
    records = Views(open_source(digits, channels=3), pipelines, seed=2)
    made = collate([records[(0, i)] for i in range(4)])
    plain = finish(made, pipelines)
    for part, view in zip(made["views"], plain, strict=True):
        part["params"] = part["params"] | {"blur": torch.zeros(4), "jitter": torch.zeros(4, dtype=torch.bool)}
        part["image"] = torch.where(view["mask"], 255 - part["image"], part["image"])
    for part in made["views"]:
        part["params"]["blur"] = torch.zeros(4)
    changed = finish(made, pipelines)
    calm = [v.finish(p["image"], p["params"]) for v, p in zip(pipelines, made["views"], strict=True)]
    for one, other, view in zip(changed, calm, plain, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["image"].masked_select(view["mask"]), view["image"].masked_select(view["mask"]))
        assert not torch.equal(one["clean"], view["clean"])


def test_the_crops_are_light_and_drawn_apart():
    first, second = tiny(global_area=(0.05, 1.0)).views()
    assert first.crop.scale == (0.05, 1.0)
    assert (first.crop.jitter, first.crop.jitter_p) == ((0.1, 0.1, 0.1, 0.01), 0.3)
    assert (first.crop.blur_p, first.crop.gray_p, first.crop.solarize_p) == (0.1, 0, 0)
    assert first.inputs.interpolation == "bicubic"
    assert dataclasses.replace(first.crop, name="") == dataclasses.replace(second.crop, name="")


def test_small_crops_add_a_mean_of_their_own(digits):
    method = tiny(local_crops=3, local_size=8, max_block=0.4)
    views = batch(method, digits)
    assert [v["image"].shape[-1] for v in views] == [16, 16, 8, 8, 8]
    terms = method.loss(views, START).terms
    assert list(terms) == ["global", "local"]
    images = [method.decode(v["image"])[1] for v in views[2:]]
    torch.testing.assert_close(terms["local"], method.l1(images, views[2:]))


def test_it_hands_over_the_mean_patch_token(digits, tmp_path):
    method = tiny().eval()
    assert method.handed_over is method.encoder
    x = batch(method, digits)[0]["image"]
    torch.testing.assert_close(method.encoder(x), method.encoder.tokens(x).mean(1))
    method.hand_over(tmp_path)
    assert encoders.load(tmp_path).feature == "mean of the patch tokens after the last norm"


def test_what_it_shows(digits):
    method = tiny().eval()
    views = batch(method, digits)
    shown = method.reconstructions(views)
    assert list(shown) == ["input", "masked", "reconstruction"]
    assert all(x.shape == (6, 3, 16, 16) and not x.requires_grad for x in shown.values())
    assert torch.equal(shown["input"], views[0]["clean"])
    assert torch.equal(shown["masked"], views[0]["image"])


def test_a_decoder_that_says_nothing_measures_one_and_features_that_differ_are_no_collapse(digits):
    method = tiny()
    with torch.no_grad():
        method.decoder.pixels.weight.zero_()
        method.decoder.pixels.bias.zero_()
    signals = method.loss(batch(method, digits), START).signals
    assert signals["metric/l1_of_mean_colour"] == pytest.approx(1)
    first, second = signals["embeddings"].chunk(2)
    torch.testing.assert_close(signals["positives"], torch.cat([second, first]))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fills": ("nosie",)}, "fills = nosie: choose among noise, zeros, copy"),
        ({"fills": (), "donor_share": 0.0}, "nothing would be overwritten"),
        ({"align": 5}, "align = 5: must divide"),
        ({"max_block": 0.03}, "there are none"),
        ({"align": 16}, "unbiased=true"),
        ({"depths": (6, 8, 10, 12)}, "Set depths=4, or 2,3,4"),
        ({"encoder": "swin_mini"}, "plain ViT"),
        ({"local_crops": 2, "local_size": 10}, "local_size = 10"),
    ],
)
def test_what_cannot_work_is_said_first(changes, said):
    s = dataclasses.replace(GMML.presets["small"], **changes)
    assert any(said in problem for problem in GMML.problems(s))


@pytest.mark.parametrize(
    "changes",
    [{"fills": ("zeros",), "share": 0.7, "depths": (), "channels": 1}, {"align": 4, "max_block": 0.6},
     {"fills": ("noise", "zeros", "copy"), "unbiased": True}, {"fills": ()}, {"decoder_layers": 0, "patch": 8}],
)  # fmt: skip
def test_the_variants_run(digits, changes):
    method = tiny(**changes)
    assert GMML.problems(method.s) == []
    loss = method.loss(batch(method, digits), START).terms["global"]
    loss.backward()
    assert torch.isfinite(loss)
