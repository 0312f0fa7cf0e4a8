import os
import time

import numpy as np
import pytest
import torch
from torch import nn

from tacit.errors import RunFailed, UsageError
from tacit.evaluation import resume
from tacit.evaluation.resume import Checkpoint, key, seed_step


def made(seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return model, torch.optim.AdamW(model.parameters())


def parts(model: nn.Module, solver: torch.optim.Optimizer) -> dict:
    return {"model": model, "solver": solver}


def step(model: nn.Module, solver: torch.optim.Optimizer) -> None:
    solver.zero_grad()
    model(torch.rand(5, 3)).square().sum().backward()
    solver.step()


def test_what_is_kept_is_put_back_and_removed_at_the_end(tmp_path):
    model, solver = made()
    kept = Checkpoint(tmp_path / "deep" / "c.ckpt", "k", steps=2)
    assert kept.resume(parts(model, solver)) == (0, {})
    for n in (1, 2, 3):
        step(model, solver)
        kept.offer(n, parts(model, solver), {"losses": [0.5] * n, "bad": {"x": "empty"}})
        if n == 2:
            then = {k: v.clone() for k, v in model.state_dict().items()}
            moments = solver.state_dict()["state"][0]["exp_avg"].clone()
    other, another = made(1)
    again = Checkpoint(kept.path, "k", steps=2)
    assert again.resume(parts(other, another)) == (2, {"losses": [0.5, 0.5], "bad": {"x": "empty"}})  # 3 was not due
    assert all(torch.equal(v, then[k]) for k, v in other.state_dict().items())
    assert torch.equal(another.state_dict()["state"][0]["exp_avg"], moments)
    assert not torch.equal(model[0].weight, then["0.weight"])
    assert [p.name for p in kept.path.parent.iterdir()] == ["c.ckpt"]
    again.done()
    assert list(kept.path.parent.iterdir()) == []
    again.done()


def test_it_is_saved_every_ten_minutes_unless_steps_are_given(tmp_path, monkeypatch):
    model, solver = made()
    kept = Checkpoint(tmp_path / "c.ckpt", "k")
    kept.offer(1, parts(model, solver))
    assert not kept.path.exists()
    monkeypatch.setattr(resume, "MINUTES", 0)
    kept.offer(2, parts(model, solver))
    assert kept.path.exists()
    nowhere = Checkpoint(None, steps=1)
    nowhere.offer(1, parts(model, solver))
    assert nowhere.resume(parts(model, solver)) == (0, {})
    nowhere.done()


def test_what_is_of_something_else_is_refused(tmp_path):
    model, solver = made()
    path = tmp_path / "c.ckpt"
    Checkpoint(path, "one", steps=1).offer(1, parts(model, solver))
    with pytest.raises(UsageError, match=r"c\.ckpt is of another fine-tuning.*Remove it"):
        Checkpoint(path, "two").resume(parts(model, solver))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"c\.ckpt is no checkpoint of a fine-tuning"):
        Checkpoint(path, "one").resume(parts(model, solver))
    torch.save({"model": model}, path)  # needs pickle
    with pytest.raises(UsageError, match="is no checkpoint"):
        Checkpoint(path, "one").resume(parts(model, solver))


def test_a_disk_that_takes_nothing_is_said(tmp_path):
    model, solver = made()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match=r"cannot be written.*Make room"):
        Checkpoint(tmp_path / "file" / "c.ckpt", "k", steps=1).offer(1, parts(model, solver))


def test_a_key_changes_with_all_that_training_depends_on(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"12")
    model = made()[0]
    keys = [key(model, [file], "settings", 1)]
    assert key(made()[0], [file], "settings", 1) == keys[0]
    keys += [key(made(1)[0], [file], "settings", 1), key(model, [file], "settings", 2), key(model, [], "settings", 1)]
    file.write_bytes(b"123")
    keys.append(key(model, [file], "settings", 1))
    model[1].requires_grad_(False)
    keys.append(key(model, [file], "settings", 1))
    assert len(set(keys)) == 6


def drawn() -> list[float]:
    return [*torch.rand(3).tolist(), *np.random.rand(3)]  # noqa: NPY002 what timm's Mixup draws from


def test_a_step_draws_the_same_whatever_came_before():
    seed_step(0, 7)
    first = drawn()
    drawn()
    seed_step(0, 7)
    assert drawn() == first
    for other in ((0, 8), (1, 7)):
        seed_step(*other)
        assert not set(drawn()) & set(first)


def test_trainings_that_nobody_went_on_with_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    assert resume.folder(False) is None
    place = resume.folder(True)
    place.mkdir()
    for name, days in (("old", 31), ("new", 29)):
        (place / f"{name}.ckpt").write_bytes(b"")
        os.utime(place / f"{name}.ckpt", (time.time() - days * 86400,) * 2)
    assert Checkpoint(place, "mine").path == place / "mine.ckpt"
    assert [p.name for p in place.iterdir()] == ["new.ckpt"]
