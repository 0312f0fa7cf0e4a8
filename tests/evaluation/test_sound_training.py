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
from tacit.evaluation import classifier
from tacit.evaluation.contrast import contrast, projector
from tacit.evaluation.fine_tune import Classifier
from tacit.evaluation.sound_recipes import LOSSES, RECIPES
from tacit.evaluation.sound_teacher import logits_in_pieces
from tacit.evaluation.sound_training import _solver, judged, pace, train
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
    s = replace(QUICK, warmup=0.1)
    assert [pace(step, 20, 5, s) for step in (0, 1, 2, 11, 19)] == pytest.approx([0.5, 1, 1, 0.5, 1 / 18])


def test_rates_fall_by_steps_and_cosines():
    ast = [pace(epoch * 7 + 6, 25 * 7, 7, RECIPES["ast"]) for epoch in (0, 4, 5, 6, 24)]
    assert ast == pytest.approx([1, 1, 0.85, 0.85**2, 0.85**20])
    assert [pace(step, 100, 2, RECIPES["atst"]) for step in (0, 9, 10, 55, 99)] == pytest.approx(
        [0.1, 1, 1, 0.5, 0.5 - 0.5 * np.cos(np.pi / 90)]
    )


def test_losses_of_classes_in_closed_form():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    soft = np.log(np.exp([2.0, 0.0, -1.0]).sum()) - 2.0
    each = np.mean([np.log1p(np.exp(-2.0)), np.log(2.0), np.log1p(np.exp(-1.0))])
    assert float(judged("softmax", logits, torch.tensor([0]))) == pytest.approx(soft)
    assert float(judged("binary", logits, torch.tensor([0]))) == pytest.approx(each)
    assert float(judged("binary", logits, torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(each)
    assert float(judged("softmax", logits, torch.tensor([[0.5, 0.5, 0.0]]))) == pytest.approx(soft + 1.0)


def test_lower_layers_learn_slower(encoder):
    model = Classifier(encoder, 2)
    peaks = {}
    for group in _solver(model, torch.nn.Identity(), RECIPES["atst"]).param_groups:
        peaks |= {id(p): group["peak"] for p in group["params"]}
    trunk = encoder.trunk  # two blocks
    found = [peaks[id(p)] for p in (model.head.weight, trunk.norm.weight, trunk.blocks[1].attn.qkv.weight,
                                    trunk.blocks[0].attn.qkv.weight, trunk.pos_embed)]  # fmt: skip
    assert found == pytest.approx([4.0, 4.0, 4 * 0.75, 4 * 0.75**2, 4 * 0.75**3])


def test_a_longer_sound_is_heard_by_the_teacher_in_pieces(encoder):
    teacher = Classifier(encoder, 2)
    torch.nn.init.normal_(teacher.head.weight)
    teacher.eval()
    x = torch.randn(3, 1, 100, 32, generator=torch.Generator().manual_seed(0))
    of = lambda *starts: teacher.head(torch.stack([encoder(x[:, :, s : s + 32]) for s in starts]).mean(0))  # noqa: E731
    for length, starts in ((32, [0]), (48, [0]), (49, [0, 17]), (64, [0, 32]), (100, [0, 32, 64])):
        assert torch.allclose(logits_in_pieces(teacher, x[:, :, :length]), of(*starts), atol=1e-6), length


def test_of_a_teacher_alone_labels_teach_nothing(encoder, halves):
    """A weight of 0 is no teacher, bit for bit; with 1 labels make no difference, and the student speaks like it."""
    source, held = halves
    shuffled = replace(QUICK, batches="shuffled", epochs=6)
    teacher = train(encoder, source, held, settings=replace(QUICK, epochs=10)).model
    none = train(encoder, source, held, settings=shuffled).model
    assert same(
        train(encoder, source, held, settings=replace(shuffled, teacher_weight=0.0), teacher=teacher).model, none
    )
    alone = replace(shuffled, teacher_weight=1.0)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    taught = train(encoder, source, source, settings=alone, teacher=teacher)
    wrong = source.select(np.arange(len(source)))
    wrong.labels = 1 - wrong.labels
    again = train(encoder, wrong, source, settings=alone, teacher=teacher)
    assert same(taught.model, again.model)
    assert not same(taught.model, none)
    assert taught.history[-1]["score"] > 0.9
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("recipe", ["atst", "ast", "ast_commands"])
def test_published_recipes_train_and_are_kept(recipe, table, encoder, tmp_path):
    how = {"label": "way", "group": "speaker", "workers": 0}
    found = api.finetune(
        encoder, table, tmp_path / "c", recipe=recipe, set=["epochs=2", "batch_size=8", "precision=32"], **how
    )
    assert len(found["history"]) == 2
    model, _ = classifier.load(tmp_path / "c")
    assert list(model.neck.state_dict()) == {
        "atst": ["0.running_mean", "0.running_var", "0.num_batches_tracked"], "ast": ["0.weight", "0.bias"],
        "ast_commands": ["0.weight", "0.bias"],
    }[recipe]  # fmt: skip
    test = {row["path"] for row in csv.DictReader((tmp_path / "c" / "split.csv").open()) if row["part"] == "test"}
    source = open_source(table, labels=["way"], group="speaker")
    rows = np.array([i for i in range(len(source)) if source.name(i) in test])
    right = classifier.right(tmp_path / "c", source.select(rows))
    assert right.mean() == pytest.approx(next(r["value"] for r in found["results"] if r["metric"] == "accuracy"))


def test_a_teacher_that_cannot_teach_is_refused(table, encoder, tmp_path):
    how = {"label": "way", "group": "speaker", "workers": 0, "set": ["epochs=1", "batch_size=8"]}
    api.finetune(encoder, table, tmp_path / "t", **how)
    taught = api.finetune(encoder, table, tmp_path / "s", teacher=tmp_path / "t", **how)
    assert taught["teacher"] == str(tmp_path / "t")
    assert json.loads((tmp_path / "s" / "scores.json").read_text())["teacher"] == str(tmp_path / "t")
    with pytest.raises(DataError, match=r"learned from .* of the 6 records"):
        api.finetune(encoder, table, tmp_path / "x", teacher=tmp_path / "t", seed=1, **how)
    with pytest.raises(DataError, match="does not know ann"):
        api.finetune(
            encoder, table, tmp_path / "x", teacher=tmp_path / "t", **how | {"label": "speaker", "group": None}
        )
    build = lambda **inputs: encoders.build("vit_mini", inputs=kaldi_inputs(**inputs), patch=8, depth=1)  # noqa: E731
    for inputs, said in (({"frames": 24}, "may not read more"), ({"frames": 64, "mels": 40}, "other spectrograms")):
        student = build(**{"mels": 32, "rate": 8000} | inputs)
        with pytest.raises(UsageError, match=said):
            api.finetune(student, table, tmp_path / "x", teacher=tmp_path / "t", **how)
    with pytest.raises(UsageError, match="takes the waveform"):
        api.finetune(write_speech_model(tmp_path / "m"), table, tmp_path / "x", teacher=tmp_path / "t", **how)
    with pytest.raises(BadSettings, match="stage = before"):
        api.finetune(
            encoder, table, tmp_path / "x", teacher=tmp_path / "t", contrast="supcon", stage="before", **how
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


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
        ({"contrast": "supcon", "set": ["mixup=0.5"]}, BadSettings, "Set mixup=0"),
        ({"teacher": "nowhere"}, DataError, "holds no classifier"),
        ({"shots": 3, "neck": 1}, UsageError, "--neck and --shots: for images"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_read(changes, error, said, encoder, tmp_path):
    with pytest.raises(error, match=said):
        api.finetune(encoder, tmp_path / "nothing", tmp_path / "c", workers=0, **changes)


def test_an_encoder_of_images_has_no_speakers(digits, tmp_path):
    with pytest.raises(UsageError, match="--group and --contrast: for encoders of sounds"):
        api.finetune("vit_mini:random", digits, tmp_path / "c", group="speaker", contrast="supcon")
