"""ATST-Clip: the loss of two segments, a teacher that normalises by its own batches, banks, schedules."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit.data.recording import Recording
from tacit.engine import Progress
from tacit.engine.bootstrapping import byol_step, spread
from tacit.engine.optim import decays, learning_rate, weight_decay
from tacit.engine.recipe import problems as recipe_problems
from tacit.methods.audio.atst_clip import ATSTClip, Settings
from tacit.views import collate, finish, rng

TINY = replace(ATSTClip.presets["small"], size=41, batch_size=6, hidden=32, out=16, bank=8)
START = Progress(0, 20, 10)


def made(**changes) -> ATSTClip:
    torch.manual_seed(0)
    return ATSTClip(replace(TINY, **changes))


def batch(method, count: int = 6, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    pipelines, samples = method.views(), []
    for i in range(count):
        wave = 0.3 * np.sin(np.cumsum(0.1 + 0.05 * i + 0.1 * np.sin(np.arange(16_000) / 900))).astype(np.float32)
        recording = Recording(wave, 16_000)
        params = [v.draw(rng(0, epoch, i, n), *recording.extent) for n, v in enumerate(pipelines)]
        crops = recording.crops([v.cut(p) for v, p in zip(pipelines, params, strict=True)])
        samples.append({"crops": crops, "params": params, "index": i, "label": -1, "bad": []})
    return finish(collate(samples), pipelines)


def waves(rows: int, width: int, a: float, b: float) -> torch.Tensor:
    return torch.sin(a * torch.arange(rows * width, dtype=torch.float32) + b).view(rows, width)


def total(q: torch.Tensor, z: torch.Tensor) -> float:
    return float(sum(byol_step(torch.zeros(2, 3), q, z, 0.9).terms.values()))


def test_the_official_loss_and_its_deviations():
    """ByolLoss of Audio-WestlakeU/audiossl, of both variants."""
    q, z = waves(8, 6, 0.7, 0.1), waves(8, 6, 1.3, 0.5)
    assert total(q, z) == pytest.approx(2.082902193069458, abs=1e-6)
    signals = byol_step(torch.zeros(2, 3), q, z, 0.9).signals
    assert float(signals["metric/student_std"]) == pytest.approx(0.4320465624332428, abs=1e-6)
    assert float(signals["metric/teacher_std"]) == pytest.approx(0.43570148944854736, abs=1e-6)


def test_closed_forms():
    a, b = torch.eye(4)[:2], torch.eye(4)[2:]
    q = torch.cat([a, b])
    crossed = torch.cat([b, a])
    assert total(q, crossed) == pytest.approx(0, abs=1e-6)  # equal to the other view
    assert total(q, q) == pytest.approx(2, abs=1e-6)  # orthogonal; its own view is never met
    assert total(q, -crossed) == pytest.approx(4, abs=1e-6)
    x, y = waves(8, 6, 0.7, 0.1), waves(8, 6, 1.3, 0.5)
    assert total(x.roll(4, 0), y.roll(4, 0)) == pytest.approx(total(x, y), abs=1e-6)
    step = byol_step(torch.zeros(2, 3), x, y, 0.9)
    assert float(step.terms["p1z2"]) == pytest.approx(
        float((2 - 2 * torch.cosine_similarity(x[:4], y[4:])).mean() / 2), abs=1e-6
    )
    assert float(spread(torch.ones(10, 256) / 16)) == pytest.approx(1e-3, abs=1e-6)
    assert float(spread(torch.nn.functional.normalize(torch.randn(4000, 256)))) == pytest.approx(0.0625, abs=1e-3)


def test_segments_are_two_and_of_the_published_length():
    first, second = made().views()
    pairs = [
        [v.draw(rng(0, 0, i, n), 160_000, 16_000)["start"] for n, v in enumerate((first, second))] for i in range(300)
    ]
    starts = np.array(pairs)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.2
    assert (starts[:, 0] != starts[:, 1]).all()
    assert Settings().inputs.samples == 96_000
    with torch.device("meta"):
        encoder = ATSTClip(Settings(bank=1)).encoder
    assert encoder.trunk.pos_embed.shape == (1, 251, 768)
    assert "class token" in encoder.feature


def test_weights_start_as_published():
    trunk = made().encoder.trunk
    patches = trunk.patch_embed.proj
    assert float(patches.weight.detach().std()) == pytest.approx(0.02, abs=1e-3)
    assert float(patches.bias.detach().abs().max()) == 0
    assert trunk.blocks[0].attn.qkv.bias is None
    assert float(trunk.pos_embed.detach().std()) == pytest.approx(0.02, abs=2e-3)


def test_only_the_student_learns_and_statistics_are_each_ones_own():
    method = made()
    views = batch(method)
    step = method.loss(views, START)
    sum(step.terms.values()).backward()
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_projector.parameters()))
    for part in (method.encoder, method.projector, method.predictor):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    ours, theirs = method.projector[1].running_mean.clone(), method.teacher_projector[1].running_mean.clone()
    assert theirs.abs().sum() > 0  # the teacher is in train mode
    before = [p.clone() for p in method.teacher_projector.parameters()]
    with torch.no_grad():
        for p in method.projector.parameters():
            p.add_(1.0)
    method.after_step([step.signals], START)
    assert torch.equal(method.teacher_projector[1].running_mean, theirs)
    assert torch.equal(method.projector[1].running_mean, ours)
    for new, old in zip(method.teacher_projector.parameters(), before, strict=True):
        assert torch.allclose(new, old + 0.01, atol=1e-6)  # momentum .99
    assert method.handed_over is method.teacher
    assert [type(m).__name__ for m in method.projector] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert method.projector[0].bias is None
    assert method.predictor[3].bias is None


def test_the_bank_of_each_view_keeps_what_was_not_mixed():
    method = made()
    views = batch(method)
    alone = method.changed(0, views[0]["image"], views[0])
    step = method.loss(views, START)
    method.after_step([step.signals], START)
    assert int(method.backgrounds.heard) == 6
    for view in (0, 1):
        kept = method.backgrounds.rows[view, :6].float()
        assert torch.allclose(kept, views[view]["image"][:, 0], atol=1e-3)
    behind = method.changed(0, views[0]["image"], views[0])
    assert (behind - alone).abs().max() > 0.01
    quiet = views[0] | {"loudness": torch.zeros(6)}
    assert torch.allclose(method.changed(0, views[0]["image"], quiet), alone, atol=1e-5)
    assert "backgrounds.rows" in method.state_dict()


def test_one_segment_for_both_is_a_choice():
    method = made(same_segment=True)
    views = batch(method)
    heard = method.loss(views, START).signals["heard"]
    assert torch.equal(heard[0], heard[1])
    heard = made().loss(views, START).signals["heard"]
    assert not torch.equal(heard[0], heard[1])


def test_schedules():
    s = Settings()
    steps = s.epochs * s.epoch_steps
    assert steps == 318_000
    assert learning_rate(s, 15_859, steps, 1000) == pytest.approx(1.2e-3, rel=1e-6)
    assert learning_rate(s, steps - 1, steps, 1000) == pytest.approx(1e-6, rel=1e-2)
    assert weight_decay(s, steps // 2, steps) == pytest.approx(0.22)
    small = ATSTClip.presets["paper_small"]
    assert (small.epochs * small.epoch_steps, small.warmup_epochs * small.epoch_steps) == (39_100, 1300)
    assert learning_rate(small, 1299, 39_100, 100) == pytest.approx(3e-3, rel=1e-6)
    assert (s.clip, s.eps, s.betas) == (None, 1e-6, (0.9, 0.999))
    method = made()
    free = {n for n, p in method.named_parameters() if not decays(n, p, True)}
    assert "encoder.trunk.pos_embed" not in free
    assert {"projector.1.weight", "encoder.trunk.norm.bias"} <= free


def test_what_cannot_be_is_said():
    assert "high = 7800: must lie between" in ATSTClip.problems(Settings(rate=8000))[0]
    assert recipe_problems(replace(TINY, size=43)) == []  # frames that fill no patch are left over
    assert "size = 4" not in " ".join(recipe_problems(replace(TINY, size=4)))
