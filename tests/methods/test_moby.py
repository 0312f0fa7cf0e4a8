"""The checks of the method against its paper and official code: numbers, order of events, where gradients go."""

import dataclasses

import pytest
import torch

from tacit.engine import Progress
from tacit.engine.optim import decays
from tacit.engine.recipe import Recipe
from tacit.methods.image.moby import MoBY, Settings
from tacit.objectives import info_nce
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)


def tiny(**changes) -> MoBY:
    torch.manual_seed(0)
    small = {"size": 16, "batch_size": 4, "queue_size": 16, "hidden": 32, "out": 8, **changes}
    return MoBY(dataclasses.replace(MoBY.presets["small"], **small))


def batch(seed: int = 0, size: int = 16, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, size, size, generator=g)} for _ in range(2)]


def trained_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("encoder", "total", "of_encoder", "projector"),
    [("swin_tiny", 33_835_898, 27_519_354, 4_206_848), ("deit_small", 26_409_344, 21_665_664, 2_633_984)],
)
def test_the_published_parameter_counts(encoder, total, of_encoder, projector):
    method = MoBY(Settings(encoder=encoder))
    assert trained_parameters(method) == total
    assert trained_parameters(method.encoder) == of_encoder
    assert trained_parameters(method.projector) == projector
    assert trained_parameters(method.predictor) == 2_109_696


@pytest.mark.parametrize(("quarter", "value"), [(0, 0.99), (1, 0.991464), (2, 0.995), (3, 0.998536), (4, 1.0)])
def test_the_momentum_of_the_published_run(quarter, value):
    steps = 1_281_167 // 512 * 300
    assert steps == 750_600
    method = tiny(momentum=0.99)
    assert method.momentum(Progress(steps * quarter // 4, steps, 2502)) == pytest.approx(value, abs=5e-7)


def test_the_paper_is_the_default():
    s = Settings()
    assert MoBY.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.lr, s.weight_decay) == ("swin_tiny", 224, 512, 300, 1e-3, 0.05)
    assert (s.temperature, s.queue_size, s.momentum, s.drop_path, s.key_drop_path) == (0.2, 4096, 0.99, 0.2, 0.0)
    assert (s.clip, s.lr_cosine, s.lr_lag, s.warmup_epochs) == (5.0, "from_zero", 1, 5)
    assert (s.hidden, s.out, s.projector_layers, s.predictor_layers) == (4096, 256, 2, 2)


def test_the_two_pipelines_differ_as_published():
    t1, t2 = tiny().views()
    first = [t1.draw(rng(0, 0, i, 0), 50, 50) for i in range(2000)]
    second = [t2.draw(rng(0, 0, i, 1), 50, 50) for i in range(2000)]
    assert all(p["blur"] > 0 for p in first)
    assert not any(p["solarize"] for p in first)
    assert sum(p["blur"] > 0 for p in second) / 2000 == pytest.approx(0.1, abs=0.02)
    assert sum(p["solarize"] for p in second) / 2000 == pytest.approx(0.2, abs=0.03)
    for params in (first, second):
        assert sum(p["jitter"] for p in params) / 2000 == pytest.approx(0.8, abs=0.03)
        assert sum(p["gray"] for p in params) / 2000 == pytest.approx(0.2, abs=0.03)


def test_the_loss_is_the_sum_of_two_against_their_own_queues():
    method = tiny(drop_path=0.0)
    step = method.loss(batch(), START)
    s = step.signals
    q1, q2 = s["embeddings"].chunk(2)
    k2, k1 = s["positives"].chunk(2)
    queue1, queue2 = method.queue.keys
    expected = info_nce(q1, k2, queue2, 0.2), info_nce(q2, k1, queue1, 0.2)
    torch.testing.assert_close(sum(t.detach() for t in step.terms.values()), sum(expected))
    method.queue.keys[0].normal_()  # T1's queue serves q2 alone
    changed = method.loss(batch(), START).terms
    torch.testing.assert_close(changed["q1k2"], step.terms["q1k2"])
    assert not torch.allclose(changed["q2k1"], step.terms["q2k1"])


def test_the_start_is_near_a_draw_among_all_candidates():
    terms = tiny(queue_size=4096, out=128).loss(batch(), START).terms
    assert float(sum(terms.values())) == pytest.approx(2 * 8.3180, abs=1.5)


def test_gradients_reach_the_online_branch_alone():
    method = tiny()
    sum(method.loss(batch(), START).terms.values()).backward()
    for part in (method.encoder, method.projector, method.predictor):
        assert all(p.grad is not None for p in part.parameters())
    for part in (method.key_encoder, method.key_projector):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
    assert not method.queue.keys.requires_grad


def test_the_keys_follow_before_the_update_and_nothing_moves_them_after():
    method = tiny(momentum=0.9)
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(torch.randn_like(p))
    old = [p.clone() for p in method.key_encoder.parameters()]
    online = [p.clone() for p in method.encoder.parameters()]
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1.0)
    method.before_step(START)
    step = method.loss(batch(), START)
    sum(step.terms.values()).backward()
    optimizer.step()
    method.after_step([step.signals], START)
    for key, before, student in zip(method.key_encoder.parameters(), old, online, strict=True):
        torch.testing.assert_close(key, 0.9 * before + 0.1 * student)


def test_the_queues_fill_in_order_with_the_keys_of_their_view_and_wrap():
    method = tiny()
    emitted = []
    for step in range(6):
        progress = Progress(step, 100, 10)
        method.before_step(progress)
        found = method.loss(batch(seed=step), progress).signals
        method.after_step([found], progress)
        emitted.append(found["keys"])
    for column, step in ((0, 4), (4, 5), (8, 2), (12, 3)):
        torch.testing.assert_close(method.queue.keys[:, :, column : column + 4], emitted[step].transpose(1, 2))


def test_a_steps_own_keys_are_never_its_negatives():
    method, other = tiny(drop_path=0.0), tiny(drop_path=0.0)
    first, second = method.loss(batch(), START), other.loss(batch(), START)
    method.after_step([first.signals], START)
    other.after_step([{"keys": torch.randn_like(second.signals["keys"])}], START)
    torch.testing.assert_close(sum(first.terms.values()), sum(second.terms.values()))


def test_micro_batches_enqueue_once_a_step_and_all_their_keys():
    method = tiny()
    parts = [method.loss(batch(seed=s, count=2), START).signals for s in (1, 2)]
    method.after_step(parts, START)
    assert int(method.queue.pointer) == 4
    expected = torch.cat([p["keys"] for p in parts], dim=1).transpose(1, 2)
    torch.testing.assert_close(method.queue.keys[:, :, :4], expected)


def test_drop_path_acts_on_the_online_branch_alone():
    method = tiny(drop_path=0.5).train()
    x = torch.randn(8, 3, 16, 16)
    assert not torch.equal(method.encoder(x), method.encoder(x))
    assert torch.equal(method.key_encoder(x), method.key_encoder(x))
    both = tiny(drop_path=0.5, key_drop_path=0.5)
    assert not torch.equal(both.key_encoder(x), both.key_encoder(x))


def test_the_key_projector_normalises_by_its_own_batch_and_keeps_its_own_statistics():
    method = tiny()
    method.loss(batch(), START)
    norm, online = method.key_projector[1], method.projector[1]
    assert norm.training
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
    assert int(norm.num_batches_tracked) == int(online.num_batches_tracked) == 2  # each view is a batch of its own


def test_the_bn_variant_is_registered_averaged_and_sees_each_view_alone():
    method = tiny(norm_before_mlp="bn", momentum=0.0)
    names = [name for name, _ in method.encoder.named_parameters() if "norm2.bn.weight" in name]
    assert len(names) == 6
    with torch.no_grad():
        dict(method.encoder.named_parameters())[names[0]].fill_(3.0)
    method.before_step(START)
    assert dict(method.key_encoder.named_parameters())[names[0]].eq(3.0).all()
    method.loss(batch(), START)
    norm = next(m for m in method.encoder.modules() if isinstance(m, torch.nn.BatchNorm1d))
    assert int(norm.num_batches_tracked) == 2


def test_position_tables_are_decayed_as_in_the_official_run_and_spared_on_request():
    table = next(n for n, _ in tiny().named_parameters() if n.endswith("relative_position_bias_table"))
    assert Recipe().decay_positions
    assert decays(table, torch.zeros(9, 2), positions=True)
    assert not decays(table, torch.zeros(9, 2), positions=False)


def test_ablations_of_the_paper_run():
    for changes in ({"predictor_layers": 0}, {"key_drop_path": 0.2}, {"projector_layers": 0}, {"encoder": "vit_mini"}):
        step = tiny(**changes).loss(batch(), START)
        assert torch.isfinite(sum(step.terms.values()))


def test_settings_that_cannot_work_are_named():
    (problem,) = MoBY.problems(dataclasses.replace(MoBY.presets["paper"], queue_size=4000))
    assert "4000 = 7 x 512 + 416" in problem
    (problem,) = MoBY.problems(dataclasses.replace(MoBY.presets["paper"], projector_layers=0, predictor_layers=0))
    assert "at least one head" in problem


def test_golden_loss_of_the_official_function():
    """The value of the official `contrastive_loss` (SwinTransformer/Transformer-SSL 4510de1) on these tensors."""
    i = torch.arange(1, 25, dtype=torch.float64)
    q = torch.nn.functional.normalize(torch.sin(i).view(4, 6), dim=1).float()
    k = torch.nn.functional.normalize(torch.cos(i * 0.7).view(4, 6), dim=1).float()
    queue = torch.nn.functional.normalize(torch.sin(torch.arange(1, 43, dtype=torch.float64) * 1.3).view(6, 7), dim=0)
    assert info_nce(q, k, queue.float(), 0.2).item() == pytest.approx(GOLDEN, abs=1e-6)


GOLDEN = 2.1176746
