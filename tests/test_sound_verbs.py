"""From a folder of sounds to scores and vectors, as a user goes."""

import shutil

import numpy as np
import pytest

import tacit
from tacit import api, encoders
from tacit.data import open_source
from tacit.errors import BadSettings, DataError
from tacit.methods import find
from tacit.views import levels
from tests.conftest import write_tones


def settings(method: str) -> list[str]:
    return [f"{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in find(method).tiny.items()]


def test_a_folder_of_sounds_becomes_an_encoder(tmp_path):
    folder = write_tones(tmp_path / "set" / "train", 24)
    shutil.copytree(folder, tmp_path / "set" / "test")
    (folder / "low" / "broken.wav").write_bytes(b"")
    how = {"preset": "small", "set": settings("asit"), "steps": 2, "batch_size": 8, "workers": 0, "quiet": True}
    run = api.pretrain("asit", folder, tmp_path / "run", **how, max_bad=0.1)
    assert run.bad_files == [("low/broken.wav", "empty file")]
    assert run.summary["steps"] == 2
    measured = levels(open_source(folder), find("asit").presets["small"].inputs)
    kept = encoders.load(run.path / "encoder").inputs
    assert (run.settings["settings"]["mean"], run.settings["settings"]["std"]) == pytest.approx(measured, abs=0.1)
    assert (kept.mean[0], kept.std[0] / 2) == pytest.approx(
        (run.settings["settings"]["mean"], run.settings["settings"]["std"])
    )
    assert api.pretrain("asit", folder, tmp_path / "run", **how, max_bad=0.1, resume=True).summary["steps"] == 2
    with np.load(run.path / "views.npz") as stored:
        assert str(stored["kind"]) == "audio"
    found = api.evaluate(run, tmp_path / "set", protocol="knn", baselines=False, workers=0, cache=False)
    assert found["results"][0]["n"] == 24
    assert api.embed(run, folder, tmp_path / "x.npy", workers=0)["bad_files"] == [("low/broken.wav", "empty file")]


def test_methods_say_at_once_that_the_data_is_of_the_other_kind(tones, digits, tmp_path):
    how = {"preset": "small", "steps": 2, "batch_size": 8, "workers": 0, "quiet": True}
    with pytest.raises(DataError, match="holds images, and the method learns from sounds"):
        api.pretrain("asit", digits, tmp_path / "a", **how, set=settings("asit"))
    with pytest.raises(DataError, match="holds sounds, and the method learns from images"):
        api.pretrain("moby", tones, tmp_path / "b", **how, set=settings("moby"))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("method", "encoder", "changes", "said"),
    [
        ("asit", "swin_mini", [], "spectrograms are no squares"),
        ("asit", "vit_mini", ["size=100"], "Set size=96 or size=104"),
        ("asit", "vit_medium_patch16_gap_240", ["patch=16"], "needs cls"),
        ("atst_frame", "vit_mini", ["rate=8000"], "half of rate = 8000"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_opened(method, encoder, changes, said, tmp_path):
    with pytest.raises(BadSettings, match=said):
        tacit.pretrain(method, tmp_path / "nothing", tmp_path / "run", preset="small", encoder=encoder, set=changes)
