"""DINO against its paper and official code: what is compared with what, what moves when, how collapse looks."""

import dataclasses
import math

import pytest
import torch

from tacit.engine import Progress
from tacit.engine.monitors import health
from tacit.methods.image.dino import DINO, Settings, teacher_temperature
from tacit.views import rng

START = Progress(step=0, steps=100, steps_per_epoch=10)
LATER = Progress(step=10, steps=100, steps_per_epoch=10)


def tiny(**changes) -> DINO:
    torch.manual_seed(0)
    return DINO(dataclasses.replace(DINO.presets["small"], size=16, batch_size=4, **(DINO.tiny | changes)))


def batch(method: DINO, seed: int = 0, count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [{"image": torch.randn(count, 3, v.inputs.size, v.inputs.size, generator=g)} for v in method.views()]


def terms_by_hand(method: DINO, views) -> torch.Tensor:
    s = method.s
    total, pairs = 0.0, 0
    for i in (0, 1):
        t = method.teacher_head(method.teacher(views[i]["image"]))
        p = torch.softmax((t - method.center.center) / s.teacher_temperature, -1)
        for v in range(len(views)):
            if v != i:
                q = torch.log_softmax(method.head(method.encoder(views[v]["image"])) / s.student_temperature, -1)
                total, pairs = total - (p * q).sum(-1).mean(), pairs + 1
    return total / pairs


def test_the_paper_is_the_default():
    s = Settings()
    assert DINO.presets["paper"] == s
    assert (s.encoder, s.size, s.local_size, s.local_crops) == ("deit_small", 224, 96, 8)
    assert (s.batch_size, s.epochs, s.lr, s.lr_batch) == (512, 100, 5e-4, 256)
    assert (s.weight_decay, s.weight_decay_end, s.clip, s.clip_by) == (0.04, 0.4, 3, "tensor")
    assert (s.prototypes, s.hidden, s.bottleneck, s.norm_last_layer) == (65536, 2048, 256, True)
    assert (s.momentum, s.student_temperature, s.teacher_temperature, s.drop_path) == (0.996, 0.1, 0.04, 0.1)


def test_the_published_parameter_counts():
    method = DINO(Settings())
    assert sum(p.numel() for p in method.head.parameters() if p.requires_grad) - 16_777_216 == 5_509_376
    assert sum(p.numel() for p in method.encoder.parameters()) == 21_665_664


def test_the_loss_is_the_mean_over_all_pairs_of_different_views():
    method = tiny(drop_path=0.0)
    with torch.no_grad():
        method.center.center.normal_(std=0.01)
    views = batch(method)
    assert len(views) == 6
    loss = method.loss(views, LATER).terms["views"]
    torch.testing.assert_close(loss, terms_by_hand(method, views), rtol=1e-5, atol=1e-6)


def test_small_crops_may_change_places_and_a_shift_of_logits_and_center_changes_nothing():
    method = tiny(drop_path=0.0)
    views = batch(method)
    loss = method.loss(views, LATER).terms["views"]
    torch.testing.assert_close(method.loss([*views[:2], *views[:1:-1]], LATER).terms["views"], loss)
    # a uniform student makes the teacher irrelevant: log K
    with torch.no_grad():
        for p in method.head.last_layer.parameters():
            p.zero_()
        method.head.last_layer.weight_v.fill_(1.0)
    value = float(method.loss(views, LATER).terms["views"].detach())
    assert value == pytest.approx(math.log(32), abs=1e-5)


def test_gradients_reach_the_student_through_every_crop_and_never_the_teacher():
    method = tiny(norm_last_layer=False)
    views = batch(method)
    for view in views:
        view["image"].requires_grad_(True)
    method.loss(views, LATER).terms["views"].backward()
    assert all(view["image"].grad.abs().sum() > 0 for view in views)
    assert all(p.grad is not None for m in (method.encoder, method.head) for p in m.parameters())
    assert not any(p.requires_grad for m in (method.teacher, method.teacher_head) for p in m.parameters())


def test_the_prototypes_wait_for_an_epoch():
    method = tiny(freeze_last_layer=1.0, norm_last_layer=False)
    for progress, waits in ((START, True), (Progress(9, 100, 10), True), (LATER, False)):
        method.zero_grad()
        method.loss(batch(method), progress).terms["views"].backward()
        method.before_update(progress)
        assert all((p.grad is None) == waits for p in method.head.last_layer.parameters())
        assert all(p.grad is not None for p in method.head.mlp.parameters())


def test_center_and_teacher_move_after_the_step():
    method = tiny(momentum=0.9, drop_path=0.0)
    with torch.no_grad():
        for p in [*method.encoder.parameters(), *method.head.mlp.parameters()]:
            p.add_(0.01 * torch.randn_like(p))
    before = [p.clone() for p in method.teacher.parameters()]
    views = batch(method)
    step = method.loss(views, START)
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    assert not method.center.center.any()
    logits = torch.cat([method.teacher_head(method.teacher(v["image"])) for v in views[:2]])
    method.after_step([step.signals], START)
    torch.testing.assert_close(method.center.center, 0.1 * logits.mean(0, keepdim=True))
    m = method.momentum(START)
    for t, old, online in zip(method.teacher.parameters(), before, method.encoder.parameters(), strict=True):
        torch.testing.assert_close(t, m * old + (1 - m) * online)
    assert method.handed_over is method.teacher


def test_temperature_by_epoch_and_momentum_by_step():
    s = DINO.presets["boosted"]
    at = [teacher_temperature(s, Progress(int(e * 10), 3000, 10)) for e in (0, 0.9, 29, 30, 200)]
    assert at == pytest.approx([0.04, 0.04, 0.07, 0.07, 0.07])
    assert teacher_temperature(s, Progress(10, 3000, 10)) == pytest.approx(0.04 + 0.03 / 29)
    method = tiny(momentum=0.996)
    assert method.momentum(Progress(125_100, 250_200, 2502)) == pytest.approx(0.998)
    assert method.momentum(Progress(0, 250_200, 2502)) == pytest.approx(0.996)


def test_the_views_are_the_papers():
    views = DINO.views(tiny(local_crops=8, local_area=(0.05, 0.4)))
    assert [v.inputs.size for v in views] == [16] * 2 + [8] * 8
    assert all(v.inputs.interpolation == "bicubic" for v in views)
    drawn = [[v.draw(rng(0, 0, i, n), 100, 100) for i in range(1000)] for n, v in enumerate(views[:3])]
    blurs = [sum(p["blur"] > 0 for p in ps) / 1000 for ps in drawn]
    assert blurs[0] == 1.0
    assert blurs[1:] == [pytest.approx(0.1, abs=0.03), pytest.approx(0.5, abs=0.05)]
    solarised = [sum(p["solarize"] for p in ps) / 1000 for ps in drawn]
    assert solarised == [0, pytest.approx(0.2, abs=0.04), 0]
    areas = [[p["height"] * p["width"] / 1e4 for p in ps] for ps in drawn]
    assert min(areas[0]) > 0.37
    assert max(areas[2]) < 0.43


def run(method: DINO, steps: int, lr: float = 1e-3) -> list[dict[str, float]]:
    torch.manual_seed(1)
    solver = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    seen = []
    for i in range(steps):
        progress = Progress(i, 10 * steps, max(steps // 4, 1))
        step = method.loss(batch(method, seed=i % 4, count=16), progress)
        solver.zero_grad()
        step.terms["views"].backward()
        method.before_update(progress)
        solver.step()
        method.after_step([step.signals], progress)
        seen.append(health(step.signals))
    return seen


def test_collapse_without_centring_is_one_prototype_and_without_sharpening_all_of_them():
    quick = {"momentum": 0.9, "freeze_last_layer": 0}
    no_center = run(tiny(centering=False, **quick), 60)[-1]
    too_flat = run(tiny(teacher_temperature=1.0, **quick), 60)[-1]
    assert no_center["target_information"] < 0.1
    assert no_center["prototype_entropy"] < 0.5
    assert too_flat["target_information"] < 0.02
    assert too_flat["target_entropy"] == pytest.approx(math.log(32), rel=0.02)


def test_a_crop_that_is_no_whole_number_of_patches_is_refused():
    (problem,) = DINO.problems(dataclasses.replace(DINO.presets["small"], local_size=15))
    assert "local_size = 15: must be a multiple of the patch size of vit_mini" in problem


@pytest.mark.parametrize("encoder", ["swin_mini", "resnet_mini"])
def test_other_trunks(encoder):
    method = tiny(encoder=encoder, local_size=8)
    loss = method.loss(batch(method), START).terms["views"]
    loss.backward()
    assert torch.isfinite(loss)
