"""ATST-Frame: hidden frames alone are compared, at the same place of both views."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit.data.recording import Recording
from tacit.engine import Progress
from tacit.engine.optim import learning_rate, weight_decay
from tacit.engine.schedules import cosine
from tacit.errors import UsageError
from tacit.methods.audio.atst_frame import ATSTFrame, Settings
from tacit.views import collate, finish, rng

TINY = replace(ATSTFrame.presets["small"], size=61, batch_size=6, hidden=32, out=16, bank=8, drop_path=0.0)
START = Progress(0, 20, 10)


def made(**changes) -> ATSTFrame:
    torch.manual_seed(0)
    return ATSTFrame(replace(TINY, **changes))


def batch(method: ATSTFrame, count: int = 6) -> list[dict[str, torch.Tensor]]:
    (view,), samples = method.views(), []
    for i in range(count):
        wave = 0.3 * np.sin(np.cumsum(0.1 + 0.05 * i + 0.1 * np.sin(np.arange(16_000) / 900))).astype(np.float32)
        recording = Recording(wave, 16_000)
        params = view.draw(rng(0, 0, i, 0), *recording.extent)
        crops = recording.crops([view.cut(params)])
        samples.append({"crops": crops, "params": [params], "index": i, "label": -1, "bad": []})
    return finish(collate(samples), [view])


def value(method: ATSTFrame, views) -> float:
    return float(sum(method.loss(views, START).terms.values()).detach())


def test_ten_seconds_are_250_frames_of_which_half_are_hidden():
    assert (Settings().inputs.samples, Settings().tokens) == (160_000, 250)
    with torch.device("meta"):
        method = ATSTFrame(Settings(bank=1))
        assert method.encoder.tokens(torch.empty(1, 1, 1001, 64)).shape == (1, 250, 768)
    assert method.encoder.trunk.pos_embed.shape == (1, 250, 768)
    assert method.encoder.trunk.cls_token is None
    assert "mean of the patch tokens" in method.encoder.feature
    (view,) = method.views()
    masks = np.stack([view.draw(rng(0, 0, i, 0), 320_000, 16_000)["mask"][:, 0] for i in range(400)])
    assert masks.shape == (400, 250)
    assert masks.mean() == pytest.approx(0.503, abs=0.01)


def test_the_first_view_is_untouched_and_the_second_keeps_its_time():
    method = made()
    (view,) = method.views()
    places = np.array([view.draw(rng(0, 0, i, 0), 32_000, 16_000)["place"] for i in range(300)])
    assert (places[:, 0] == 0).all()
    assert (places[:, 2] == 61).all()
    assert (places[:, 3] == 64).mean() == pytest.approx(0.5 / 0.9, abs=0.1)
    assert places[:, 3].min() >= int(0.6 * 64)
    seen = []
    method.teacher.register_forward_pre_hook(lambda *_: None)
    views = batch(method)
    method.backgrounds.hear(views[0]["image"][None, :, 0])
    tokens = method.teacher.tokens
    method.teacher.tokens = lambda x: seen.append(x) or tokens(x)
    value(method, views)
    first, second = seen[0].chunk(2)
    assert torch.equal(first, views[0]["image"])
    assert (first - second).abs().max() > 0.01
    silent = views[0] | {"loudness": torch.zeros(6), "place": torch.tensor([[0, 0, 61, 64]] * 6)}
    value(method, [silent])
    assert torch.allclose(*seen[1].chunk(2), atol=1e-5)


def test_only_hidden_frames_are_compared():
    method = made()
    views = batch(method)
    hidden = views[0]["mask"].flatten(1)
    before = value(method, views)
    tokens = method.teacher.tokens
    rows = torch.cat([hidden, hidden])

    def off(x, where):
        y = tokens(x).clone()
        y[where] += 3 * torch.sin(torch.arange(y[where].numel(), dtype=torch.float32)).view_as(y[where])
        return y

    method.teacher.tokens = lambda x: off(x, ~rows)
    assert value(method, views) == pytest.approx(before, abs=1e-6)
    method.teacher.tokens = lambda x: off(x, rows)
    assert abs(value(method, views) - before) > 1e-3
    method.teacher.tokens = tokens
    changed = views[0] | {"image": views[0]["image"].clone()}
    frames = hidden.repeat_interleave(4, 1)  # of what the student sees, hidden frames change only the teacher's
    changed["image"][:, 0, :60][~frames] += 0.5
    assert abs(value(method, [changed]) - before) > 1e-3


def test_the_student_does_not_see_what_is_hidden():
    method = made().eval()
    views = batch(method)
    mask = views[0]["mask"]
    other = views[0]["image"].clone()
    other[:, 0, :60][mask.flatten(1).repeat_interleave(4, 1)] += 1.0
    first, second = (method.mask_token(method.encoder, x, mask)[1] for x in (views[0]["image"], other))
    assert torch.equal(first, second)
    assert not torch.equal(method.teacher.tokens(views[0]["image"]), method.teacher.tokens(other))


def test_only_the_student_learns():
    method = made()
    step = method.loss(batch(method), START)
    sum(step.terms.values()).backward()
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_projector.parameters()))
    for part in (method.encoder, method.projector, method.predictor, method.mask_token):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    method.after_step([step.signals], START)
    assert int(method.backgrounds.heard) == 6
    assert method.handed_over is method.teacher


def test_nothing_hidden_is_refused():
    method = made()
    views = batch(method)
    with pytest.raises(UsageError, match="No frame is hidden"):
        method.loss([views[0] | {"mask": torch.zeros_like(views[0]["mask"])}], START)
    assert "mask_span = 9: 15 frames" in ATSTFrame.problems(replace(TINY, mask_span=9))[0]
    assert ATSTFrame.problems(replace(TINY, mask_span=9, mask="random")) == []


def test_frames_may_be_hidden_each_by_itself():
    (view,) = made(mask="random").views()
    counts = {int(view.draw(rng(0, 0, i, 0), 32_000, 16_000)["mask"].sum()) for i in range(20)}
    assert counts == {10}  # 15 frames, int(15 (1 - .65)) of them stay


def test_schedules():
    s = Settings()
    steps = s.epochs * s.epoch_steps
    assert steps == 398_000
    half = 19_900 + (steps - 19_900) // 2
    rates = [learning_rate(s, step, steps, 1000) for step in (19_899, half, steps - 1)]
    assert rates == pytest.approx([2.7e-4, 1.355e-4, 1e-6], rel=1e-3)
    assert cosine(steps // 2, steps, s.momentum, 1.0) == pytest.approx(0.9998)
    assert weight_decay(s, steps // 2, steps) == pytest.approx(0.22)
    small = ATSTFrame.presets["paper_small"]
    assert (small.epochs * small.epoch_steps, small.warmup_epochs * small.epoch_steps) == (58_500, 1950)
    assert learning_rate(small, 1949, 58_500, 1950) == pytest.approx(1.6e-3, rel=1e-6)
