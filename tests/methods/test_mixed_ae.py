"""MixedAE: what is mixed, what each part may know, and what is told of each image."""

import dataclasses
import math

import pytest
import torch

from tacit import encoders
from tacit.engine import Progress
from tacit.engine.optim import learning_rate
from tacit.methods.image.mae import MAE
from tacit.methods.image.mixed_ae import MixedAE, Settings
from tacit.objectives import patchify
from tacit.views import mixture, rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> MixedAE:
    torch.manual_seed(0)
    return MixedAE(dataclasses.replace(MixedAE.presets["small"], size=16, batch_size=8, **(MixedAE.tiny | changes)))


def batch(method: MixedAE, count: int = 8) -> dict[str, torch.Tensor]:
    (view,) = method.views()
    params = [view.draw(rng(0, 0, i, 0), 16, 16) for i in range(count)]
    return {
        "image": torch.randn(count, method.s.channels, 16, 16, generator=torch.Generator().manual_seed(0)),
        "permutation": torch.stack([torch.from_numpy(p["permutation"]) for p in params]),
        "place": torch.tensor([p["place"] for p in params]),
    }


def predicted(method: MixedAE, view: dict[str, torch.Tensor]) -> torch.Tensor:
    slots, owners = mixture(view["permutation"], view["place"], method.s.sources)
    own, ids, _ = method.unmix(method.encode(view["image"], slots, owners)[0], owners)
    return method.decoder(own, ids)


def test_the_paper_is_the_default_and_mae_s_where_it_says_so():
    s, mae = Settings(), MAE.presets["base"]
    assert MixedAE.presets["paper"] == s
    assert (s.sources, s.mode, s.contrast_weight, s.temperature) == (4, "compose", 0.1, 0.25)
    shared = set(mae.__dataclass_fields__) & set(s.__dataclass_fields__)
    assert {name for name in shared if getattr(s, name) != getattr(mae, name)} == set()
    assert "decoder_width" in shared
    assert learning_rate(s, 40 * 312, 800 * 312, 312) == pytest.approx(0.0024)
    naive = MixedAE.presets["naive"]
    assert (naive.segments, naive.homologous_attention, naive.contrast_weight) == (False, False, 0)


def test_what_is_switched_off_is_not_there():
    method = tiny(segments=False, homologous_attention=False, contrast_weight=0.0)
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"encoder", "decoder"}
    step = method.loss([batch(method)], START)
    assert set(step.terms) == {"pixels"}
    assert "metric/recognition" not in step.signals
    assert 0 <= tiny().loss([batch(method)], START).signals["metric/recognition"] <= 1


def test_a_mixture_is_patches_of_its_images_with_their_positions_and_one_vector_for_each_image():
    method = tiny(homologous_attention=False)
    view = batch(method)
    slots, owners = mixture(view["permutation"], view["place"], 4)
    seen = []
    method.encoder.trunk.blocks.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tokens, _ = method.encode(view["image"], slots, owners)
    assert tokens.shape == (2, 17, 128)  # as long as one image, and a quarter as many
    _, patches = encoders.embed(method.encoder, view["image"])
    for group, p in ((0, 3), (1, 0), (1, 15)):
        image = 4 * group + int(owners[group, p])
        torch.testing.assert_close(seen[0][group, 1 + p], patches[image, p] + method.segments[slots[group, p]])


@pytest.mark.parametrize("homologous", [True, False])
def test_only_what_is_not_of_the_image_itself_is_told_of_it(homologous):
    method = tiny(homologous_attention=homologous, contrast_weight=0.0)
    view = batch(method)
    said = []
    method.decoder.register_forward_hook(lambda module, given, found: said.append(found) or found.retain_grad())
    method.loss([view], START).terms["pixels"].backward()
    _, owners = mixture(view["permutation"], view["place"], 4)
    gradient = said[0].grad.abs().sum(-1)
    assert gradient.shape == (8, 16)
    for image in range(8):
        own = owners[image // 4] == image % 4
        assert own.sum() == 4
        assert not gradient[image][own].any()
        assert (gradient[image][~own] > 0).all()


def test_a_decoder_sees_the_tokens_of_its_image_alone_and_the_class_token_of_the_mixture():
    method = tiny()
    view, tokens = batch(method), torch.randn(2, 17, 128)
    _, owners = mixture(view["permutation"], view["place"], 4)
    own, ids, mask = method.unmix(tokens, owners)
    assert own.shape == (8, 5, 128)
    for image in range(8):
        assert torch.equal(own[image, 0], tokens[image // 4, 0])
        assert torch.equal(own[image, 1:], tokens[image // 4, 1 + ids[image]])
        assert (owners[image // 4][ids[image]] == image % 4).all()
        assert not mask[image][ids[image]].any()
    assert mask.sum(1).tolist() == [12] * 8


def test_two_images_exchanged_with_their_slots_exchange_what_is_told_of_them():
    method = tiny().eval()
    view = batch(method)
    exchanged = torch.tensor([0, 2, 1, 3, 4, 5, 6, 7])
    other = {"image": view["image"][exchanged], "place": view["place"][exchanged], "permutation": view["permutation"]}
    torch.testing.assert_close(predicted(method, other), predicted(method, view)[exchanged], atol=1e-5, rtol=1e-4)


def test_an_image_of_another_group_makes_no_difference():
    method = tiny().eval()
    view = batch(method)
    before = predicted(method, view)
    view["image"][5] += 1
    after = predicted(method, view)
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4:], after[4:])


def test_the_terms_are_those_of_mae_and_the_weighted_contrast():
    method = tiny(contrast_weight=0.5)
    torch.nn.init.zeros_(method.decoder.predict.weight)
    torch.nn.init.zeros_(method.projector[-1].weight)
    torch.nn.init.ones_(method.projector[-1].bias)
    view = batch(method)
    step = method.loss([view], START)
    assert step.terms["homologous"].item() == pytest.approx(0.5 * math.log(15), rel=1e-6)
    _, owners = mixture(view["permutation"], view["place"], 4)
    variance = patchify(view["image"], 4).var(-1)
    hidden = torch.stack([owners[i // 4] != i % 4 for i in range(8)])
    torch.testing.assert_close(step.terms["pixels"].detach(), (47 / 48 * variance / (variance + 1e-6))[hidden].mean())
    assert step.signals["features"].shape == (8, 128)


def test_the_full_mode_shows_every_patch_once_and_costs_the_mean():
    method = tiny(mode="full").eval()
    passes = []
    method.decoder.register_forward_pre_hook(lambda module, given: passes.append(given[1]))
    view = batch(method)
    full = method.loss([view], START).terms
    assert torch.cat(passes, dim=1).sort().values.tolist() == [list(range(16))] * 8
    one = tiny().eval()
    one.load_state_dict(method.state_dict())
    assert full["pixels"] != one.loss([view], START).terms["pixels"]
    sum(full.values()).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_one_source_is_an_autoencoder_with_nothing_hidden_whose_loss_is_guarded():
    method = tiny(sources=1, homologous_attention=False, contrast_weight=0.0)
    step = method.loss([batch(method)], START)
    assert step.terms["pixels"] == 0
    step.terms["pixels"].backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_nothing_of_the_mixing_is_handed_over(tmp_path):
    method = tiny()
    assert method.encoder.state_dict().keys() == encoders.build("vit_mini", size=16).state_dict().keys()
    method.hand_over(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoders.load(tmp_path)(x), method.encoder.eval()(x))  # ordinary attention, the same weights


def test_fewer_images_than_a_group_are_taken_again_for_a_trial():
    method = tiny()
    step = method.loss([batch(method, 2)], START)
    assert torch.isfinite(sum(step.terms.values()))
    assert method.reconstructions([batch(method, 2)])["input"].shape == (2, 3, 16, 16)


def test_reconstructions_keep_what_is_seen_of_each_image():
    method = tiny()
    view = batch(method)
    found = method.reconstructions([view])
    assert list(found) == ["input", "masked", "reconstruction"]
    assert torch.equal(found["input"], view["image"])
    _, owners = mixture(view["permutation"], view["place"], 4)
    hidden = torch.stack([owners[i // 4] != i % 4 for i in range(8)]).view(8, 4, 4)
    hidden = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand(-1, 3, -1, -1)
    assert not found["masked"][hidden].any()
    assert torch.equal(found["reconstruction"][~hidden], view["image"][~hidden])


def test_what_does_not_divide_is_refused_by_name():
    def said(**changes):
        return " ".join(MixedAE.problems(dataclasses.replace(MixedAE.presets["small"], **changes)))

    assert said() == said(patch=8) == said(sources=2) == ""
    assert "sources = 3: must divide the 64 patches" in said(sources=3, batch_size=63)
    assert "batch_size = 66: a micro-batch of it must split into groups of sources = 4." in said(batch_size=66)
    assert "micro-batch" in said(accumulate=32)
    assert "leaves each image one patch" in said(patch=8, sources=16)
    assert "decoder_heads = 3" in said(decoder_heads=3)
