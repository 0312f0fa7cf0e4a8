"""MoCo v3 against its paper and official code: what is fixed, what moves when, and how an unstable run is seen."""

import dataclasses
import math
import statistics

import pytest
import torch

import tacit
from tacit.engine import Progress, module
from tacit.engine.optim import learning_rate, optimiser
from tacit.methods.image.moco_v3 import MoCoV3, Settings
from tacit.objectives import batch_info_nce
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> MoCoV3:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "hidden": 32, "out": 8, **changes}
    return MoCoV3(dataclasses.replace(MoCoV3.presets["small"], **small))


def batch(seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, 16, 16, generator=g)} for _ in range(2)]


def test_the_paper_is_the_default():
    s = Settings()
    assert MoCoV3.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.optimizer) == ("vit_small_12h", 224, 4096, 300, "adamw")
    assert (s.lr, s.lr_batch, s.lr_warmup, s.lr_end, s.warmup_epochs) == (1.5e-4, 256, 0, 0, 40)
    assert (s.weight_decay, s.decay_vectors, s.clip) == (0.1, True, None)
    assert (s.temperature, s.momentum, s.freeze_patch, s.positions) == (0.2, 0.99, True, "sincos")
    assert (s.hidden, s.out, s.projector_layers, s.predictor_layers, s.predictor_norm) == (4096, 256, 3, 2, True)


def test_the_published_parameter_counts():
    with torch.device("meta"):
        method = MoCoV3(Settings())
        resnet = MoCoV3(MoCoV3.presets["resnet50"])

    def linears(part: torch.nn.Module) -> int:
        return sum(m.weight.numel() for m in part if isinstance(m, torch.nn.Linear))

    assert (linears(method.projector), linears(method.predictor)) == (19_398_656, 2_097_152)
    patch, positions = 384 * (3 * 16 * 16 + 1), 197 * 384
    trained = sum(p.numel() for p in method.encoder.parameters() if p.requires_grad)
    assert trained == 21_665_664 - patch - positions
    for head in (method.projector, method.predictor, resnet.projector):
        assert all(m.bias is None for m in head if isinstance(m, torch.nn.Linear))
        assert isinstance(head[-1], torch.nn.BatchNorm1d)
        assert not head[-1].affine
    assert isinstance(resnet.predictor[-1], torch.nn.Linear)
    assert linears(resnet.projector) == 2048 * 4096 + 4096 * 256


def test_a_vit_starts_as_published():
    trunk = tiny().encoder.trunk
    assert trunk.cls_token.abs().max() < 1e-5
    assert not trunk.pos_embed.requires_grad
    angles = 2 * 10_000 ** (-torch.arange(32) / 32)  # row 2 of column 0: the first half knows the row
    torch.testing.assert_close(trunk.pos_embed[0, 1 + 2 * 4, :32], angles.sin())
    bound = math.sqrt(6 / (128 + 128))
    assert 0.99 * bound < trunk.blocks[0].attn.qkv.weight.abs().max() <= bound
    learned = tiny(positions="learned").encoder.trunk.pos_embed
    assert learned.requires_grad
    assert not torch.allclose(learned, trunk.pos_embed)


def test_the_loss_is_the_sum_of_two_directions_against_the_keys_of_the_other_view():
    step = tiny().loss(batch(), START)
    q1, q2 = step.signals["embeddings"].chunk(2)
    k2, k1 = step.signals["positives"].chunk(2)
    torch.testing.assert_close(step.terms["q1k2"].detach(), batch_info_nce(q1, k2, 0.2))
    torch.testing.assert_close(step.terms["q2k1"].detach(), batch_info_nce(q2, k1, 0.2))
    logits = q1 @ k2.T / 0.2
    by_hand = -sum(torch.log_softmax(logits[n], 0)[n] for n in range(4)) / 4 * 2 * 0.2
    torch.testing.assert_close(step.terms["q1k2"].detach(), by_hand)


def test_gradients_reach_the_online_branch_alone():
    method = tiny()
    sum(method.loss(batch(), START).terms.values()).backward()
    for part in (method.encoder, method.projector, method.predictor):
        assert all((p.grad is not None) == p.requires_grad for p in part.parameters())
    for part in (method.key_encoder, method.key_projector):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())


def fixed(trunk: torch.nn.Module) -> list[torch.Tensor]:
    return [trunk.patch_embed.proj.weight, trunk.patch_embed.proj.bias, trunk.pos_embed]


def test_the_frozen_patch_projection_is_the_same_in_both_branches_to_the_last_bit_and_all_else_moves():
    method = tiny(weight_decay=1.0)  # which must not shrink it either
    before = {name: p.clone() for name, p in method.named_parameters()}
    start = [x.clone() for x in fixed(method.encoder.trunk)]
    solver = optimiser(method, method.s)
    for step in range(10):
        progress = Progress(step, 20, 10)
        method.before_step(progress)
        loss = sum(method.loss(batch(step), progress).terms.values())
        solver.zero_grad()
        loss.backward()
        for group in solver.param_groups:
            group["lr"] = 1e-3
        solver.step()
        method.after_step([], progress)
    for branch in (method.encoder, method.key_encoder):
        assert all(torch.equal(a, b) for a, b in zip(fixed(branch.trunk), start, strict=True))
    still = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert {name.partition(".trunk.")[2] for name in still} == {
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }


def test_a_free_patch_projection_is_trained():
    method = tiny(freeze_patch=False)
    sum(method.loss(batch(), START).terms.values()).backward()
    assert method.encoder.trunk.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_keys_follow_before_the_update():
    method = tiny(momentum=0.9)
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(torch.randn_like(p))
    old = [p.clone() for p in method.key_encoder.parameters()]
    online = [p.clone() for p in method.encoder.parameters()]
    solver = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)
    method.before_step(START)
    step = method.loss(batch(), START)
    sum(step.terms.values()).backward()
    solver.step()
    method.after_step([step.signals], START)
    for key, before, student in zip(method.key_encoder.parameters(), old, online, strict=True):
        torch.testing.assert_close(key, 0.9 * before + 0.1 * student)


@pytest.mark.parametrize(("quarter", "value"), [(0, 0.99), (1, 0.991464), (2, 0.995), (3, 0.998536), (4, 1.0)])
def test_the_momentum_of_the_published_run(quarter, value):
    assert tiny().momentum(Progress(75 * 312 * quarter, 300 * 312, 312)) == pytest.approx(value, abs=5e-7)


def test_the_rates_of_the_published_run():
    rates = [learning_rate(Settings(), epoch * 312, 300 * 312, 312) for epoch in (0, 20, 40, 170, 300)]
    assert rates == pytest.approx([0, 0.0012, 0.0024, 0.0012, 0], abs=1e-12)


def test_weight_decay_acts_on_everything_and_lars_spares_vectors():
    (everything,) = optimiser(method := tiny(), method.s).param_groups
    assert everything["weight_decay"] == 0.1
    assert sum(p.ndim == 1 for p in everything["params"]) > 20
    method = tiny(encoder="resnet_mini")
    groups = optimiser(method, dataclasses.replace(MoCoV3.presets["resnet50"])).param_groups
    decayed, spared = groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-6, 0)
    assert (decayed["adapt"], spared["adapt"]) == (True, False)
    assert all(p.ndim > 1 for p in decayed["params"])


def test_the_two_pipelines_differ_as_published():
    t1, t2 = tiny().views()
    first = [t1.draw(rng(0, 0, i, 0), 50, 50) for i in range(1000)]
    second = [t2.draw(rng(0, 0, i, 1), 50, 50) for i in range(1000)]
    assert all(p["blur"] > 0 for p in first)
    assert not any(p["solarize"] for p in first)
    assert sum(p["blur"] > 0 for p in second) / 1000 == pytest.approx(0.1, abs=0.03)
    assert sum(p["solarize"] for p in second) / 1000 == pytest.approx(0.2, abs=0.04)
    assert (t1.scale[0], Settings().min_area, MoCoV3.presets["resnet50"].min_area) == (0.2, 0.08, 0.2)


@pytest.mark.parametrize("changes", [{"encoder": "resnet_mini", "freeze_patch": False}, {"norm_before_mlp": "bn"}])
def test_a_batch_norm_inside_sees_each_view_alone_and_each_branch_keeps_its_own(changes):
    method = tiny(**changes)
    method.loss(batch(), START)
    online, key = (
        next(m for m in part.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm))
        for part in (method.encoder, method.key_encoder)
    )
    assert int(online.num_batches_tracked) == int(key.num_batches_tracked) == 2
    assert online.running_mean.data_ptr() != key.running_mean.data_ptr()


def test_other_trunks_and_the_ablations_of_the_paper_run():
    for changes in ({"encoder": "swin_mini"}, {"predictor_layers": 0}, {"predictor_norm": False}):
        method = tiny(**changes)
        loss = sum(method.loss(batch(), START).terms.values())
        loss.backward()
        assert torch.isfinite(loss)
    assert not tiny(encoder="swin_mini").encoder.trunk.patch_embed.proj.weight.requires_grad


def test_after_other_weights_are_loaded_the_keys_start_from_them():
    method = tiny()
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_init()
    assert all(
        torch.equal(a, b) for a, b in zip(method.encoder.parameters(), method.key_encoder.parameters(), strict=True)
    )


def test_a_rate_fifty_times_too_high_is_seen_in_the_stem_not_later_than_in_the_last_block(
    digits, tmp_path, monkeypatch
):
    """A whole run under SGD, which does not soften what one wrong step does as AdamW would."""
    usual = module.learning_rate

    def spiked(recipe, step, steps, steps_per_epoch):
        return usual(recipe, step, steps, steps_per_epoch) * (50 if step == 24 else 1)

    monkeypatch.setattr(module, "learning_rate", spiked)
    run = tacit.pretrain(
        "moco_v3", digits, tmp_path / "run", preset="small", batch_size=16, steps=30, workers=0, quiet=True,
        set=["size=16", "patch=8", "hidden=32", "out=16", "freeze_patch=false", "optimizer=sgd", "lr=0.2",
             "lr_batch=16", "warmup_epochs=0", "check_every=0", "log_every=1", "on_collapse=warn"],
    )  # fmt: skip
    said = [line for line in (run.path / "log.txt").read_text().splitlines() if "Gradient spike: " in line]
    named = said[0].partition("Gradient spike: ")[2].partition(". ")[0]  # the first time layers are named
    assert "stem" in named

    def first_spike(layer: str) -> float:
        norms = [norm for _, norm in run.metrics[f"grad/{layer}"]]
        return next((i for i in range(24, 30) if norms[i] > 10 * statistics.median(norms[:i])), math.inf)

    assert first_spike("stem") <= min(first_spike("last_block"), 29)
