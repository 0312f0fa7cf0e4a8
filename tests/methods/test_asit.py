"""ASiT: closed forms of its three losses, which excerpt meets which, and the official losses' values."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tacit.data.recording import Recording
from tacit.engine import Progress
from tacit.engine.optim import learning_rate, weight_decay
from tacit.engine.recipe import problems as recipe_problems
from tacit.engine.schedules import by_epoch, cosine
from tacit.methods.audio.asit import ASiT, Settings
from tacit.objectives import across_views, mean_in_parts, sharpen, soft_cross_entropy
from tacit.teachers import Center
from tacit.views import collate, finish, rng

TINY = replace(
    ASiT.presets["small"], size=16, mels=16, batch_size=6, prototypes=32, patch_prototypes=16, hidden=32,
    bottleneck=16, decoder_widths=(16,),
)  # fmt: skip


def made(seed: int = 0, **changes) -> ASiT:
    torch.manual_seed(seed)
    return ASiT(replace(TINY, **changes))


def batch(method: ASiT, count: int = 6, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    pipelines, samples = method.views(), []
    for i in range(count):
        wave = 0.3 * np.sin(np.cumsum(0.2 + 0.1 * i + 0.1 * np.sin(np.arange(9000) / 900))).astype(np.float32)
        recording = Recording(wave, 8000)
        params = [v.draw(rng(0, epoch, i, getattr(v, "of", n)), *recording.extent) for n, v in enumerate(pipelines)]
        crops = recording.crops([v.cut(p) for v, p in zip(pipelines, params, strict=True)])
        samples.append({"crops": crops, "params": params, "index": i, "label": -1, "bad": []})
    return finish(collate(samples), pipelines)


def waves(rows: int, width: int, a: float, b: float) -> torch.Tensor:
    return torch.sin(a * torch.arange(rows * width, dtype=torch.float32) + b).view(rows, width)


def test_the_official_losses():
    """losses.py of Sara-Ahmed/ASiT, two steps of each: the second uses the center that the first left."""
    said, taught = waves(6, 8, 0.7, 0.1), waves(6, 8, 1.3, 0.5)
    center = Center(8)
    for epoch, views, patches in (
        (0, 7.922605514526367, 10.988005638122559),
        (15, 8.440997123718262, 10.588166236877441),
    ):
        t = by_epoch(epoch, 0.04, 0.07, 30)
        wanted = sharpen(taught, t, center.center)
        assert float(across_views(wanted.chunk(2), said.chunk(2), 0.1)) == pytest.approx(views, abs=1e-5)
        assert float(soft_cross_entropy(wanted, said, 0.1)) == pytest.approx(patches, abs=1e-5)
        center.update(taught)
    assert center.center[0, :3].tolist() == pytest.approx([0.0075211693, 0.0035076654, -0.0056446311], abs=1e-7)


def test_outputs_of_zero_cost_the_logarithm_of_their_number():
    wanted = sharpen(waves(4, 8192, 0.3, 0.2), 0.04)
    assert float(across_views(wanted.chunk(2), torch.zeros(4, 8192).chunk(2), 0.1)) == pytest.approx(9.010913, abs=1e-5)
    rows = sharpen(waves(6, 1024, 0.3, 0.2), 0.07)
    assert float(soft_cross_entropy(rows, torch.zeros(6, 1024), 0.1)) == pytest.approx(6.931472, abs=1e-5)
    wanted = sharpen(torch.tensor([[0.1, 0, 0]]), 0.04)
    assert wanted[0].tolist() == pytest.approx([0.858981, 0.070509, 0.070509], abs=1e-6)
    assert float(soft_cross_entropy(wanted, torch.tensor([[0.1, 0, 0]]), 0.1)) == pytest.approx(0.692464, abs=1e-6)


def test_excerpts_meet_the_other_and_patches_their_own():
    taught = 3 * torch.eye(8)[:6]  # both excerpts of three recordings
    wanted = sharpen(taught, 0.1)
    crossed = taught.roll(3, 0)  # the student says of excerpt b what the teacher says of a
    crosswise = float(across_views(wanted.chunk(2), crossed.chunk(2), 0.1))
    same = float(across_views(wanted.chunk(2), taught.chunk(2), 0.1))
    assert crosswise < 0.01 < 10 < same
    assert float(soft_cross_entropy(wanted, taught, 0.1)) < 0.01
    turned = torch.tensor([3, 4, 5, 0, 1, 2])
    rows = soft_cross_entropy(wanted, crossed, 0.1)
    assert float(soft_cross_entropy(wanted[turned], crossed[turned], 0.1)) == pytest.approx(float(rows), abs=1e-6)


@pytest.mark.parametrize("part", [1, 7, 24, 100])
def test_patches_in_parts_are_the_same_loss_and_gradient(part):
    weight = torch.nn.Parameter(waves(16, 8, 0.9, 0.3))
    x, wanted = waves(30, 8, 0.7, 0.1).requires_grad_(), sharpen(waves(30, 16, 1.3, 0.5), 0.1)

    def loss(said, seen):
        return soft_cross_entropy(seen, said @ weight.T, 0.1)

    values = []
    for size in (0, part):
        total = mean_in_parts(loss, size, x, wanted)
        values.append((total.detach(), *torch.autograd.grad(total, [weight, x])))
    for whole, split in zip(*values, strict=True):
        assert torch.allclose(whole, split, atol=1e-6)


def test_chunks_change_nothing_of_a_step():
    views = batch(made())
    terms = [made(chunk=chunk).loss(views, Progress(0, 20, 10)).terms for chunk in (0, 5)]
    for name in ("reconstruction", "views", "patches"):
        assert float(terms[0][name].detach()) == pytest.approx(float(terms[1][name].detach()), abs=1e-5)


def test_shapes_and_the_weight_of_reconstruction():
    method = made()
    views = batch(method)
    assert views[0]["image"].shape == views[0]["clean"].shape == views[0]["mask"].shape == (6, 1, 16, 16)
    assert torch.equal(views[0]["image"][~views[0]["mask"]], views[0]["clean"][~views[0]["mask"]])
    step = method.loss(views, Progress(0, 20, 10))
    drawn = method.decoder(method.encoder.tokens(torch.cat([v["image"] for v in views])))
    clean, mask = (torch.cat([v[n] for v in views]) for n in ("clean", "mask"))
    method.eval()
    assert drawn.shape == clean.shape
    assert step.signals["targets"].shape == (6, 32)
    shown = method.reconstructions(views)
    assert [tuple(x.shape) for x in shown.values()] == [(6, 1, 16, 16)] * 3
    plain = made(drop_path=0.0)
    twice = plain.loss(views, Progress(0, 20, 10)).terms["reconstruction"]
    drawn = plain.decoder(plain.encoder.tokens(torch.cat([v["image"] for v in views])))
    assert float(twice.detach()) == pytest.approx(2 * float((drawn - clean).abs()[mask].mean().detach()), abs=1e-5)


def test_the_paper_reads_592_frames_of_128_bands_at_32_khz():
    with torch.device("meta"):
        method = ASiT(Settings())
    inputs = method.encoder.inputs
    assert (inputs.shape, inputs.rate, inputs.channels) == ((592, 128), 32_000, 1)
    assert method.encoder.trunk.pos_embed.shape[1] == 297
    assert method.decoder.rows == 37
    assert {name: tuple(layer.weight_v.shape) for name, layer in method.head.last_layer.items()} == {
        "view": (8192, 256), "patch": (1024, 256),
    }  # fmt: skip
    assert not any(layer.weight_g.requires_grad for layer in method.head.last_layer.values())
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in method.modules())


def test_only_the_student_has_gradients_and_the_teacher_follows():
    method = made()
    progress = Progress(5, 20, 10)
    step = method.loss(batch(method), progress)
    sum(step.terms.values()).backward()
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_head.parameters()))
    assert all(p.grad is not None for p in method.head.parameters() if p.requires_grad)
    before = [p.clone() for p in method.teacher_head.parameters()]
    with torch.no_grad():
        for p in method.parameters():
            if p.requires_grad:
                p.add_(0.1)
    method.after_step([step.signals], progress)
    m = cosine(5, 20, 0.99, 1.0)
    for new, old, student in zip(method.teacher_head.parameters(), before, method.head.parameters(), strict=True):
        assert torch.allclose(new, m * old + (1 - m) * student, atol=1e-6)
    assert all((layer.weight_g == 1).all() for layer in method.teacher_head.last_layer.values())


def test_the_loss_uses_the_center_of_the_steps_before():
    method = made()
    views, progress = batch(method), Progress(0, 20, 10)
    with torch.no_grad():
        first = method.loss(views, progress)
        again = method.loss(views, progress)
        clean = torch.cat([v["clean"] for v in views])
        seen, tokens = method.teacher.features_and_tokens(clean)
        raw = {"view": method.teacher_head(seen, "view"), "patch": method.teacher_head(tokens, "patch").flatten(0, 1)}
    method.eval()
    assert method.centers["view"].center.abs().sum() == 0  # not yet, whatever was computed
    assert float(again.terms["views"]) == pytest.approx(float(first.terms["views"]), abs=0.5)
    method.after_step([first.signals], progress)
    for name, rows in raw.items():
        expected = 0.1 * rows.mean(0, keepdim=True)
        assert torch.allclose(method.centers[name].center, expected, atol=1e-6)


def test_schedules():
    """Dossier: 100 epochs of 10 steps, 256 records a step."""
    s = replace(Settings(), batch_size=256)
    rates = [learning_rate(s, step, 1000, 10) for step in (50, 99, 500, 999)]
    assert rates == pytest.approx([2.52525e-4, 5e-4, 2.93825e-4, 1.00152e-6], rel=2e-5)
    assert [weight_decay(s, step, 1000) for step in (0, 500, 999)] == pytest.approx([0.04, 0.22, 0.4], abs=1e-5)
    ramp = (s.teacher_temperature_start, s.teacher_temperature, s.teacher_temperature_epochs)
    found = [by_epoch(epoch, *ramp) for epoch in (0, 10, 15, 29, 30)]
    assert found == pytest.approx([0.04, 0.050345, 0.055517, 0.07, 0.07], abs=1e-6)
    assert (s.freeze_last_layer, s.reconstruction_weight) == (0.0, 2.0)


def test_prototypes_are_held_only_when_asked_for():
    for epochs, held in ((0.0, False), (1.0, True)):
        method = made(freeze_last_layer=epochs)
        sum(method.loss(batch(method), Progress(0, 20, 10)).terms.values()).backward()
        method.before_update(Progress(0, 20, 10))
        assert (method.head.last_layer["view"].weight_v.grad is None) is held


def test_half_of_the_excerpts_are_overwritten_by_another_recording():
    view = made().views()[0]
    kinds = np.array([view.draw(rng(0, 0, i, 0), 9000, 8000)["kind"] for i in range(1200)])
    assert abs((kinds == 1).mean() - 0.5) < 3 * 0.5 / math.sqrt(1200)
    assert view.kinds == ("zeros", "donor")
    fixed = ASiT.presets["noise_fixed"]
    assert (fixed.fills, fixed.noise) == (("noise",), (0.0, 0.5))
    assert Settings().noise == (-4.2677393, 4.5689974)  # of raw energies, as in the official code


def test_reconstruction_alone_has_no_teacher():
    method = made(view_weight=0.0, patch_weight=0.0)
    assert not hasattr(method, "teacher")
    assert "mean of the patch tokens" in method.encoder.feature
    step = method.loss(batch(method), Progress(0, 20, 10))
    assert set(step.terms) == {"reconstruction"}
    sum(step.terms.values()).backward()
    method.before_update(Progress(0, 20, 10))
    method.after_step([step.signals], Progress(0, 20, 10))
    assert method.handed_over is method.encoder
    assert "All weights are 0" in ASiT.problems(replace(method.s, reconstruction_weight=0.0))[0]


def test_what_cannot_be_tiled_is_said():
    assert "size = 598" in recipe_problems(Settings(size=598))[0]
    assert "mels = 100" in recipe_problems(Settings(mels=100))[0]
    assert "max_block" in ASiT.problems(replace(TINY, mels=4))[0]
