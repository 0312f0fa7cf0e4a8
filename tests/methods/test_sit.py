"""The checks of the three published versions: numbers, order of events, where gradients go."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from tacit import encoders
from tacit.engine import Progress
from tacit.engine.optim import decays, learning_rate, optimiser, weight_decay
from tacit.methods.image.sit import Settings, SiT
from tacit.objectives import batch_info_nce, masked_l1, nt_xent
from tacit.views import Corrupted, Spoiled, Turned

START = Progress(step=0, steps=100, steps_per_epoch=10)
TINY = {"encoder": "vit_mini", "size": 16, "batch_size": 4, "hidden": 32, "out": 16, "drop_path": 0.0}


def tiny(preset: str = "small", **changes) -> SiT:
    torch.manual_seed(0)
    return SiT(dataclasses.replace(SiT.presets[preset], **TINY | changes))


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def batch(count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        clean, mask = torch.randn(count, 3, 16, 16, generator=g), torch.rand(count, 1, 16, 16, generator=g) < 0.4
        turn = torch.randint(0, 4, (count,), generator=g)
        found.append({"image": clean.masked_fill(mask, 0.0), "clean": clean, "mask": mask, "turn": turn})
    return found


def test_the_last_version_is_the_default():
    s = Settings()
    assert SiT.presets["paper"] == s
    assert (s.encoder, s.size, s.batch_size, s.epochs, s.lr, s.lr_batch) == ("deit_small", 224, 256, 800, 5e-4, 256)
    assert (s.fills, s.share, s.donor_share, s.align) == (("zeros",), 0.5, 0.3, 1)
    assert (s.contrast, s.temperature, s.momentum, s.hidden, s.out) == ("teacher", 0.2, 0.996, 4096, 256)
    assert (s.rotation, s.weighing, s.reconstruction_weight, s.masked_only) == (False, "fixed", 1.0, True)


def test_the_earlier_versions_differ_as_published():
    v1, v2 = SiT.presets["v1"], SiT.presets["v2"]
    assert (v1.corruption, v1.masked_only, v1.weighing, v1.head, v1.out) == (
        "spoiled",
        False,
        "log_variance",
        "linear",
        512,
    )
    assert (v1.batch_size, v1.lr, v1.lr_batch, v1.weight_decay, v1.weight_decay_end, v1.clip) == (
        288,
        1e-3,
        512,
        0.05,
        None,
        None,
    )
    assert (v2.fills, v2.share, v2.donor_share, v2.weighing, v2.hidden, v2.out) == (
        ("noise",),
        0.7,
        0.35,
        "deviation",
        2048,
        256,
    )
    assert v1.rotation
    assert v2.rotation
    assert v1.temperature == v2.temperature == 0.5


def test_the_schedules_of_the_last_version():
    """800 epochs of ten steps."""
    at = (0, 50, 99, 4000, 7999)
    assert [learning_rate(Settings(), n, 8000, 10) for n in at] == pytest.approx(
        [0, 2.52525e-4, 5e-4, 2.55461e-4, 1e-6], rel=1e-4
    )
    assert [weight_decay(Settings(), n, 8000) for n in (0, 4000, 7999)] == pytest.approx([0.04, 0.07, 0.1], rel=1e-5)
    method = tiny(momentum=0.996)
    assert [method.momentum(Progress(n, 8000, 10)) for n in (0, 4000, 7999)] == pytest.approx([0.996, 0.998, 1.0])


def test_contrast_within_the_batch_is_the_official_one():
    method = tiny("v1")
    for count, expected in ((2, 0.239545), (4, 0.594438)):
        z = torch.eye(count).repeat(2, 1)
        assert float(method.contrast(z, z)[0]) == pytest.approx(expected, abs=1e-6)
    assert float(method.contrast(torch.ones(8, 3), torch.ones(8))[0]) == pytest.approx(math.log(7), abs=1e-6)
    z = torch.cat([wave(4, 8), wave(4, 8, phase=0.5)])
    assert float(method.contrast(z, z)[0]) == pytest.approx(1.0041561, abs=1e-6)  # v1 and v2 alike


def test_contrast_with_the_teacher_is_the_official_one():
    def total(q: torch.Tensor, k: torch.Tensor) -> float:
        method = tiny()
        method.teacher = torch.nn.Identity()
        method.teacher_projector = torch.nn.Identity()
        return float(method.contrast(q, k)[0])

    for count, expected in ((2, 0.0053723), (4, 0.0160098)):
        assert total(torch.eye(count).repeat(2, 1), torch.eye(count).repeat(2, 1)) == pytest.approx(expected, abs=1e-6)
    assert total(torch.ones(4, 3), torch.ones(4, 3)) == pytest.approx(4 * 0.2 * math.log(2), abs=1e-6)
    assert total(wave(8, 16), wave(8, 16, phase=0.5)) == pytest.approx(5.0179968, abs=1e-5)


def test_the_teacher_sees_clean_views_and_the_student_spoilt_ones():
    method = tiny()
    views = batch()
    step = method.loss(views, START)
    q = method.projector(method.encoder(torch.cat([v["image"] for v in views]))).chunk(2)
    k = method.teacher_projector(method.teacher(torch.cat([v["clean"] for v in views]))).chunk(2)
    expected = batch_info_nce(q[0], k[1], 0.2) + batch_info_nce(q[1], k[0], 0.2)
    torch.testing.assert_close(step.terms["contrast"], expected)
    restored = method.decoder(method.encoder.tokens(torch.cat([v["image"] for v in views])))
    l1 = masked_l1(restored, torch.cat([v["clean"] for v in views]), torch.cat([v["mask"] for v in views]))
    torch.testing.assert_close(step.terms["reconstruction"], 5 * l1)


def test_gradients_of_a_task_stay_out_of_the_others_heads_and_of_the_teacher():
    method = tiny()
    terms = method.loss(batch(), START).terms
    terms["reconstruction"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.projector.parameters())
    assert all(p.grad is not None for p in method.decoder.parameters())
    assert method.encoder.trunk.cls_token.grad.abs().sum() > 0  # through attention
    method.zero_grad()
    terms["contrast"].backward()
    assert all(p.grad is None for p in method.decoder.parameters())
    assert all(p.grad is not None for p in method.projector.parameters())
    for part in (method.teacher, method.teacher_projector):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())


def test_the_teacher_follows_after_the_update_with_this_steps_momentum():
    method = tiny(momentum=0.9)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    slow, fast = method.teacher.trunk.pos_embed.clone(), method.encoder.trunk.pos_embed.clone()
    head, online = method.teacher_projector[0].weight.clone(), method.projector[0].weight.clone()
    method.after_step([], START)
    torch.testing.assert_close(method.teacher.trunk.pos_embed, 0.9 * slow + 0.1 * fast)
    torch.testing.assert_close(method.teacher_projector[0].weight, 0.9 * head + 0.1 * online)


def test_the_teacher_normalises_by_its_own_batch_and_drops_no_path():
    method = tiny(drop_path=0.5).train()
    x = torch.randn(4, 3, 16, 16)
    assert not torch.equal(method.encoder(x), method.encoder(x))
    assert torch.equal(method.teacher(x), method.teacher(x))
    method.loss(batch(), START)
    norm = method.teacher_projector[1]
    assert norm.training
    assert int(norm.num_batches_tracked) == 1
    assert not torch.equal(norm.running_mean, method.projector[1].running_mean)


@pytest.mark.parametrize(("preset", "whole"), [("v1", True), ("v2", False)])
def test_the_earlier_versions_weigh_three_tasks_by_what_they_learn(preset, whole):
    method = tiny(preset)
    views = batch()
    step = method.loss(views, START)
    assert list(step.terms) == ["reconstruction", "contrast", "rotation"]
    tokens = method.encoder.trunk.forward_features(torch.cat([v["image"] for v in views]))
    assert tokens.shape[1] == 2 + 16
    clean, mask = (torch.cat([v[name] for v in views]) for name in ("clean", "mask"))
    raw = {
        "reconstruction": masked_l1(method.decoder(tokens[:, 2:]), clean, None if whole else mask),
        "contrast": nt_xent(*method.projector(tokens[:, 0]).chunk(2), 0.5) / 2,
        "rotation": F.cross_entropy(method.rotation_head(tokens[:, 1]), torch.cat([v["turn"] for v in views])),
    }
    for name, task in raw.items():
        torch.testing.assert_close(step.signals[f"metric/{name}"], task.detach())
        if preset == "v2":
            expected = 0.5 * task + math.log(2)
        else:
            expected = math.exp(-0.5 if name == "reconstruction" else -1) * task + 0.5
        torch.testing.assert_close(step.terms[name], expected)
    sum(step.terms.values()).backward()
    assert all(w.grad is not None for w in method.weights.values())
    assert method.encoder.trunk.reg_token.grad.abs().sum() > 0
    assert not hasattr(method, "teacher")


def test_the_rotation_head_alone_reads_its_token():
    method = tiny("v1")
    method.loss(batch(), START).terms["rotation"].backward()
    assert all(p.grad is not None for p in method.rotation_head.parameters())
    assert all(p.grad is None for p in (*method.projector.parameters(), *method.decoder.parameters()))
    assert float(method.encoder.trunk.reg_token.detach().std()) == pytest.approx(0.02, rel=0.3)


def test_the_first_version_decays_neither_positions_nor_tokens_the_others_do():
    for preset, positions in (("v1", False), ("v2", True)):
        method = tiny(preset)
        names = {n for n, p in method.named_parameters() if decays(n, p, method.s.decay_positions)}
        tokens = {f"encoder.trunk.{name}" for name in ("pos_embed", "cls_token", "reg_token")}
        assert (tokens <= names) is positions
        assert tokens.isdisjoint(names) is not positions
        assert not any(n.startswith("weights") for n in names)
        assert optimiser(method, method.s).param_groups[1]["weight_decay"] == 0


def test_the_views_of_the_versions():
    def crops(preset: str) -> list:
        views = tiny(preset, blur_sigma=(0.1, 2.0)).views()
        return views, [v.crop.crop if isinstance(v.crop, Turned) else v.crop for v in views]

    views, (a, b) = crops("paper")
    assert all(isinstance(v, Corrupted) and not isinstance(v.crop, Turned) for v in views)
    assert (a.scale, a.jitter, a.jitter_p, a.gray_p) == ((0.2, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2)
    assert (a.blur_p, a.solarize_p, b.blur_p, b.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    views, (a, b) = crops("v2")
    assert all(isinstance(v, Corrupted) and isinstance(v.crop, Turned) for v in views)
    assert (a.jitter, a.jitter_p, a.gray_p, a.blur_p, a.solarize_p) == ((0.1, 0.1, 0.1, 0.01), 0.3, 0, 0.1, 0)
    assert (b.jitter_p, b.gray_p, b.blur_p, b.solarize_p) == (0.8, 0.2, 1.0, 0.2)
    views, (a, b) = crops("v1")
    assert all(isinstance(v, Spoiled) and isinstance(v.crop, Turned) for v in views)
    assert (a.scale, a.jitter, a.jitter_p, a.gray_p, a.blur_p) == ((0.08, 1.0), (0.4, 0.4, 0.4, 0.0), 1.0, 0, 0)
    assert a.inputs.interpolation == "bicubic"


def test_what_it_shows_and_hands_over(tmp_path):
    for preset in ("small", "v1"):
        method = tiny(preset).eval()
        views = batch()
        shown = method.reconstructions(views)
        assert list(shown) == ["input", "masked", "reconstruction"]
        assert all(x.shape == (4, 3, 16, 16) and not x.requires_grad for x in shown.values())
        method.hand_over(tmp_path / preset)
        loaded = encoders.load(tmp_path / preset / "encoder")
        assert torch.equal(loaded(views[0]["image"]), method.encoder(views[0]["image"]))
        assert loaded.feature == "class token after the last norm"


def test_what_cannot_work_is_said_first():
    def said(**changes) -> str:
        return " ".join(SiT.problems(dataclasses.replace(SiT.presets["small"], **changes)))

    assert "fills = zeroes" in said(fills=("zeroes",))
    assert "must divide" in said(align=5)
    assert "unbiased=true" in said(align=8, share=0.75)
    assert said(align=5, corruption="spoiled") == ""


def test_after_other_weights_are_loaded_the_teacher_starts_from_them():
    method = tiny()
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_init()
    pairs = zip(method.encoder.parameters(), method.teacher.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
