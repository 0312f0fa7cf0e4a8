"""SwAV against its paper and official code: codes, who predicts them, the queue, what stands still and for how long."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.engine import Progress
from tacit.engine.monitors import CollapseWatch, health
from tacit.engine.optim import learning_rate, optimiser
from tacit.methods.image.swav import STD, Settings, SwAV
from tacit.objectives import sinkhorn
from tacit.views import rng

START = Progress(step=0, steps=1000, steps_per_epoch=100)
LATER = Progress(step=200, steps=1000, steps_per_epoch=100)


def tiny(**changes) -> SwAV:
    torch.manual_seed(0)
    return SwAV(dataclasses.replace(SwAV.presets["small"], **({"size": 16, "batch_size": 4} | SwAV.tiny | changes)))


def batch(method: SwAV, seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, v.inputs.size, v.inputs.size, generator=g)} for v in method.views()]


def scores_of(method: SwAV, views) -> list[torch.Tensor]:
    """View by view, but for the head, whose BatchNorm sees all crops at once."""
    features = torch.cat([method.encoder(view["image"]) for view in views])
    return method.prototypes(F.normalize(method.head(features), dim=1)).chunk(len(views))


def by_hand(codes, scores, temperature: float) -> torch.Tensor:
    total = 0.0
    for i in (0, 1):
        for v in range(len(scores)):
            if v != i:
                total = total - (codes[i] * torch.log_softmax(scores[v] / temperature, 1)).sum(1).mean()
    return total / (2 * (len(scores) - 1))


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def test_the_paper_is_the_default():
    s = Settings()
    assert SwAV.presets["paper"] == s
    assert (s.encoder, s.size, s.local_size, s.local_crops) == ("resnet50", 224, 96, 6)
    assert (s.global_area, s.local_area) == ((0.14, 1.0), (0.05, 0.14))
    assert (s.batch_size, s.epochs, s.optimizer, s.trust, s.sgd_momentum) == (4096, 800, "larc", 1e-3, 0.9)
    assert (s.weight_decay, s.decay_vectors, s.clip, s.queue_size) == (1e-6, True, None, 0)
    assert (s.hidden, s.out, s.prototypes, s.freeze_prototypes) == (2048, 128, 3000, 313)
    assert (s.temperature, s.epsilon, s.sinkhorn_iterations) == (0.1, 0.05, 3)
    small = SwAV.presets["small_batch"]
    assert (small.batch_size, small.epochs, small.queue_size, small.queue_start) == (256, 200, 3840, 15)
    assert (small.freeze_prototypes, small.warmup_epochs) == (5005, 0)


def test_the_published_rates():
    epoch = 1_281_167 // 4096
    assert epoch == 312
    s, steps = Settings(), 800 * epoch
    at = [learning_rate(s, e, steps, epoch) for e in (0, 10 * epoch - 1, 10 * epoch, 405 * epoch, steps)]
    assert at == pytest.approx([0.3, 4.8, 4.8, (4.8 + 0.0048) / 2, 0.0048])
    s, steps = SwAV.presets["small_batch"], 200 * 5004
    assert learning_rate(s, 0, steps, 5004) == pytest.approx(0.6)
    assert learning_rate(s, steps, steps, 5004) == pytest.approx(6e-4)


def test_the_published_parameter_counts():
    with torch.device("meta"):
        method = SwAV(Settings())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in method.named_children()}
    assert count == {"encoder": 23_508_032, "head": 4_462_720, "prototypes": 384_000, "queue": 0}


def test_the_stem_of_a_resnet_does_what_the_official_one_does_and_no_branch_starts_at_zero():
    trunk = tiny(encoder="resnet18", local_size=8).encoder.trunk
    assert trunk.conv1(torch.zeros(1, 3, 224, 224)).shape[-1] == 112
    x = wave(1, 3, 32, 32)
    official = F.conv2d(F.pad(x, (1, 1, 1, 1)), trunk.conv1.weight, stride=2, padding=2)
    torch.testing.assert_close(trunk.conv1(x), official)
    assert all(bool((m.weight == 1).all()) for m in trunk.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_deviation_of_the_official_code_travels_with_the_encoder():
    assert STD == (0.228, 0.224, 0.225)
    method = tiny()
    assert method.encoder.inputs.std == STD
    assert all(view.inputs.std == STD and view.inputs.interpolation == "bilinear" for view in method.views())
    assert len(tiny(channels=2).encoder.inputs.std) == 2


def test_the_views_are_the_papers():
    views = SwAV.views(tiny(local_crops=6, jitter_strength=1.0, global_area=(0.14, 1.0), local_area=(0.05, 0.14)))
    assert [v.inputs.size for v in views] == [16] * 2 + [8] * 6
    assert [v.name for v in views][1:4] == ["global 2", "local 1", "local 2"]
    for number in (0, 1, 2):
        drawn = [views[number].draw(rng(0, 0, i, number), 100, 100) for i in range(1000)]
        shares = {name: sum(bool(p[name]) for p in drawn) / 1000 for name in ("flip", "jitter", "gray", "blur")}
        assert shares == pytest.approx({"flip": 0.5, "jitter": 0.8, "gray": 0.2, "blur": 0.5}, abs=0.05)
        assert not any(p["solarize"] for p in drawn)
        for name, middle, reach in (
            ("brightness", 1, 0.8),
            ("contrast", 1, 0.8),
            ("saturation", 1, 0.8),
            ("hue", 0, 0.2),
        ):
            assert max(abs(p[name] - middle) for p in drawn) == pytest.approx(reach, rel=0.02)
        areas = [p["height"] * p["width"] / 1e4 for p in drawn]
        low, high = ((0.14, 1.0), (0.05, 0.14))[number == 2]
        assert low - 0.01 < min(areas) < max(areas) < high + 0.01


def test_the_loss_is_the_double_sum_over_eight_crops():
    method = tiny(local_crops=6, epsilon=0.05)
    views = batch(method)
    assert len(views) == 8
    method.before_step(START)
    scores = scores_of(method, views)
    expected = by_hand([sinkhorn(s) for s in scores[:2]], scores, 0.1)
    loss = method.loss(views, START).terms["views"]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    swapped = method.loss([views[1], views[0], *views[2:]], START).terms["views"]
    torch.testing.assert_close(swapped, loss, rtol=1e-5, atol=1e-6)


def test_no_gradient_passes_through_the_codes():
    method = tiny()
    views = batch(method)
    method.loss(views, START).terms["views"].backward()
    found = method.prototypes.weight.grad.clone()
    method.zero_grad()
    scores = scores_of(method, views)
    by_hand([c.clone() for c in method.codes([s.detach() for s in scores[:2]])], scores, 0.1).backward()
    torch.testing.assert_close(found, method.prototypes.weight.grad, rtol=1e-4, atol=1e-6)
    assert all(p.grad is not None for p in method.parameters())


def test_codes_share_the_prototypes_and_are_sure_of_clear_cases():
    method = tiny(prototypes=2, epsilon=0.05)
    torch.testing.assert_close(method.codes([torch.eye(2)] * 2)[0], torch.eye(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(method.codes([torch.full((6, 2), 0.3)] * 2)[1], torch.full((6, 2), 0.5))
    q = method.codes([0.2 * wave(40, 2), wave(40, 2)])[0]
    torch.testing.assert_close(q.sum(1), torch.ones(40))
    torch.testing.assert_close(q.sum(0), torch.full((2,), 20.0), atol=0.5, rtol=0)


@pytest.mark.parametrize(("queue", "golden"), [(False, 11.429549217224121), (True, 11.530523300170898)])
def test_the_golden_loss_of_the_official_loop(queue: bool, golden: float):
    """The loss of one iteration of `main_swav.py` (facebookresearch/swav 06b1b7c), five crops, on these embeddings."""
    method = tiny(prototypes=6, out=5, queue_size=8, queue_start=0.0, epsilon=0.05)
    z = F.normalize(wave(20, 5, phase=0.4), dim=1)
    with torch.no_grad():
        method.prototypes.weight.copy_(F.normalize(wave(6, 5, phase=0.9), dim=1))
        method.queue.rows.copy_(F.normalize(wave(2, 8, 5, phase=2.0), dim=2))
        method.queue.filled.fill_(8 * queue)
        scores = method.prototypes(z).chunk(5)
        codes = method.codes(scores[:2])
        assert by_hand(codes, scores, 0.1).item() == pytest.approx(golden, rel=1e-5)
        if queue:
            last = torch.tensor(
                [5.654809845205555e-13, 0.9503268003463745, 2.0128652095260068e-14, 1.2111299463324343e-10]
            )
            torch.testing.assert_close(codes[1][0, :4], last, atol=1e-6, rtol=1e-3)
        method.after_step([{"large": torch.stack(z[:8].chunk(2))}], LATER)
    first = torch.tensor([0.10810638218118118, -0.5550557374954224, 0.534302294254303, -0.13845473527908325])
    torch.testing.assert_close(method.queue.rows[1, :4, 0], first)


def test_prototypes_have_length_one_at_every_step_and_learn_after_a_while():
    method = tiny(freeze_prototypes=2)
    solver = torch.optim.SGD(method.parameters(), lr=0.5)
    for step in range(4):
        progress = Progress(step, 100, 10)
        method.before_step(progress)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(16))
        before = method.prototypes.weight.detach().clone()
        solver.zero_grad()
        method.loss(batch(method), progress).terms["views"].backward()
        method.before_update(progress)
        assert (method.prototypes.weight.grad is None) == (step < 2)
        assert all(p.grad is not None for p in method.head.parameters())
        solver.step()
        assert torch.equal(method.prototypes.weight, before) == (step < 2)


def test_the_queue_waits_for_its_epoch_and_until_it_is_full():
    quick = {"local_crops": 0, "patch": 8}
    method = tiny(batch_size=64, queue_size=256, queue_start=2.0, **quick)
    queue_free = tiny(batch_size=64, queue_size=0, **quick)
    views = batch(method, count=64)
    assert queue_free.queue.rows.shape[1] == 0
    for step in range(198, 207):  # the third epoch begins with step 200
        progress = Progress(step, 1000, 100)
        for m in (method, queue_free):
            m.before_step(progress)
        step_of, plain = method.loss(views, progress), queue_free.loss(views, progress)
        uses = step >= 204  # four updates later
        assert torch.equal(step_of.signals["targets"], plain.signals["targets"]) != uses
        assert int(method.queue.filled) == 64 * max(step - 200, 0)
        method.after_step([step_of.signals], progress)
        queue_free.after_step([plain.signals], progress)
        if step >= 200:
            torch.testing.assert_close(method.queue.rows[:, :64], step_of.signals["embeddings"].view(2, 64, 16))


def test_the_codes_of_a_full_queue_are_those_of_all_its_records_with_the_prototypes_of_today():
    method = tiny(queue_size=16, epsilon=0.05)
    past = F.normalize(wave(2, 16, 16), dim=2)
    method.queue.push(past)
    method.before_step(LATER)
    views = batch(method)
    with torch.no_grad():
        scores = scores_of(method, views)
        found = method.codes(scores[:2])
        for i in (0, 1):
            every = torch.cat([scores[i], past[i] @ method.prototypes.weight.T])  # the order does not matter
            torch.testing.assert_close(found[i], sinkhorn(every)[:4], atol=1e-5, rtol=1e-4)


def test_micro_batches_enter_the_queue_together_and_a_checkpoint_holds_it():
    method = tiny(queue_size=16, queue_start=0.0)
    parts = [method.loss(batch(method, seed, count=2), START).signals for seed in (1, 2)]
    method.after_step(parts, START)
    expected = torch.cat([part["large"] for part in parts], dim=1)
    torch.testing.assert_close(method.queue.rows[:, :4], expected)
    other = tiny(queue_size=16)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue.rows, method.queue.rows)
    assert int(other.queue.filled) == 4


def test_every_tensor_is_adapted_and_decayed_by_larc():
    recipe = dataclasses.replace(
        SwAV.presets["small"], size=16, encoder="resnet_mini", optimizer="larc", decay_vectors=True,
        weight_decay=0.01, **SwAV.tiny,
    )  # fmt: skip
    method = SwAV(recipe)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    solver = optimiser(method, recipe)
    method.loss(batch(method), START).terms["views"].backward()
    method.before_update(START)
    solver.param_groups[0]["lr"] = 2.0
    solver.step()
    assert len(solver.param_groups) == 1
    for name in ("head.0.weight", "head.1.weight", "encoder.trunk.bn1.weight", "head.3.bias"):
        w, g = before[name], method.get_parameter(name).grad
        local = 1e-3 * w.norm() / (g.norm() + 0.01 * w.norm() + 1e-8)
        torch.testing.assert_close(method.get_parameter(name).detach(), w - 2.0 * local * (g + 0.01 * w))
    assert torch.equal(method.prototypes.weight, before["prototypes.weight"])  # frozen: not even decayed


def run(**changes) -> tuple[dict[str, float], str | None]:
    """A few steps with two noisy copies of random pictures, the last ones watched."""
    method = tiny(local_crops=0, patch=8, queue_size=0, **changes)
    torch.manual_seed(1)
    pictures = torch.randn(4, 16, 3, 16, 16)
    solver = torch.optim.AdamW(method.parameters(), lr=2e-3)
    watch, said = CollapseWatch(), None
    for i in range(30):
        progress = Progress(i, 1000, 10)
        method.before_step(progress)
        x = pictures[i % 4]
        step = method.loss([{"image": x + torch.randn_like(x)} for _ in range(2)], progress)
        solver.zero_grad()
        step.terms["views"].backward()
        method.before_update(progress)
        solver.step()
        if i >= 25:
            values = health(step.signals)
            said = said or watch.see(values)
    return values, said


def test_the_prototypes_are_used_alike_and_without_that_it_collapses_and_is_told_so():
    values, said = run()
    assert said is None
    assert values["prototype_entropy"] > 0.9 * math.log(16)
    assert values["target_information"] > 1
    values, said = run(sinkhorn_iterations=0)
    assert values["prototype_entropy"] < 0.1
    assert "one prototype each, the same" in said


def test_settings_that_cannot_work_are_named():
    (problem,) = SwAV.problems(dataclasses.replace(SwAV.presets["small_batch"], queue_size=4000))
    assert "queue_size = 4000: must be a multiple of the global batch (256)" in problem
    (problem,) = SwAV.problems(dataclasses.replace(SwAV.presets["small"], local_size=15))
    assert "local_size = 15: must be a multiple of the patch size of vit_mini" in problem
