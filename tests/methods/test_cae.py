"""CAE against its paper and official code: what is seen, what is held to what, and what is told of what."""

import dataclasses
import math

import pytest
import torch
from timm.layers import LayerScale
from torch import nn

import tacit
from tacit import encoders
from tacit.data import open_source
from tacit.encoders.token_features import token_features
from tacit.engine import Progress
from tacit.engine.optim import decays, learning_rate
from tacit.engine.plan import Plan
from tacit.engine.train import prepare
from tacit.errors import BadSettings
from tacit.heads import LatentDecoder, LatentRegressor, latent_projection
from tacit.methods.image.cae import CAE, Settings
from tacit.views import Views, collate, exact_mask, finish, rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def settings(**changes) -> Settings:
    base = {"size": 16, "batch_size": 4, "drop_path": 0.0}
    return dataclasses.replace(CAE.presets["small"], **(base | CAE.tiny | changes))


def tiny(**changes) -> CAE:
    torch.manual_seed(0)
    return CAE(settings(**changes))


def batch(method: CAE, count: int = 4) -> list[dict[str, torch.Tensor]]:
    masked, rendering = method.views()
    masks = [torch.from_numpy(masked.draw(rng(0, 0, i, 0), 16, 16)["mask"]) for i in range(count)]
    g = torch.Generator().manual_seed(0)
    sides = (masked.inputs.size, rendering.inputs.size)
    images, again = (torch.randn(count, method.s.channels, side, side, generator=g) for side in sides)
    return [{"image": images, "mask": torch.stack(masks)}, {"image": again}]


def wave(*shape: int, scale: float = 1.0, start: int = 0) -> torch.Tensor:
    count = math.prod(shape)
    return scale * torch.arange(start, start + count, dtype=torch.float64).sin().float().view(*shape)


def pixels(mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    cell = images.shape[-1] // mask.shape[-1]
    return mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2).unsqueeze(1).expand_as(images)


def test_the_paper_is_the_default():
    s = Settings()
    assert CAE.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.warmup_epochs) == (
        "vit_base_patch16_224", 224, 2048, 1600, 40,
    )  # fmt: skip
    assert (s.lr, s.lr_batch, s.lr_warmup, s.lr_end, s.betas, s.weight_decay, s.clip) == (
        1.5e-3, 2048, 0, 1e-5, (0.9, 0.999), 0.05, 3.0,
    )  # fmt: skip
    assert (s.mask, int(196 * s.mask_ratio), s.mask_block, s.align_weight, s.drop_path) == ("block", 98, 16, 2, 0.1)
    assert (s.regressor_width, s.regressor_depth, s.regressor_heads, s.decoder_depth) == (768, 4, 12, 4)
    assert (s.layer_scale, s.regressor_layer_scale, s.vocabulary, s.token_size, s.min_area) == (
        0.1, 0.1, 8192, 112, 0.08,
    )  # fmt: skip
    assert (CAE.presets["short"].epochs, CAE.presets["short"].warmup_epochs) == (300, 10)
    hidden = {name: int(196 * CAE.presets[name].mask_ratio) for name in ("v2", "v2_small", "v2_tiny")}
    assert hidden == {"v2": 98, "v2_small": 49, "v2_tiny": 30}
    v2 = CAE.presets["v2"]
    assert (v2.targets, v2.token_size, v2.min_area, v2.jitter, v2.epochs) == ("features", 224, 0.4, 0.4, 300)


@pytest.mark.parametrize(
    ("preset", "width", "depth", "heads", "projects"),
    [
        ("paper", 768, 12, 12, False), ("vit_tiny", 192, 12, 12, True), ("vit_small", 384, 12, 12, True),
        ("large", 1024, 24, 16, True),
    ],
)  # fmt: skip
def test_the_published_sizes(preset, width, depth, heads, projects):
    with torch.device("meta"):
        method = CAE(CAE.presets[preset])
    trunk = method.encoder.trunk
    assert (method.encoder.width, len(trunk.blocks), trunk.blocks[0].attn.num_heads) == (width, depth, heads)
    assert {trunk.norm.eps, trunk.blocks[0].norm1.eps, method.regressor.blocks[0].norm_q.eps} == {1e-6}
    assert isinstance(method.project, nn.Sequential) == projects
    assert method.decoder.predict.weight.shape == (8192, 768)
    assert method.views()[1].inputs.size == 112
    assert (method.encoder.inputs.interpolation, method.views()[1].inputs.interpolation) == ("bicubic", "lanczos")


def fill(method: CAE) -> None:
    """All weights sines, as the official model was filled; the keys' biases stay zero."""
    with torch.no_grad():
        for module in method.modules():
            for name, p in module.named_parameters(recurse=False):
                if name == "pos_embed":
                    continue
                ones = isinstance(module, LayerScale) or (isinstance(module, nn.LayerNorm) and name == "weight")
                p.copy_(wave(*p.shape, scale=0.2) + float(ones))
        for name, p in method.named_parameters():
            if name.endswith("qkv.bias"):
                third = wave(len(p) // 3, scale=0.2)
                p.copy_(torch.cat([third, torch.zeros_like(third), third]))


def official(outputs: int, norm: bool) -> CAE:
    """The model of the golden numbers: two blocks of 32, a regressor of two of 24, one of the decoder or none."""
    method = tiny(regressor_heads=2)
    method.encoder = encoders.build("vit_mini", size=16, embed_dim=32, depth=2, num_heads=2, init_values=0.1)
    encoders.sincos_positions_(method.encoder, "row")
    positions, how = encoders.sincos_2d(24, 4, 4, "row"), {"heads": 2, "layer_scale": 0.1}
    method.project = latent_projection(32, 24)
    method.regressor = LatentRegressor(positions, depth=2, norm=norm, **how)
    method.decoder = LatentDecoder(positions, outputs, depth=int(norm), **how)
    fill(method)
    return method


def golden_view() -> dict[str, torch.Tensor]:
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [0, 1, 4, 5, 6, 9, 10, 11]] = mask[1, [2, 3, 6, 7, 12, 13, 14, 15]] = True
    return {"image": wave(2, 3, 16, 16), "mask": mask.view(2, 4, 4)}


def test_the_official_loss_of_a_whole_model(monkeypatch):
    """`ContextAutoencoderViT` and `train_one_epoch` of Atten4Vis/CAE a7fd162, all weights sines."""
    method, view = official(16, norm=True), golden_view()
    with torch.no_grad():
        told, own = method.predict(view)[2], method.aligned(view)
        hidden = encoders.visible_ids(~view["mask"])
        logits = method.decoder(told, hidden)
        codes = torch.zeros(2, 16, dtype=torch.long).scatter(1, hidden, (torch.arange(16) * 5 % 16).view(2, 8))
        monkeypatch.setattr(method.tokenizer, "forward", lambda x: codes.view(2, 4, 4))
        terms = method.loss([view, {"image": view["image"]}], START).terms
    assert told[0, 0, :3].tolist() == pytest.approx([0.0385335, 0.2541807, -0.3183733], abs=2e-5)
    assert (told * wave(2, 8, 24)).sum().item() == pytest.approx(-4.4415607, abs=1e-3)
    assert own[1, 2, :3].tolist() == pytest.approx([1.2289299, 1.5222408, 0.8817440], abs=2e-5)
    assert (own * wave(2, 8, 24)).sum().item() == pytest.approx(-3.1362600, abs=1e-3)
    assert logits[0, 3, :4].tolist() == pytest.approx([0.0988546, 1.3520702, 1.0872708, -0.3874390], abs=5e-5)
    assert terms["codes"].item() == pytest.approx(3.2062876, rel=1e-5)
    assert terms["alignment"].item() == pytest.approx(4.1920090, rel=1e-5)


def test_the_official_loss_of_the_second_version(monkeypatch):
    method, view = official(8, norm=False), golden_view()
    method.s = dataclasses.replace(method.s, targets="features")
    monkeypatch.setattr(method.tokenizer, "forward", lambda x: wave(2, 17, 8, start=3))
    with torch.no_grad():
        terms = method.loss([view, {"image": view["image"]}], START).terms
    assert list(terms) == ["features"]
    assert terms["features"].item() == pytest.approx(0.9840071, rel=1e-5)


def test_blocks_hide_just_half_and_lie_together():
    s = Settings()
    sampler = exact_mask(int(196 * s.mask_ratio), s.mask_block)
    masks = [sampler(rng(0, 0, i, 0), 14, 14) for i in range(1000)]
    assert {int(m.sum()) for m in masks} == {98}
    blocks, scattered = tiny().views()[0].sampler, tiny(mask="random").views()[0].sampler
    assert {int(blocks(rng(0, 0, i, 0), 4, 4).sum()) for i in range(50)} == {8}
    assert {int(scattered(rng(0, 0, i, 0), 4, 4).sum()) for i in range(50)} == {8}

    def neighbours(mask):  # pairs of hidden patches side by side
        return (mask[1:] & mask[:-1]).sum() + (mask[:, 1:] & mask[:, :-1]).sum()

    together = sum(neighbours(m) for m in masks) / 1000
    assert together > 140  # of 364 pairs a random half has 90


def test_both_renderings_show_the_same_part_of_the_picture(digits):
    method = tiny(token_size=32, jitter=0.4)
    source = open_source(digits)
    views = method.views()
    masked, rendering = finish(collate([Views(source, views, seed=3)[(2, i)] for i in range(6)]), views)
    assert (masked["image"].shape, rendering["image"].shape) == ((6, 3, 16, 16), (6, 3, 32, 32))
    small = nn.functional.interpolate(rendering["image"], size=16, mode="area")
    for one, other in zip(masked["image"].flatten(1), small.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.95


def test_hidden_pixels_reach_the_loss_as_targets_alone():
    method = tiny()
    view, rendering = batch(method)
    view["image"].requires_grad_()
    sum(method.loss([view, rendering], START).terms.values()).backward()
    hidden = pixels(view["mask"], view["image"])
    assert not view["image"].grad[hidden].any()
    assert (view["image"].grad[~hidden] != 0).float().mean() > 0.99
    assert not method.aligned(view).requires_grad


def test_the_class_token_learns_through_attention_alone():
    method = tiny()
    view = batch(method)[0]
    encoded, _, told = method.predict(view)
    (of_class,) = torch.autograd.grad(told.sum(), encoded, retain_graph=True)
    assert not of_class[:, 0].any()  # nothing is told from it
    assert of_class[:, 1:].any()
    (through,) = torch.autograd.grad(told.sum(), method.encoder.trunk.cls_token)
    assert through.any()
    for block in method.encoder.trunk.blocks:
        nn.init.zeros_(block.attn.proj.weight)
    (ablated,) = torch.autograd.grad(method.predict(view)[2].sum(), method.encoder.trunk.cls_token)
    assert not ablated.any()


def test_what_is_aligned_to_has_the_weights_of_the_step():
    """No second set of weights, so the two are equal bit for bit; and drop path acts on both, in train mode."""
    method = tiny(align_weight=1.0)
    assert not [name for name in method.state_dict() if "teacher" in name or "align" in name]
    view, rendering = batch(method)
    own = method.aligned(view)
    hidden = encoders.visible_ids(~view["mask"])
    expected = method.project(encoders.encode_visible(method.encoder, view["image"], hidden))[:, 1:]
    assert torch.equal(own, expected)
    solver = torch.optim.AdamW(method.encoder.parameters(), lr=1e-2)
    sum(method.loss([view, rendering], START).terms.values()).backward()
    solver.step()
    moved = method.aligned(view)
    assert not torch.allclose(own, moved, atol=1e-3)
    assert torch.equal(moved, method.project(encoders.encode_visible(method.encoder, view["image"], hidden))[:, 1:])
    noisy = tiny(drop_path=0.9).train()
    assert len({float(noisy.aligned(view).sum()) for _ in range(8)}) > 1


def test_perfect_alignment_leaves_the_codes_and_no_knowledge_costs_ln_k(monkeypatch):
    method = tiny(vocabulary=8192 // 64)
    nn.init.zeros_(method.decoder.predict.weight)
    view, rendering = batch(method)
    own = method.aligned(view)
    monkeypatch.setattr(method.regressor, "forward", lambda *_: own)
    terms = method.loss([view, rendering], START).terms
    assert terms["alignment"] == 0
    assert terms["codes"].item() == pytest.approx(math.log(128), rel=1e-6)
    assert math.log(8192) == pytest.approx(9.0109, abs=1e-4)
    monkeypatch.setattr(method.regressor, "forward", lambda *_: own + 3.0)
    assert method.loss([view, rendering], START).terms["alignment"].item() == pytest.approx(2 * 9.0, rel=1e-5)


def test_the_regressor_knows_patches_by_their_places():
    torch.manual_seed(0)
    regressor = LatentRegressor(encoders.sincos_2d(32, 4, 4, "row"), depth=2, heads=4, layer_scale=1.0).double()
    ids = torch.stack([torch.randperm(16) for _ in range(2)])
    seen, hidden = ids[:, :9], ids[:, 9:]
    visible, order, other = torch.randn(2, 9, 32, dtype=torch.double), torch.randperm(9), torch.randperm(7)
    told = regressor(visible, seen, hidden)
    torch.testing.assert_close(regressor(visible[:, order], seen[:, order], hidden), told)
    torch.testing.assert_close(regressor(visible, seen, hidden[:, other]), told[:, other])
    assert not torch.allclose(regressor(visible[:, order], seen, hidden), told)
    # Hidden latents are keys and values, too: without one of them the others are told otherwise.
    assert not torch.allclose(regressor(visible, seen, hidden[:, 1:]), told[:, 1:])


def test_positions_are_not_added_to_values_and_a_norm_lies_on_the_stream():
    torch.manual_seed(0)
    regressor = LatentRegressor(torch.zeros(4, 8), depth=1, heads=2, layer_scale=1.0)
    (block,) = regressor.blocks
    q, source = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    at, source_at = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    with torch.no_grad():
        block.attn.q.weight.zero_()  # every key counts alike: what comes is the mean of the values
        block.mlp.fc2.weight.zero_()
    values = block.attn.v(block.norm_v(source)).mean(1, keepdim=True)
    expected = block.norm(q + block.attn.proj(values))
    torch.testing.assert_close(block(q, source, at, source_at), expected)
    assert block.attn.k.bias is None


def test_the_decoder_sees_what_is_told_of_hidden_patches_and_nothing_else():
    method = tiny()
    view = batch(method)[0]
    hidden, told = encoders.visible_ids(~view["mask"]), method.predict(view)[2].detach()
    given = []
    method.decoder.blocks.register_forward_hook(lambda module, x, y: given.append(x[0]))
    method.decoder(told, hidden)
    assert given[0].shape == (4, 8, 64)
    torch.testing.assert_close(given[0], told + method.decoder.positions[hidden])


def test_a_vit_starts_as_published():
    method = tiny()
    trunk = method.encoder.trunk
    assert method.encoder.start == ("xavier", "truncated_patches", "sincos_row")
    for weight in (trunk.patch_embed.proj.weight, trunk.cls_token, method.regressor.mask_token):
        assert weight.abs().max() <= 0.02
        assert weight.std().item() == pytest.approx(0.0108, rel=0.3)  # of a normal cut off at one deviation
    bounds = {trunk.blocks[3].mlp.fc2: 640, trunk.blocks[0].attn.qkv: 512, method.regressor.blocks[0].attn.q: 128}
    for module, both in bounds.items():
        assert module.weight.abs().max().item() == pytest.approx(math.sqrt(6 / both), rel=0.01)
        assert not module.bias.any()
    torch.testing.assert_close(trunk.pos_embed[0, 1:], encoders.sincos_2d(128, 4, 4, "row"))
    assert not trunk.pos_embed[:, 0].any()
    assert not torch.equal(encoders.sincos_2d(128, 4, 4, "row"), encoders.sincos_2d(128, 4, 4, "column"))  # MAE's
    twin = encoders.like(method.encoder)
    assert twin.start == method.encoder.start
    assert twin.trunk.patch_embed.proj.weight.abs().max() <= 0.02


def test_biases_of_keys_stay_zero_and_vectors_undecayed():
    method = tiny()
    view, rendering = batch(method)
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        solver.zero_grad()
        sum(method.loss([view, rendering], START).terms.values()).backward()
        method.before_update(START)
        solver.step()
    for name, p in method.named_parameters():
        if name.endswith("qkv.bias"):
            q, k, v = p.chunk(3)
            assert not k.any()
            assert (q != 0).all()
            assert (v != 0).all()
    spared = {n for n, p in method.named_parameters() if p.requires_grad and not decays(n, p, method.s.decay_positions)}
    assert all(n.endswith(("bias", "gamma")) or "norm" in n or n == "project.1.weight" for n in spared)
    assert not {"regressor.mask_token", "encoder.trunk.cls_token"} & spared


def test_the_rates_of_the_published_run():
    rates = [learning_rate(Settings(), epoch * 625, 1600 * 625, 625) for epoch in (0, 20, 40, 820, 1600)]
    assert rates == pytest.approx([0, 7.5e-4, 1.5e-3, 7.55e-4, 1e-5], abs=1e-9)


def test_what_cannot_work_is_said_before(tmp_path):
    def said(**changes):
        return " ".join(CAE.problems(settings(**changes)))

    assert said() == said(patch=8, size=32) == said(mask="random", mask_block=99) == ""
    assert "mask_ratio = 0.01: hides 0 of 16 patches" in said(mask_ratio=0.01)
    assert "mask_ratio = 1: hides 16 of 16 patches" in said(mask_ratio=1.0)
    assert "mask_block = 10" in said(mask_block=10)
    assert "token_size = 18" in said(token_size=18)
    assert "tokenizer = nowhere: does not exist" in said(tokenizer="nowhere")
    assert "neither a folder nor a timm name" in said(tokenizer="nowhere", targets="features")
    assert "regressor_heads = 5" in said(regressor_heads=5)
    assert "needs cls and drop_tokens" in encoders.lacking("swin_mini", CAE.needs, 32)[0]


def test_a_run_begins_with_fitted_codes_and_goes_on_with_the_same(digits, tmp_path):
    changes = [f"{k}={v}" for k, v in (CAE.tiny | {"size": 16}).items()]
    how = {"preset": "small", "batch_size": 16, "workers": 0, "quiet": True, "set": changes}
    whole = tacit.pretrain("cae", digits, tmp_path / "whole", steps=2, **how)
    state = torch.load(whole.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    centres = state["method.tokenizer.module.centres"]
    assert centres.shape == (16, 48)
    assert centres.std() < 2.5
    assert (centres.std(1) < 0.2).any()  # a patch of the empty border, which no random centre is like
    again = settings(batch_size=16, drop_path=0.05)
    for start, seed in ((False, 0), (True, 1)):  # the same seed finds the same, whatever came before
        torch.manual_seed(9)
        prepared = prepare(CAE, again, open_source(digits), Plan(run=tmp_path / "other", seed=seed), steps=2)
        assert torch.equal(prepared.module.method.tokenizer.module.centres, centres) != start
    assert (whole.path / "reconstructions.npz").is_file()


def test_a_run_of_dvae_is_a_tokeniser(digits, tmp_path):
    how = {"preset": "small", "batch_size": 16, "steps": 1, "workers": 0, "quiet": True}
    run = tacit.pretrain("dvae", digits, tmp_path / "dvae", set=["size=16", "vocabulary=32"], **how)
    method = tiny(tokenizer=str(run.path))
    assert method.decoder.predict.out_features == 32
    view, rendering = batch(method)
    found = method.reconstructions([view, rendering])
    assert list(found) == ["input", "masked", "reconstruction"]
    hidden = pixels(view["mask"], view["image"])
    assert not found["masked"][hidden].any()
    assert torch.equal(found["reconstruction"][~hidden], view["image"][~hidden])
    assert not torch.equal(found["reconstruction"][hidden], view["image"][hidden])
    before = {k: v.clone() for k, v in method.tokenizer.state_dict().items()}
    sum(method.train().loss([view, rendering], START).terms.values()).backward()
    assert not method.tokenizer.module.training
    assert all(p.grad is None for p in method.tokenizer.parameters())
    assert all(torch.equal(v, before[k]) for k, v in method.tokenizer.state_dict().items())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP as transformers saves it, of 16 pixels, 4 x 4 patches and features of 12."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=4, projection_dim=12,
        )
    ).save_pretrained(folder)  # fmt: skip
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


def test_features_are_clips_own_of_every_token(clip):
    from transformers import CLIPVisionModelWithProjection

    told = token_features(str(clip), size=16, grid=4, channels=3)
    assert (told.outputs, told.patches, told.inputs.interpolation) == (12, 16, "bicubic")
    assert told.inputs.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(told(x)[:, 0], model(pixel_values=x).image_embeds)
        assert told(x).shape == (2, 17, 12)
    with pytest.raises(BadSettings, match=r"token_size = 32.*Set token_size=16"):
        token_features(str(clip), size=32, grid=4, channels=3)


def test_a_run_can_tell_features_and_a_swin_cannot(tmp_path):
    encoder = encoders.build("vit_mini", size=16, interpolation="bicubic")
    encoders.save(encoder, tmp_path / "vit")
    told = token_features(str(tmp_path / "vit"), size=16, grid=4, channels=3)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(told(x)[:, 0], encoder.eval()(x))
        torch.testing.assert_close(told(x)[:, 1:], encoder.tokens(x))
    encoders.save(encoders.build("swin_mini", size=32), tmp_path / "swin")
    with pytest.raises(BadSettings, match="is no ViT with a class token"):
        token_features(str(tmp_path / "swin"), size=32, grid=8, channels=3)


def test_the_second_version_tells_clip_of_all_tokens(clip, monkeypatch):
    method = tiny(targets="features", tokenizer=str(clip), token_size=16)
    assert isinstance(method.regressor.norm, nn.Identity)
    assert not len(method.decoder.blocks)
    view, rendering = batch(method)
    (term,) = method.loss([view, rendering], START).terms.values()
    term.backward()
    assert method.encoder.trunk.cls_token.grad.any()
    assert method.reconstructions([view, rendering]) == {}
    said = []
    method.decoder.register_forward_hook(lambda module, x, y: said.append(y.detach()))
    method.loss([view, rendering], START)
    order = torch.cat([encoders.visible_ids(view["mask"]), encoders.visible_ids(~view["mask"])], 1)
    rows = torch.empty_like(said[0][:, 1:]).scatter(1, order.unsqueeze(-1).expand(-1, -1, 12), said[0][:, 1:])
    same = torch.cat([said[0][:, :1], rows], dim=1)  # class token, then patches in the order of the picture
    for sign, value in ((7.0, 0.0), (-0.1, 2.0)):
        monkeypatch.setattr(method.tokenizer, "forward", lambda x, sign=sign: sign * same)
        assert method.loss([view, rendering], START).terms["features"].item() == pytest.approx(value, abs=1e-5)
