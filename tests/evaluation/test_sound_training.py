"""Sounds learned with labels: what each loss reaches, that no weight is none, that it learns, and for whom."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from tacit import api, encoders
from tacit.data import open_source
from tacit.errors import BadSettings, DataError, RunFailed, Unknown, UsageError
from tacit.evaluation.contrast import LOSSES, RECIPES, contrast, projector
from tacit.evaluation.sound_training import pace, train
from tacit.views import kaldi_inputs
from tests.conftest import write_speech_model

SPEAKERS = ("ann", "bob", "cyd", "dov", "eve", "fay", "gus", "hal")
QUICK = replace(RECIPES["small"], epochs=1, contrast_epochs=1, batch_size=8, precision="32")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Eight speakers with a pitch each, who whistle upwards or downwards: `way` is the class, four of each."""
    folder = tmp_path_factory.mktemp("whistles")
    t, rows = np.arange(2400) / 8000, []
    for number, speaker in enumerate(SPEAKERS):
        for take in range(6):
            up = take % 2
            rng = np.random.default_rng(10 * number + take)
            sweep = (1 if up else -1) * (1200 + rng.uniform(-100, 100)) * t * t / t[-1] + (600 if up else 1800) * t
            wave = 0.4 * np.sin(2 * np.pi * (1 + 0.03 * number) * sweep) + rng.normal(0, 0.01, len(t))
            soundfile.write(folder / f"{speaker}{take}.wav", wave, 8000)
            rows.append((f"{speaker}{take}.wav", "up" if up else "down", speaker))
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("path", "way", "speaker"), *rows])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    inputs = kaldi_inputs(frames=32, mels=32, rate=8000)
    return encoders.build("vit_mini", inputs=inputs, patch=8, depth=2).eval()


@pytest.fixture
def halves(table):
    source = open_source(table, labels=["way"], group="speaker")
    first = np.isin(source.groups, SPEAKERS[:6])
    return source.select(np.flatnonzero(first)), source.select(np.flatnonzero(~first))


def same(a, b) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_no_weight_on_the_contrast_is_cross_entropy_bit_for_bit(encoder, halves):
    plain = train(encoder, *halves, settings=QUICK).model
    none = train(encoder, *halves, settings=replace(QUICK, contrast="supcon", contrast_weight=0.0)).model
    some = train(encoder, *halves, settings=replace(QUICK, contrast="supcon", contrast_weight=1.0))
    assert same(plain, none)
    assert not same(plain, some.model)
    assert some.anchors == 1.0  # every recording of every batch had another of its class
    assert not same(plain.encoder, encoder)
    assert same(train(encoder, *halves, settings=QUICK).model, plain)


@pytest.mark.parametrize("name", LOSSES[1:])
def test_every_loss_reaches_encoder_and_projection_and_not_the_classifier(name, encoder):
    s = replace(QUICK, contrast=name, mining="all", margin=2.0)
    inner, above = projector(encoder.width, 16), torch.nn.Linear(encoder.width, 2)
    features = encoder(torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    features.retain_grad()
    contrast(s, inner(features), torch.arange(8) % 2).backward()
    assert features.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in (inner[0].weight, inner[2].weight))
    assert above.weight.grad is None
    encoder.zero_grad()


def test_before_the_classifier_is_trained_the_contrast_is_alone(encoder, halves):
    found = train(encoder, *halves, settings=replace(QUICK, contrast="multi_similarity", stage="before"))
    assert [row["stage"] for row in found.history] == ["contrast", "cross-entropy"]
    assert all(0 <= row["score"] <= 1 for row in found.history)
    assert not same(found.model, train(encoder, *halves, settings=QUICK).model)


def test_it_learns_of_strangers_and_leaves_the_encoder_alone(encoder, halves):
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    found = train(encoder, *halves, settings=replace(QUICK, epochs=10, contrast="supcon"))
    assert max(row["score"] for row in found.history) > 0.9
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_rates_rise_and_fall_in_lines():
    assert [pace(step, 20, 0.1) for step in (0, 1, 2, 11, 19)] == pytest.approx([0.5, 1, 1, 0.5, 1 / 18])


def test_what_cannot_be_learned_is_named(encoder, halves):
    train_part, held = halves
    lone = train_part.select(np.array([0, 1, 3, 5]))
    with pytest.raises(DataError, match="down: fewer than two"):
        train(encoder, lone, held, settings=replace(QUICK, contrast="supcon"))
    with pytest.raises(RunFailed, match="Lower lr"):
        train(encoder, train_part, held, settings=replace(QUICK, epochs=5, lr=1e30, head_lr=1e30, clip=1e30))


def test_a_speech_model_is_trained_above_its_front_and_kept(table, tmp_path):
    folder = write_speech_model(tmp_path / "model")
    found = api.finetune(
        folder, table, tmp_path / "c", label="way", group="speaker", contrast="supcon",
        set=["epochs=1", "batch_size=8", "seconds=0.2", "precision=32", "lr=1e-3"], workers=0,
    )  # fmt: skip
    assert found["parts"] == {"training": 36, "validation": 6, "test": 6}
    again = encoders.load(tmp_path / "c", foreign=True)
    first = encoders.load(folder, foreign=True)
    assert again.inputs.seconds == 0.2
    assert found["settings"]["head_lr"] == RECIPES["speech"].head_lr
    changed = {k for k, v in first.state_dict().items() if not torch.equal(v, again.state_dict()[k])}
    assert changed
    assert not any(".feature_extractor." in name for name in changed)
    rows = api.predict(tmp_path / "c", table, tmp_path / "said.csv", label="way", workers=0)
    assert rows["rows"] == 48
    assert rows["accuracy"]["n"] == 48


def test_strangers_are_tested_and_everything_is_kept(table, encoder, tmp_path):
    encoders.save(encoder, tmp_path / "e")
    how = {"label": "way", "workers": 0, "set": ["epochs=2", "batch_size=8"]}
    found = api.finetune(tmp_path / "e", table, tmp_path / "c", group="speaker", contrast="multi_similarity", **how)
    with open(tmp_path / "c" / "split.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    parts = {speaker: {row["part"] for row in rows if row["group"] == speaker} for speaker in SPEAKERS}
    assert len(rows) == 48
    assert all(len(part) == 1 for part in parts.values())
    assert {row["metric"] for row in found["results"]} >= {"accuracy", "macro_f1", "silhouette"}
    assert np.allclose(np.sum(found["confusion"], 1), 1)
    assert json.loads((tmp_path / "c" / "scores.json").read_text())["results"] == found["results"]
    assert not any("by recording" in note for note in found["notes"])
    said = api.predict(tmp_path / "c", table, tmp_path / "said.parquet", label="way", workers=0)
    assert said["rows"] == 48
    loose = api.finetune(tmp_path / "e", table, tmp_path / "d", **how)
    assert any("too high for strangers" in note and "--group" in note for note in loose["notes"])
    with pytest.raises(UsageError, match="holds a classifier"):
        api.finetune(tmp_path / "e", table, tmp_path / "c", group="speaker", **how)


def test_a_speaker_on_both_sides_is_refused_by_name(table, encoder, tmp_path):
    lines = table.read_text().splitlines()
    for part, chosen in (("train", lines[1:40]), ("test", lines[30:])):
        rows = [str(table.parent / row) for row in chosen]
        (tmp_path / f"{part}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    with pytest.raises(DataError, match="fay"):
        api.finetune(encoder, tmp_path, tmp_path / "c", label="way", group="speaker", workers=0)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"contrast": "supkon"}, BadSettings, "one of none, supcon, nt_xent, triplet, multi_similarity"),
        ({"contrast": "supcon", "stage": "after"}, BadSettings, "one of before, auxiliary"),
        ({"stage": "before"}, BadSettings, "Add --contrast"),
        ({"recipe": "deit"}, Unknown, "recipe for sounds"),
        ({"set": ["epoch=3"]}, BadSettings, "Did you mean epochs"),
        ({"shots": 3, "neck": 1}, UsageError, "--neck and --shots: for images"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_read(changes, error, said, encoder, tmp_path):
    with pytest.raises(error, match=said):
        api.finetune(encoder, tmp_path / "nothing", tmp_path / "c", workers=0, **changes)


def test_an_encoder_of_images_has_no_speakers(digits, tmp_path):
    with pytest.raises(UsageError, match="--group and --contrast: for encoders of sounds"):
        api.finetune("vit_mini:random", digits, tmp_path / "c", group="speaker", contrast="supcon")
