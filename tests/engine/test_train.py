"""Whole runs, small ones: what is written, what is repeated bit for bit, and how a run fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import tacit
from tacit.engine import Step
from tacit.engine.checkpoints import Saver
from tacit.engine.monitors import CollapseWatch, about_mean, health
from tacit.errors import BadSettings, DataError, RunFailed, UsageError
from tacit.methods.image.moby import MoBY

TINY = ["size=16", "hidden=32", "out=16", "queue_size=64", "patch=8", "check_every=0", "log_every=1"]
COMMON = {"preset": "small", "encoder": "vit_mini", "batch_size": 16, "workers": 0, "quiet": True}


def pretrain(data, out, *, extra=(), **changes):
    return tacit.pretrain("moby", data, out, **{**COMMON, "set": [*TINY, *extra], "steps": 20, **changes})


def weights(run) -> dict[str, torch.Tensor]:
    return torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    return pretrain(digits, tmp_path_factory.mktemp("run") / "moby", extra=["check_every=1"])


def test_the_run_folder_holds_all_that_is_promised(finished):
    names = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    for name in (
        "settings.yaml", "environment.json", "summary.json", "metrics.csv", "bad_files.csv", "log.txt", "views.npz",
        "checkpoints/last.ckpt", "checkpoints/best.ckpt", "encoder/model.safetensors", "encoder/encoder.json",
    ):  # fmt: skip
        assert name in names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not any(name.endswith(".part") for name in names)
    metrics = finished.metrics
    for name in (
        "loss", "loss/q1k2", "loss/q2k1", "lr", "grad_norm", "feature_std", "rankme", "embedding_std", "embedding_rank",
        "alignment", "uniformity", "positive_similarity", "negative_similarity", "queue_age", "momentum", "throughput",
        "data_wait", "peak_memory",
    ):  # fmt: skip
        assert [step for step, _ in metrics[name]] == list(range(20))
    assert len(metrics["knn"]) == 2
    summary = finished.summary
    assert summary["steps"] == 20
    assert summary["verdict"] == "healthy"
    assert summary["throughput"] == pytest.approx(16 / summary["step_time"])
    with np.load(finished.path / "views.npz") as stored:
        assert stored["views"].shape == (2, 8, 16, 16, 3)


def test_what_a_masked_system_makes_of_a_few_records_is_kept_at_the_end(digits, finished, tmp_path):
    run = tacit.pretrain(
        "mae", digits, tmp_path / "mae", preset="small", batch_size=16, steps=2, workers=0, quiet=True,
        set=["size=16", "patch=4", "check_every=0", "decoder_width=32", "decoder_depth=1"],
    )  # fmt: skip
    with np.load(run.path / "reconstructions.npz") as stored:
        assert stored["names"].tolist() == ["input", "masked", "reconstruction"]
        told = stored["views"].astype(int)
    assert told.shape == (3, 8, 16, 16, 3)
    with np.load(run.path / "views.npz") as stored:
        assert np.array_equal(told[0], stored["views"][0])
    kept = (told[0] == told[1]).all(-1).reshape(8, 4, 4, 4, 4).swapaxes(2, 3).reshape(8, 16, 16).all(-1)
    assert (kept.sum(1) >= 4).all()  # a quarter of the patches is seen; one that is grey anyway may look so
    assert (told[2] == told[0]).all(-1).mean() < 0.9
    assert not (finished.path / "reconstructions.npz").exists()


def test_rates_and_momentum_in_the_log_are_the_closed_forms(finished):
    rates = [v for _, v in finished.metrics["lr"]]
    settings = finished.settings["settings"]
    peak = settings["lr"] * 16 / 512
    assert rates[0] == rates[1] == pytest.approx(settings["lr_warmup"] * 16 / 512)
    assert max(rates) < peak
    momenta = [v for _, v in finished.metrics["momentum"]]
    assert momenta[0] == pytest.approx(settings["momentum"])
    assert momenta == sorted(momenta)


def test_the_same_seed_is_the_same_run_and_another_is_not(finished, digits, tmp_path):
    again = pretrain(digits, tmp_path / "again")
    assert same(weights(again), weights(finished))  # though one of them looked at k-NN and the other did not
    assert not same(weights(pretrain(digits, tmp_path / "other", seed=1)), weights(finished))


def test_settings_yaml_makes_the_run_again(finished, tmp_path):
    from tacit.cli import _from_config

    given = _from_config(str(finished.path / "settings.yaml"))
    run = tacit.pretrain(
        given["method"], given["data"], tmp_path / "again", preset=given["preset"], set=given["set"],
        steps=given["steps"], seed=given["seed"], workers=0, quiet=True,
    )  # fmt: skip
    assert same(weights(run), weights(finished))


def test_workers_change_nothing(digits, tmp_path, finished):
    losses = [v for _, v in finished.metrics["loss"]]
    for workers in (1, 3):
        run = pretrain(digits, tmp_path / str(workers), workers=workers)
        assert [v for _, v in run.metrics["loss"]] == losses
        assert same(weights(run), weights(finished))


def test_micro_batches_keep_records_steps_and_queue(digits, tmp_path):
    whole = pretrain(digits, tmp_path / "whole", steps=5)
    split = pretrain(digits, tmp_path / "split", steps=5, extra=["accumulate=2"])
    assert split.summary["steps"] == whole.summary["steps"] == 5
    for run in (whole, split):
        state = weights(run)
        assert int(state["method.queue.enqueued"]) == 80
    assert split.metrics["lr"] == whole.metrics["lr"]


def test_a_run_killed_at_any_step_goes_on_bit_for_bit(digits, tmp_path, finished, monkeypatch):
    """In one process: the saved state of every step leads to the end of the unbroken run."""

    class Killed(BaseException):
        pass

    real = Saver.save

    def save_then_die(self, trainer, module):
        real(self, trainer, module)
        if module.step < module.steps:
            raise Killed

    monkeypatch.setattr(Saver, "save", save_then_die)
    out = tmp_path / "broken"
    for _ in range(40):
        try:
            run = pretrain(digits, out, extra=["save_every=0.25"], resume=True)
            break
        except Killed:
            continue
    else:
        pytest.fail("the run never ended")
    assert same(weights(run), weights(finished))
    assert [s for s, _ in run.metrics["loss"]] == list(range(20))
    assert run.metrics["loss"] == finished.metrics["loss"]


def test_sigkill_leaves_nothing_half_written(digits, tmp_path, finished):
    out = tmp_path / "killed"
    settings = [a for s in [*TINY, "save_every=0.1"] for a in ("--set", s)]
    arguments = [
        "pretrain", "moby", "--data", str(digits), "--out", str(out), "--preset", "small", "--encoder", "vit_mini",
        "--batch-size", "16", "--steps", "20", "--workers", "1", "--resume", *settings,
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "tacit.cli", *arguments], stderr=subprocess.DEVNULL)
    last = out / "checkpoints" / "last.ckpt"
    deadline = time.time() + 120
    while not last.is_file() and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = pretrain(digits, out, resume=True)
    assert same(weights(run), weights(finished))


def test_two_devices_take_the_steps_that_one_takes(digits, tmp_path):
    """By MAE, whose records share nothing. What is logged are means over both, and both save when one's clock asks."""
    settings = ["size=16", "patch=4", "decoder_width=32", "decoder_depth=1", "log_every=1", "save_minutes=0"]
    common = {**COMMON, "steps": 4, "set": settings}
    alone = tacit.pretrain("mae", digits, tmp_path / "alone", **common).metrics
    arguments = [
        "pretrain", "mae", "--data", str(digits), "--out", str(tmp_path / "both"), "--preset", "small",
        "--encoder", "vit_mini", "--batch-size", "16", "--steps", "4", "--workers", "0", "--devices", "2",
        *[a for s in settings for a in ("--set", s)],
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "tacit.cli", *arguments], check=True, timeout=300, stderr=subprocess.PIPE)
    both = tacit.Run(tmp_path / "both")
    assert both.summary["steps"] == 4
    assert len(both.metrics["knn"]) == 1
    for name in ("loss", "grad_norm"):
        assert [v for _, v in both.metrics[name]] == pytest.approx([v for _, v in alone[name]], rel=2e-3)
    assert both.metrics["loss"][0][1] == pytest.approx(alone["loss"][0][1], rel=1e-5)


def test_ctrl_c_saves_and_says_how_to_go_on(digits, tmp_path, finished, monkeypatch, capsys):
    from tacit.engine.watch import Watch

    real = Watch.on_train_batch_end

    def interrupt(self, trainer, module, *rest):
        if module.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, trainer, module, *rest)

    monkeypatch.setattr(Watch, "on_train_batch_end", interrupt)
    with pytest.raises(RunFailed, match=r"step 7 of 20, saved.*--resume"):
        pretrain(digits, tmp_path / "run")
    monkeypatch.setattr(Watch, "on_train_batch_end", real)
    run = pretrain(digits, tmp_path / "run", resume=True)
    assert same(weights(run), weights(finished))


def test_a_finished_run_is_left_alone(finished, digits):
    with pytest.raises(UsageError, match=r"holds a run \(moby, 20 steps done\).*--resume"):
        pretrain(digits, finished.path)
    before, summary = weights(finished), finished.summary
    pretrain(digits, finished.path, resume=True, extra=["check_every=1"])
    assert same(weights(finished), before)
    assert finished.summary == summary


def test_a_run_killed_after_its_last_save_gets_its_encoder_and_summary(finished, digits, tmp_path):
    left = shutil.copytree(finished.path, tmp_path / "left")
    (left / "summary.json").unlink()
    (left / "encoder" / "model.safetensors").write_bytes(b"of an earlier save")
    run = pretrain(digits, left, resume=True, extra=["check_every=1"])
    assert (run.encoder / "model.safetensors").read_bytes() == (finished.encoder / "model.safetensors").read_bytes()
    assert run.summary["steps"] == 20
    for name in ("loss", "knn", "rankme"):
        assert run.summary[name] == pytest.approx(finished.summary[name])


def test_only_the_same_run_goes_on(finished, digits):
    with pytest.raises(BadSettings, match=r"temperature = 0.5: the run was begun with temperature = 0.2"):
        pretrain(digits, finished.path, resume=True, extra=["temperature=0.5"])
    with pytest.raises(BadSettings, match="seed = 3"):
        pretrain(digits, finished.path, resume=True, seed=3)


def test_a_run_begun_before_a_setting_existed_goes_on_at_its_default(finished, digits, tmp_path):
    old = shutil.copytree(finished.path, tmp_path / "old")
    written = (old / "settings.yaml").read_text(encoding="utf-8")
    without = "".join(line for line in written.splitlines(keepends=True) if not line.startswith("  layer_decay:"))
    assert without != written
    (old / "settings.yaml").write_text(without, encoding="utf-8")
    pretrain(digits, old, resume=True)
    with pytest.raises(BadSettings, match=r"layer_decay = 0.7: the run was begun with layer_decay = 1.0"):
        pretrain(digits, old, resume=True, extra=["layer_decay=0.7"])


def test_an_encoder_starts_from_another_run(finished, digits, tmp_path):
    run = pretrain(
        digits, tmp_path / "next", init=str(finished.path), steps=1, extra=["lr=0", "lr_end=0", "lr_warmup=0"]
    )
    started, source = weights(run), weights(finished)
    name = "method.encoder.trunk.blocks.0.mlp.fc1.weight"
    assert torch.equal(started[name], source[name])
    assert torch.equal(started[name.replace("encoder", "key_encoder")], source[name])


def test_a_run_killed_before_its_first_save_still_starts_from_init(finished, digits, tmp_path):
    whole = pretrain(digits, tmp_path / "whole", init=str(finished.path), steps=3)
    left = tmp_path / "left"
    left.mkdir()
    shutil.copy(whole.path / "settings.yaml", left)
    (left / ".settings.yaml.x.part").write_text("what a killed writer left")
    run = pretrain(digits, left, init=str(finished.path), steps=3, resume=True)
    assert same(weights(run), weights(whole))
    assert not list(left.rglob("*.part"))


def test_old_checkpoints_are_kept_and_dropped_as_asked(digits, tmp_path):
    run = pretrain(digits, tmp_path / "run", steps=48, extra=["keep_every=1", "keep=2"])
    names = sorted(p.name for p in (run.path / "checkpoints").iterdir())
    assert [n for n in names if n.startswith("step-")] == ["step-00000036.ckpt", "step-00000048.ckpt"]


@pytest.mark.parametrize(
    ("epoch", "asked", "steps"), [(250, None, 250), (100, None, 100), (30, None, 120), (10, 1.0, 10), (10, 0.25, 2)]
)
def test_short_epochs_are_saved_together_unless_asked(tmp_path, epoch, asked, steps):
    assert Saver(tmp_path, MoBY.Settings(save_every=asked), epoch).last_every == steps


def test_the_last_save_is_never_older_than_asked(digits, tmp_path, monkeypatch):
    at = []
    monkeypatch.setattr(Saver, "save", lambda self, trainer, module: at.append(module.step))
    pretrain(digits, tmp_path / "run", steps=6, extra=["save_minutes=0"])
    assert at == [1, 2, 3, 4, 5, 6]


def with_broken(digits, folder, bad: int):
    copy = shutil.copytree(digits, folder)
    paths = sorted(copy.glob("*/*.png"))[::3]
    kinds = [b"", b"<html></html>", paths[-1].read_bytes()[:60], b"PK\x03\x04zip", bytes(64)]
    for i, path in enumerate(paths[:bad]):
        path.write_bytes(kinds[i % len(kinds)])
    return copy, {str(p.relative_to(copy)) for p in paths[:bad]}


def test_every_broken_file_is_listed_with_a_reason(digits, tmp_path):
    folder, broken = with_broken(digits, tmp_path / "data", 10)
    run = pretrain(folder, tmp_path / "run", max_bad=0.1, steps=12)
    assert {name for name, _ in run.bad_files} == broken
    assert {reason.split(" (")[0] for _, reason in run.bad_files} >= {"empty file", "not an image", "truncated"}
    assert run.summary["bad_files"] == 10


def test_what_was_found_broken_before_a_save_is_known_after_a_kill(digits, tmp_path, monkeypatch):
    real, left = Saver.save, tmp_path / "left"

    def save_and_copy(self, trainer, module):
        real(self, trainer, module)
        if not left.exists():
            shutil.copytree(self.run, left)

    monkeypatch.setattr(Saver, "save", save_and_copy)
    folder, broken = with_broken(digits, tmp_path / "data", 60)
    common = {"max_bad": 0.5, "steps": 12, "extra": ["log_every=100", "save_every=0.5"]}
    pretrain(folder, tmp_path / "run", **common)
    run = pretrain(folder, left, resume=True, **common)
    assert "Resuming at step 6" in (left / "log.txt").read_text()
    assert {name for name, _ in run.bad_files} == broken


def test_too_many_broken_files_stop_the_run_with_counts_and_the_way_on(digits, tmp_path):
    folder, _ = with_broken(digits, tmp_path / "data", 40)
    with pytest.raises(
        DataError, match=r"of 200 files could not be read: .*more than --max-bad 0.01 .*--resume --max-bad"
    ):
        pretrain(folder, tmp_path / "run")
    assert tacit.Run(tmp_path / "run").bad_files
    run = pretrain(folder, tmp_path / "run", resume=True, max_bad=0.5)
    assert run.summary["bad_files"] == 40


def test_too_few_records_are_said_before_training(digits, tmp_path):
    with pytest.raises(DataError, match="200 records are fewer than one batch of 512"):
        tacit.pretrain("moby", digits, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_steps_once_and_writes_nothing(digits, tmp_path):
    found = pretrain(digits, tmp_path / "run", dry_run=True)
    assert found["steps"] == 20
    assert found["step_time"] > 0
    assert found["parameters"] > found["encoder_parameters"]
    assert not (tmp_path / "run").exists()


def test_a_step_that_cannot_fit_is_refused_with_one_that_can(digits, tmp_path, monkeypatch):
    from tacit.engine import train

    monkeypatch.setattr(train, "free_memory", lambda: 3_000_000)
    with pytest.raises(BadSettings, match=r"16 records at once keep about .* MiB .*--set accumulate=4 \(parts of 4\)"):
        pretrain(digits, tmp_path / "run", precision="32")
    assert not (tmp_path / "run").exists()


def test_what_a_record_keeps_for_the_backward_pass():
    from torch import nn

    from tacit.engine.memory import bytes_a_record

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 32, bias=False), nn.Linear(32, 1, bias=False)

        def loss(self, views, progress):
            return self.b(self.a(views[0]["image"]).exp()).sum()

    # The input (8 floats), exp's result, which both exp and the second layer keep (32).
    assert bytes_a_record(Two(), [{"image": torch.zeros(5, 8)}]) == (8 + 32) * 4
    # The same in bf16, of which the weights, kept in it too, are no part.
    assert bytes_a_record(Two(), [{"image": torch.zeros(5, 8)}], torch.bfloat16) == (8 + 32) * 2
    # And all of it is freed, with what exp keeps of its own.
    image = np.zeros((5, 8), np.float32)
    freed = weakref.ref(image)
    bytes_a_record(Two(), [{"image": torch.from_numpy(image)}])
    del image
    assert freed() is None


class Exploding(MoBY):
    def loss(self, views, progress):
        step = super().loss(views, progress)
        factor = float("nan") if progress.step == 5 else 1.0
        return Step({name: term * factor for name, term in step.terms.items()}, step.signals)


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(tacit.methods.METHODS, "moby", f"{__name__}:Exploding")
    with pytest.raises(RunFailed, match=r"At step 5 the loss term 'q1k2' is nan.*--set lr="):
        pretrain(digits, tmp_path / "run", extra=["save_every=0.1"])
    assert all(torch.isfinite(v).all() for v in weights(tacit.Run(tmp_path / "run")).values())


class Pulling(MoBY):
    """No negatives, and the pull of two views on each other: the textbook collapse."""

    def loss(self, views, progress):
        step = super().loss(views, progress)
        q = self.predictor(self.projector(self.encoder(torch.cat([v["image"] for v in views]))))
        pull = (q - q.detach().roll(1, 0)).square().sum(1).mean()
        return Step({"pull": pull}, step.signals)


def test_a_collapse_is_called_by_name_and_stops_the_run(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(tacit.methods.METHODS, "moby", f"{__name__}:Pulling")
    extra = ["lr=2", "lr_warmup=0.5", "weight_decay=0", "warmup_epochs=0"]
    with pytest.raises(RunFailed, match=r"Collapse at step \d+: .*Usual remedies"):
        pretrain(digits, tmp_path / "run", steps=120, extra=extra)
    assert tacit.Run(tmp_path / "run").summary["verdict"].startswith("collapsed at step")


def test_the_watch_calls_what_lasts_and_not_what_passes():
    good, bad = {"embedding_std": 0.8, "embedding_rank": 30.0}, {"embedding_std": 0.01, "embedding_rank": 30.0}
    watch = CollapseWatch(patience=3)
    assert [watch.see(v) for v in (good, bad, bad, good, bad, bad)] == [None] * 6
    assert "nearly the same" in watch.see(bad)
    assert "1.2 directions" in CollapseWatch(patience=1).see({"embedding_std": 0.8, "embedding_rank": 1.2})


def test_health_of_known_embeddings():
    x = torch.eye(8)
    values = health({"embeddings": x, "positives": x, "negatives": -x, "features": x})
    assert values["positive_similarity"] == 1
    assert values["alignment"] == 0
    assert values["embedding_rank"] == pytest.approx(7, rel=1e-3)
    assert health({"embeddings": torch.ones(8, 4) / 2})["embedding_std"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_a_direction_that_all_features_share_is_no_collapse(views):
    """Reconstruction alone does not keep features away from one; where they differ they still tell records apart."""
    generator = torch.Generator().manual_seed(0)
    features = 30.0 + torch.randn(64, 16, generator=generator)
    assert health({"embeddings": torch.nn.functional.normalize(features, dim=1)})["embedding_std"] < 0.05
    signals = about_mean(features, views)
    values = health(signals)
    assert values["embedding_std"] > 0.9
    assert values["embedding_rank"] > 10
    assert ("positives" in signals) == (views == 2)
    same = about_mean(30.0 + torch.arange(64.0)[:, None] * torch.ones(16), views)
    assert "directions" in CollapseWatch(patience=1).see(health(same))


def test_one_channel_and_four(tmp_path):
    rng = np.random.default_rng(0)
    for channels in (1, 4):
        data = rng.integers(0, 256, (40, 20, 20, channels), dtype=np.uint8)
        run = pretrain(data, tmp_path / str(channels), steps=2, extra=[f"channels={channels}"])
        assert run.summary["steps"] == 2
        assert "saturation" in (run.path / "log.txt").read_text()


def test_mixed_sources_with_weights(digits, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(5):
        shutil.copy(tmp_path / "one.png", folder / f"{i}.png")
    run = pretrain([digits, folder], tmp_path / "run", weights=[1, 1], steps=2)
    assert yaml.safe_load((run.path / "settings.yaml").read_text())["weights"] == [1, 1]


def test_a_polite_kill_saves_and_is_a_failure_to_the_queue(digits, tmp_path, monkeypatch):
    from tacit.engine.watch import Watch

    real = Watch.on_train_batch_end

    def terminate(self, trainer, module, *rest):
        if module.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, trainer, module, *rest)

    monkeypatch.setattr(Watch, "on_train_batch_end", terminate)
    with pytest.raises(RunFailed, match=r"Stopped at step \d+ of 20, saved"):
        pretrain(digits, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_a_method_may_look_at_the_data_before_it_begins_and_not_again(digits, tmp_path, monkeypatch):
    from tacit.methods.image.moby import MoBY

    seen = []
    monkeypatch.setattr(MoBY, "look", lambda self, batches: seen.append([len(views[0]["image"]) for views in batches]))
    how = {"preset": "small", "batch_size": 16, "workers": 0, "quiet": True, "encoder": "vit_mini"}
    changes = ["size=16", "patch=8", "hidden=24", "out=16", "queue_size=64", "save_every=0.01"]
    tacit.pretrain("moby", digits, tmp_path / "run", steps=2, set=changes, **how)
    assert seen == [[64, 64, 64, 8]]  # each record once
    tacit.pretrain("moby", digits, tmp_path / "run", steps=2, set=changes, resume=True, **how)
    assert len(seen) == 1
