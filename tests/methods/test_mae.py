"""MAE against its paper and official code: what is seen, what is told, and what it costs."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.engine import Progress
from tacit.engine.optim import decays, learning_rate
from tacit.heads import TokenDecoder
from tacit.methods.image.mae import MAE, Settings
from tacit.objectives import masked_mean, patchify
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> MAE:
    torch.manual_seed(0)
    return MAE(dataclasses.replace(MAE.presets["small"], size=16, batch_size=4, **(MAE.tiny | changes)))


def batch(method: MAE, count: int = 4) -> list[dict[str, torch.Tensor]]:
    (view,) = method.views()
    masks = [torch.from_numpy(view.draw(rng(0, 0, i, 0), 16, 16)["mask"]) for i in range(count)]
    images = torch.randn(count, method.s.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return [{"image": images, "mask": torch.stack(masks)}]


def wave(*shape: int, scale: float = 1.0, start: int = 0) -> torch.Tensor:
    """Sines of start, start + 1, …: a tensor that needs no generator."""
    count = math.prod(shape)
    return scale * torch.arange(start, start + count, dtype=torch.float64).sin().float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert MAE.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.optimizer) == (
        "vit_large_patch16_224",
        224,
        4096,
        800,
        "adamw",
    )
    assert (s.lr, s.lr_batch, s.lr_warmup, s.lr_end, s.warmup_epochs) == (1.5e-4, 256, 0, 0, 40)
    assert (s.betas, s.weight_decay, s.clip) == ((0.9, 0.95), 0.05, None)
    assert (s.mask_ratio, s.norm_pix, s.min_area) == (0.75, True, 0.2)
    assert (s.decoder_width, s.decoder_depth, s.decoder_heads) == (512, 8, 16)


@pytest.mark.parametrize(
    ("preset", "width", "depth", "heads", "patches"),
    [("base", 768, 12, 12, 196), ("paper", 1024, 24, 16, 196), ("huge", 1280, 32, 16, 256)],
)
def test_the_published_sizes(preset, width, depth, heads, patches):
    with torch.device("meta"):
        method = MAE(MAE.presets[preset])
    trunk = method.encoder.trunk
    assert (method.encoder.width, len(trunk.blocks), trunk.blocks[0].attn.num_heads) == (width, depth, heads)
    assert trunk.patch_embed.num_patches == method.decoder.positions.shape[1] == patches
    assert {trunk.norm.eps, trunk.blocks[0].norm1.eps} == {1e-6}
    assert method.encoder.inputs.interpolation == "bicubic"


def test_the_official_numbers_of_masks_targets_and_loss():
    """`patchify`, `random_masking` and `forward_loss` of facebookresearch/mae efb2a80, on tensors of sines."""
    images, predicted = wave(2, 3, 16, 16), wave(2, 16, 48, start=7)
    patches = patchify(images, 4)
    official = [-0.9301281, 0.4039549, 0.8979807, -0.8115681, -0.5515021, 0.8554576, 0.0531438]
    assert patches[1, 6, :7].tolist() == pytest.approx(official, abs=1e-6)
    assert (patches * wave(2, 16, 48, start=5)).sum().item() == pytest.approx(0.8668089, abs=1e-4)

    noise = (wave(2, 16, start=3) + 1) / 2
    mask = torch.ones(2, 16, dtype=torch.bool).scatter(1, noise.argsort(1)[:, : int(16 * (1 - 0.75))], False)
    ids = encoders.visible_ids(mask)
    assert ids.tolist() == [[1, 2, 8, 14], [4, 5, 10, 11]]
    kept = encoders.pick(wave(2, 16, 8), ids).sum((1, 2))
    assert kept.tolist() == pytest.approx([0.9399349, 0.2393594], abs=1e-5)

    for norm_pix, value in ((True, 1.4776312), (False, 1.0012872)):
        targets = tiny(norm_pix=norm_pix).targets(images)
        assert masked_mean((predicted - targets).square().mean(-1), mask).item() == pytest.approx(value, rel=1e-6)


def test_the_official_loss_of_a_whole_model():
    """The same code's forward pass, two blocks of 32 and one of 16, all weights sines: prediction and loss."""
    method = tiny()
    method.encoder = encoders.build("vit_mini", size=16, embed_dim=32, depth=2, num_heads=2)
    encoders.sincos_positions_(method.encoder, "column")
    method.decoder = TokenDecoder(32, encoders.sincos_2d(16, 4, 4), depth=1, heads=2, out=48)
    with torch.no_grad():
        for name, p in method.named_parameters():
            if p.requires_grad:
                p.copy_(wave(*p.shape, scale=0.2) + float("norm" in name and name.endswith("weight")))
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, [1, 2, 8, 14]] = mask[1, [4, 5, 10, 11]] = False
    view = {"image": wave(2, 3, 16, 16), "mask": mask.view(2, 4, 4)}
    with torch.no_grad():
        predicted, tokens = method.predict(view)
        loss = method.loss([view], START).terms["pixels"]
    assert tokens[:, 0, :3].flatten().tolist() == pytest.approx(
        [1.2352620, 0.9291911, 1.0937046, 1.2313976, 0.9277275, 1.0953574], abs=2e-5
    )
    assert tokens.sum().item() == pytest.approx(10.828922, abs=1e-3)
    official = [0.9826979, -1.0555590, 1.5432310, -1.3553836]
    assert predicted[1, 9, :4].tolist() == pytest.approx(official, abs=2e-5)
    assert (predicted * wave(2, 16, 48)).sum().item() == pytest.approx(3.808332, abs=1e-3)
    assert loss.item() == pytest.approx(2.0658963, rel=1e-5)


@pytest.mark.parametrize("patch", [4, 8])
def test_a_zero_prediction_costs_what_the_unbiased_variance_says(patch):
    method = tiny(patch=patch)
    torch.nn.init.zeros_(method.decoder.predict.weight)
    (view,) = batch(method)
    view["image"] *= 0.01  # so that the 1e-6 beside the variance counts
    step = method.loss([view], START)
    variance, n = patchify(view["image"], patch).var(-1), 3 * patch * patch
    expected = ((n - 1) / n * variance / (variance + 1e-6))[view["mask"].flatten(1)].mean()
    torch.testing.assert_close(step.terms["pixels"].detach(), expected)
    assert expected < 0.99
    assert step.signals["metric/explained"].item() == pytest.approx(0, abs=1e-6)


def test_only_what_is_hidden_is_in_the_loss_and_the_class_token_has_no_prediction():
    method = tiny()
    (view,) = batch(method)
    said = []
    method.decoder.register_forward_hook(lambda module, given, found: said.append(found) or found.retain_grad())
    before = method.loss([view], START).terms["pixels"]
    before.backward()
    hidden = view["mask"].flatten(1)
    assert said[0].shape == (4, 16, 48)  # of the patches alone
    assert not said[0].grad[~hidden].any()
    assert (said[0].grad[hidden].abs().sum(-1) > 0).all()

    shift = torch.zeros(4, 16, 48).masked_fill(~hidden.unsqueeze(-1), 5.0)
    method.decoder.register_forward_hook(lambda module, given, found: found + shift)
    assert method.loss([view], START).terms["pixels"] == before
    assert method.encoder.trunk.cls_token.grad.abs().sum() > 0  # the decoder attends to it


def test_hidden_pixels_reach_the_loss_as_targets_alone():
    method = tiny()
    (view,) = batch(method)
    other = {**view, "image": view["image"].clone()}
    hidden = view["mask"].repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    other["image"] = torch.where(hidden, view["image"].flip(0) + 1, view["image"])
    assert torch.equal(method.predict(view)[0], method.predict(other)[0])
    assert not torch.equal(method.loss([view], START).terms["pixels"], method.loss([other], START).terms["pixels"])


def test_a_quarter_is_seen_and_drawn_by_the_record():
    method = tiny()
    (view,) = method.views()
    assert (view.crop.scale, view.crop.flip, view.crop.jitter, view.crop.gray_p) == ((0.2, 1.0), 0.5, None, 0.0)
    masks = [view.draw(rng(0, 0, i, 0), 30, 30)["mask"] for i in range(200)]
    assert {int(m.sum()) for m in masks} == {12}
    assert len({m.tobytes() for m in masks}) > 150
    (tokens,) = (method.predict(v)[1] for v in batch(method))
    assert tokens.shape == (4, 1 + 4, 128)
    paper = Settings()
    assert int(196 * (1 - paper.mask_ratio)) == 49


def test_a_vit_starts_as_published():
    method = tiny()
    trunk = method.encoder.trunk
    assert method.encoder.start == ("xavier", "sincos_column")
    assert not trunk.pos_embed.requires_grad
    assert not trunk.pos_embed[:, 0].any()
    torch.testing.assert_close(trunk.pos_embed[0, 1:], encoders.sincos_2d(128, 4, 4, "column"))
    torch.testing.assert_close(method.decoder.positions[0], encoders.sincos_2d(32, 4, 4, "column"))
    bounds = {trunk.patch_embed.proj: 48 + 128, trunk.blocks[0].attn.qkv: 128 + 384, trunk.blocks[0].mlp.fc1: 640}
    for module, both in bounds.items():
        assert module.weight.abs().max().item() == pytest.approx(math.sqrt(6 / both), rel=0.01)
        assert not module.bias.any()
    assert trunk.cls_token.std().item() == pytest.approx(0.02, rel=0.25)


def test_the_rates_of_the_published_run():
    rates = [learning_rate(Settings(), epoch * 312, 800 * 312, 312) for epoch in (0, 20, 40, 420, 800)]
    assert rates == pytest.approx([0, 0.0012, 0.0024, 0.0012, 0], abs=1e-12)
    assert learning_rate(Settings(), 800 * 312 - 1, 800 * 312, 312) < 1e-9


def test_weight_decay_spares_biases_and_vectors():
    method = tiny()
    spared = {n for n, p in method.named_parameters() if p.requires_grad and not decays(n, p, method.s.decay_positions)}
    assert all(n.endswith("bias") or "norm" in n for n in spared)
    assert not {"decoder.mask_token", "encoder.trunk.cls_token", "decoder.embed.weight"} & spared


def test_ratios_that_leave_nothing_are_refused_by_name():
    def said(**changes):
        return " ".join(MAE.problems(dataclasses.replace(MAE.presets["small"], **changes)))

    assert said() == said(patch=8) == ""
    assert "mask_ratio = 0.99: leaves none visible of 64 patches. Choose one from 0.0156 to 0.984." in said(
        mask_ratio=0.99
    )
    assert said(mask_ratio=0.984) == ""
    assert "leaves none hidden" in said(mask_ratio=0)
    assert "1 patch. Choose a larger size" in said(size=8, patch=8)
    assert "decoder_heads = 3" in said(decoder_heads=3)
    assert said(encoder="swin_mini") == ""  # which has no such grid, and is refused for what it cannot do
    assert "needs drop_tokens" in encoders.lacking("swin_mini", MAE.needs, 32)[0]


def test_what_is_handed_over_is_a_plain_encoder(tmp_path):
    method = tiny()
    plain = encoders.build("vit_mini", size=16, interpolation="bicubic")
    assert method.encoder.state_dict().keys() == plain.state_dict().keys()
    method.hand_over(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoders.load(tmp_path).eval()(x), method.encoder.eval()(x))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstructions_keep_what_is_seen_and_paint_the_rest(norm_pix):
    method = tiny(norm_pix=norm_pix)
    (view,) = batch(method)
    found = method.reconstructions([view])
    assert list(found) == ["input", "masked", "reconstruction"]
    assert torch.equal(found["input"], view["image"])
    hidden = view["mask"].repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand(-1, 3, -1, -1)
    assert not found["masked"][hidden].any()
    for name in ("masked", "reconstruction"):
        assert torch.equal(found[name][~hidden], view["image"][~hidden])
    patches = patchify(found["reconstruction"], 4)
    told = method.predict(view)[0]
    if norm_pix:  # each patch with the mean and spread of its own
        of = patchify(view["image"], 4)
        told = told * (of.var(-1, keepdim=True) + 1e-6).sqrt() + of.mean(-1, keepdim=True)
    torch.testing.assert_close(patches[view["mask"].flatten(1)], told[view["mask"].flatten(1)])


def test_other_channels_and_coarser_patches():
    for changes in ({"channels": 1}, {"channels": 5, "patch": 8}):
        method = tiny(**changes)
        loss = method.loss(batch(method), START).terms["pixels"]
        loss.backward()
        assert torch.isfinite(loss)
