"""TOV-VICReg against its paper and official code: terms, orders, where gradients go, inputs that fill no patch."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import tacit
from benchmarks.sprites import episode, write_episodes
from tacit import encoders
from tacit.data import open_source
from tacit.engine import Progress
from tacit.engine.monitors import health
from tacit.engine.optim import learning_rate
from tacit.errors import DataError, UsageError
from tacit.export import export
from tacit.heads import mlp
from tacit.methods.image.tov_vicreg import Settings, TOVVICReg
from tacit.views import Views, collate, finish, rng

START = Progress(step=0, steps=100, steps_per_epoch=10)
ORDERED = ("now_before_after", "now_after_before", "before_now_after", "before_after_now", "after_now_before",
           "after_before_now")  # fmt: skip


def tiny(**changes) -> TOVVICReg:
    torch.manual_seed(0)
    return TOVVICReg(dataclasses.replace(TOVVICReg.presets["small"], size=16, **(TOVVICReg.tiny | changes)))


def batch(count: int = 4, size: int = 16, channels: int = 3) -> list[dict[str, torch.Tensor]]:
    shape = (4, count, channels, size, size)
    images = torch.sin(torch.arange(math.prod(shape)).float()).view(shape) / 2 + 0.5
    return [{"image": image} for image in images]


def terms(method: TOVVICReg, views, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return method.loss(views, START).terms


def test_the_paper_is_the_default():
    s = Settings()
    assert TOVVICReg.presets["paper"] == s
    assert (s.encoder, s.size, s.patch, s.positions) == ("vit_tiny_patch16_224", 84, 8, 224)
    assert (s.batch_size, s.epochs, s.lr, s.lr_batch, s.warmup_epochs) == (512, 10, 0.6, 256, 2)
    assert (s.optimizer, s.trust, s.sgd_momentum, s.weight_decay) == ("lars", 1e-3, 0.9, 1e-6)
    assert (s.invariance, s.variance, s.covariance, s.order, s.hidden, s.out) == (10, 10, 10, 0.1, 1024, 1024)
    code = TOVVICReg.presets["code"]
    assert (code.invariance, code.variance, code.covariance, code.order) == (25, 25, 1, 1)


def test_the_rate_by_epoch():
    at = [learning_rate(Settings(), int(e * 5859), 58590, 5859) for e in (0, 1, 2, 6, 10)]
    assert at == pytest.approx([0, 0.6, 1.2, 0.6, 0], abs=1e-9)


def of_vectors(width: int, **changes) -> TOVVICReg:
    """The method on images [B, width, 1, 1], which are their own features."""
    method = tiny(**changes)
    method.encoder, method.order_head = torch.nn.Flatten(), torch.nn.Linear(3 * width, 1)
    return method


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[1.0, 0.0], [-1.0, 0.0]], (0, 0.495, 0)), ([[1.0, 1.0], [-1.0, -1.0]], (0, 0, 8))],
)
def test_the_closed_forms_of_the_three_terms(rows, expected):
    method = of_vectors(2, invariance=1.0, variance=1.0, covariance=1.0)
    method.projector = torch.nn.Identity()
    found = terms(method, [{"image": torch.tensor(rows).view(2, 2, 1, 1)}] * 4)
    values = [float(found[name].detach()) for name in ("invariance", "variance", "covariance")]
    assert values == pytest.approx(expected, abs=1e-6)


def test_a_head_of_zeros_and_one_that_knows_the_shares():
    """With bias ln 5 a right row costs ln 6 and a wrong one ln 6/5, so the mean tells how many were right."""
    method, views = of_vectors(2, order=1.0), batch(6000, size=1, channels=2)
    torch.nn.init.zeros_(method.order_head.weight)
    torch.nn.init.zeros_(method.order_head.bias)
    method.projector = torch.nn.Identity()
    assert float(terms(method, views)["order"].detach()) == pytest.approx(math.log(2))
    torch.nn.init.constant_(method.order_head.bias, math.log(5))
    step = method.loss(views, START)
    share = (float(step.terms["order"].detach()) - math.log(6 / 5)) / math.log(5)
    assert share == pytest.approx(1 / 6, abs=3 * (5 / 36 / 6000) ** 0.5)
    assert float(step.signals["metric/order_accuracy"]) == 0.5


def test_where_gradients_go():
    method, views = tiny(), batch()
    for view in views:
        view["image"].requires_grad_(True)
    terms(method, views)["order"].backward(retain_graph=True)
    assert method.order_head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.projector.parameters())
    assert method.encoder.trunk.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    x, y, z, w = (view["image"] for view in views)
    assert all(image.grad.abs().sum() > 0 for image in (x, z, w))
    assert not y.grad.abs().sum()
    for image in (x, y, z, w):
        image.grad = None
    found = terms(method, views)
    (found["invariance"] + found["variance"] + found["covariance"]).backward()
    assert all(image.grad.abs().sum() > 0 for image in (x, y))
    assert not z.grad.abs().sum()
    assert not w.grad.abs().sum()


@pytest.mark.parametrize(("chronological", "first"), [(False, "now_before_after"), (True, "before_now_after")])
def test_the_head_that_prefers_an_order_is_seen_to(chronological, first):
    """Features that are the time of their stack, and a head that weighs them: it is right where time alone decides."""
    method = tiny(chronological=chronological)
    slots = torch.tensor([[-1.0, 0, 1]] if chronological else [[0.0, -1, 1]]).unsqueeze(2).repeat(4, 1, 1)
    method.order_head = torch.nn.Linear(3, 1)
    with torch.no_grad():  # the last slot's time counts against the second's
        method.order_head.weight.copy_(torch.tensor([[0.0, 1.0, -1.0]]))
        method.order_head.bias.fill_(math.log(5) + (1.5 if not chronological else 0.5))
    found = {name.removeprefix("metric/order_"): float(v) for name, v in method.judged(slots).items()}
    assert set(found) == {"accuracy", "time", *ORDERED}
    assert found[first] == 1
    assert found["time"] == 1
    assert method.judged(-slots)["metric/order_time"] == 0
    others = [v for name, v in found.items() if name in ORDERED and name != first]
    assert found["accuracy"] == pytest.approx((1 + sum(others) / 5) / 2)


def test_the_official_loss():
    """`TOVVICReg.forward` of mgoulao/TOV-VICReg on the same weights, inputs and drawn orders."""
    method = of_vectors(6, order=0.1)
    method.projector = mlp(6, 8, 5, 3, last_bias=False)
    parameters = [p for m in (method.projector, method.order_head) for p in m.parameters()]
    offsets = [*range(1, 10), 9, 10]
    with torch.no_grad():
        for p, k in zip(parameters, offsets, strict=True):
            p.copy_(torch.sin(torch.arange(p.numel()).float() + k).view_as(p))
    found = {name: float(v.detach()) for name, v in terms(method, batch(12, size=1, channels=6)).items()}
    official = {"invariance": 15.598316, "variance": 3.799673, "covariance": 13.617957, "order": 0.17436732}
    assert found == pytest.approx(official, rel=1e-5)


def test_the_metrics_reach_the_log():
    values = health(tiny().loss(batch(), START).signals)
    assert {f"metric/order_{name}" for name in ("accuracy", "time", *ORDERED)} <= set(values)
    assert 0 <= values["metric/order_time"] <= 1


def test_the_views_are_the_papers():
    x, y, z, w = TOVVICReg(dataclasses.replace(TOVVICReg.presets["small"], min_area=0.08, **TOVVICReg.tiny)).views()
    assert [v.field for v in (x, y, z, w)] == ["image", "image", "previous", "next"]
    assert all(v.inputs.mean == (0, 0, 0) and v.inputs.std == (1, 1, 1) for v in (x, y, z, w))
    drawn = [[v.draw(rng(0, 0, i, n), 84, 84) for i in range(1000)] for n, v in enumerate((x, y, z, w))]
    share = lambda ps, name: sum(bool(p[name]) for p in ps) / len(ps)  # noqa: E731
    assert [share(ps, "blur") for ps in drawn] == [1, pytest.approx(0.1, abs=0.03), 0, 0]
    assert [share(ps, "solarize") for ps in drawn] == [0, pytest.approx(0.2, abs=0.04), 0, 0]
    assert [share(ps, "flip") for ps in drawn] == [pytest.approx(0.5, abs=0.05)] * 2 + [0, 0]
    for ps in drawn:
        assert share(ps, "jitter") == pytest.approx(0.8, abs=0.04)
        assert share(ps, "gray") == pytest.approx(0.2, abs=0.04)
    assert all(p["height"] == p["width"] == 84 for ps in drawn[2:] for p in ps)
    assert min(p["height"] * p["width"] for p in drawn[0]) < 0.15 * 84**2
    assert max(p["blur"] for p in drawn[0]) <= 0.2


def test_frames_that_are_no_colours_change_alike():
    _, _, z, _ = tiny(frames_as_colours=False).views()
    frames = torch.rand(1, 1, 16, 16).repeat(64, 3, 1, 1)  # three times the same frame
    params = [z.draw(rng(0, 0, i, 2), 16, 16) for i in range(64)]
    batch = {name: torch.tensor([p[name] for p in params]) for name in params[0]}
    batch = {name: v.float() if v.is_floating_point() else v for name, v in batch.items()}
    seen = z.finish(frames.clone(), batch)["image"]
    torch.testing.assert_close(seen[:, 0], seen[:, 2], atol=1e-5, rtol=1e-5)
    assert (seen - frames).abs().max() > 0.1


def test_pixels_that_fill_no_patch_are_left_unread():
    torch.manual_seed(0)
    encoder = encoders.build("vit_tiny_patch16_224", size=84, patch=8, positions=224, depth=1).eval()
    assert encoder.trunk.pos_embed.shape == (1, 28 * 28 + 1, 192)
    x = torch.rand(1, 3, 84, 84)
    seen = []
    encoder.trunk.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    with torch.no_grad():
        assert encoder.tokens(x).shape == (1, 100, 192)
        assert seen == [(1, 101, 192)]
        other = x.clone()
        other[..., 80:], other[:, :, 80:] = 0, 0
        assert torch.equal(encoder(other), encoder(x))
        other[..., 79] = 0
        assert not torch.equal(encoder(other), encoder(x))
        assert torch.equal(encoders.any_size(encoder)(x), encoder(x))


def test_the_table_of_positions_stays_as_large_when_it_is_saved_and_exported(tmp_path):
    torch.manual_seed(0)
    encoder = encoders.build("vit_mini", size=14, patch=4, positions=32, depth=1).eval()
    encoders.save(encoder, tmp_path / "made")
    again, x = encoders.load(tmp_path / "made"), torch.rand(2, 3, 14, 14)
    assert again.trunk.pos_embed.shape == encoder.trunk.pos_embed.shape == (1, 65, 128)
    with torch.no_grad():
        assert torch.equal(again(x), encoder(x))
    assert export(encoder, "torch", tmp_path / "torch")["difference"] < 1e-5
    for target, words in (("timm", "whole patches only"), ("transformers", "plain ViT")):
        with pytest.raises(UsageError, match=words):
            export(encoder, target, tmp_path / target)
    whole = encoders.build("vit_mini", size=16, patch=4, positions=32, depth=1).eval()
    assert export(whole, "timm", tmp_path / "whole")["difference"] < 1e-5


def test_an_input_smaller_than_a_patch_is_refused():
    assert encoders.problems("vit_mini", 84, 8, positions=224) == []
    assert "84 = 10 x 8 + 4" in encoders.problems("vit_mini", 84, 8)[0]
    assert "one patch of vit_mini is 8 pixels, more than 7" in encoders.problems("vit_mini", 7, 8, positions=224)[0]
    assert encoders.problems("resnet_mini", 84, positions=224) == []


def test_a_convolutional_trunk_normalises_each_view_by_itself():
    method = tiny(encoder="resnet_mini")
    assert method.apart
    assert not tiny().apart
    assert all(torch.isfinite(t) for t in terms(method, batch()).values())


def test_stacks_of_another_number_of_frames():
    method = tiny(channels=4)
    assert method.loss(batch(channels=4), START).signals["features"].shape == (4, 128)


def test_a_sprite_keeps_to_its_frame_and_moves_by_its_velocity():
    frames, states = episode(np.random.default_rng(0), 40, size=42)
    assert frames.shape == (40, 42, 42)
    for t, (frame, (x, y, *_)) in enumerate(zip(frames, states, strict=True)):
        rows, columns = np.nonzero(frame[4:] == 255)
        assert (rows.mean() + 4.5, columns.mean() + 0.5) == pytest.approx((y, x), abs=0.51)
        assert (frame[0] == 255).sum() == round(42 * (t + 1) / 40)
    moved = np.diff(states[:, :2], axis=0)
    straight = (states[1:, 2:] == states[:-1, 2:]).all(1)
    assert straight.mean() > 0.5
    assert moved[straight] == pytest.approx(states[:-1][straight, 2:])


def test_it_runs_on_episodes_and_says_what_it_needs(tmp_path, digits):
    write_episodes(tmp_path / "train", 4, length=20, size=16)
    how = {"preset": "small", "steps": 2, "batch_size": 8, "workers": 0, "quiet": True}
    how["set"] = ["size=16", "hidden=32", "out=16", "positions=32", "log_every=1"]
    run = tacit.pretrain("tov_vicreg", f"episodes:{tmp_path / 'train'}", tmp_path / "run", **how)
    assert len(run.metrics["metric/order_time"]) == 2
    assert np.load(run.path / "views.npz")["views"].shape[0] == 4
    with pytest.raises(DataError, match="Give episodes of frames: --data episodes:FOLDER"):
        tacit.pretrain("tov_vicreg", str(digits), tmp_path / "other", **how)


def test_the_head_tells_time_on_episodes_that_were_never_seen(tmp_path):
    """A ground that grows brighter is enough to order stacks."""
    for part, seed in (("train", 0), ("test", 1)):
        frames = np.random.default_rng(seed).integers(0, 60, (80, 16, 16), dtype=np.uint8)
        frames += (9 * (np.arange(80) % 20)).astype(np.uint8)[:, None, None]
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "a.npy", frames)
        np.save(tmp_path / part / "terminal_a.npy", np.arange(80) % 20 == 19)
    method = tiny(invariance=0.0, variance=0.0, covariance=0.0, frames_as_colours=False, order=1.0, patch=8)
    pipelines = method.views()
    solver = torch.optim.AdamW(method.parameters(), lr=1e-3)

    def views(part: str) -> list[dict[str, torch.Tensor]]:
        source = open_source(f"episodes:{tmp_path / part}:edges=drop")
        assert len(source) == 48
        return finish(collate([Views(source, pipelines, 0)[(0, i)] for i in range(len(source))]), pipelines)

    seen = views("train")
    for step in range(25):
        torch.manual_seed(step)
        solver.zero_grad()
        method.loss(seen, START).terms["order"].backward()
        solver.step()
    found = float(method.eval().loss(views("test"), START).signals["metric/order_time"])
    assert found - 1.96 * (0.25 / 48) ** 0.5 > 0.5, found
