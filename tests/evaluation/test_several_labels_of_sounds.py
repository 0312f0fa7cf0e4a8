"""Sounds with several labels each: what the loss counts, that it learns, how it is kept, asked and scored."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from pyarrow import parquet

from tacit import api, encoders
from tacit.data import open_source
from tacit.errors import BadSettings, DataError, UsageError
from tacit.evaluation import classifier
from tacit.evaluation.parts import check_taught, parted
from tacit.evaluation.sound_augment import changed
from tacit.evaluation.sound_recipes import RECIPES, Settings, for_several
from tacit.evaluation.sound_training import judged, train
from tacit.views import kaldi_inputs

TAGS = ("low", "high", "noise")
QUICK = replace(for_several(RECIPES["small"]), epochs=1, batch_size=8, precision="32")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """64 recordings with any of a low tone, a high tone and noise; cells `low;noise`, and columns of 1 and 0."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    t, cells, columns = np.arange(2400) / 8000, [], []
    for number in range(64):
        there = [number >> k & 1 for k in range(3)]
        parts = [0.3 * np.sin(2 * np.pi * f * rng.uniform(0.95, 1.05) * t) for f in (400, 2500)]
        wave = sum(on * x for on, x in zip(there, [*parts, rng.normal(0, 0.1, len(t))], strict=True))
        soundfile.write(folder / f"{number}.wav", wave + rng.normal(0, 0.002, len(t)), 8000)
        who = f"room{number // 8}"
        cells.append((f"{number}.wav", ";".join(tag for tag, on in zip(TAGS, there, strict=True) if on), who))
        columns.append((f"{number}.wav", *there, who))
    for name, head, rows in (("cells", ("path", "tags", "room"), cells), ("columns", ("path", *TAGS, "room"), columns)):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([head, *rows])
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    inputs = kaldi_inputs(frames=32, mels=32, rate=8000)
    return encoders.build("vit_mini", inputs=inputs, patch=8, depth=2).eval()


def test_the_loss_is_of_what_is_known_alone():
    logits = torch.tensor([[2.0, 0.0, -1.0], [1.0, 3.0, 0.5]], requires_grad=True)
    wanted = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan, 0.0, 1.0]])
    each = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(3.0)), np.log1p(np.exp(-0.5))]
    loss = judged("binary", logits, wanted)
    assert float(loss.detach()) == pytest.approx(np.mean(each), rel=1e-6)
    loss.backward()
    assert (logits.grad == 0).tolist() == wanted.isnan().tolist()
    assert float(judged("binary", logits, torch.full((2, 3), torch.nan)).detach()) == 0


def test_mixtures_have_shares_of_labels_and_none_of_what_is_unknown(encoder):
    waves = 0.1 * torch.randn(4, 1, encoder.inputs.samples, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, torch.nan], [0.0, 1.0]])
    torch.manual_seed(0)
    partner, own = torch.randperm(4), torch.distributions.Beta(0.5, 0.5).sample((4,))
    assert partner[2] != 2
    torch.manual_seed(0)
    _, y = changed(Settings(mixup=1.0), encoder, waves, {}, labels, 2)
    assert torch.equal(y.isnan(), labels.isnan() | labels[partner].isnan())
    share = own[:, None]
    torch.testing.assert_close(y, share * labels + (1 - share) * labels[partner], equal_nan=True)
    torch.manual_seed(0)
    _, y = changed(Settings(mixup=1e-9), encoder, waves, {}, labels, 2)
    torch.testing.assert_close(y, labels, equal_nan=True)  # a recording that is not mixed keeps what is known of it


def test_unknown_labels_teach_nothing(encoder, tables):
    source = open_source(tables / "columns.csv", labels=list(TAGS))
    half, held = source.select(np.arange(32)), source.select(np.arange(32, 64))
    half.targets.values[:, 2] = -1
    model = train(encoder, half, held, settings=QUICK).model
    assert not model.head.weight[2].any()
    assert model.head.weight[:2].abs().amin(1).gt(0).all()


def test_it_learns_several_labels_and_is_asked_for_each(encoder, tables, tmp_path):
    how = {"workers": 0, "set": ["epochs=12", "batch_size=8", "precision=32"]}
    found = api.finetune(encoder, tables / "cells.csv", tmp_path / "c", label="tags", group="room", **how)
    scores = {row["metric"]: row for row in found["results"]}
    assert list(scores) == ["map", "auroc", "d_prime"]
    assert scores["map"]["value"] > 0.9
    assert scores["map"]["low"] <= scores["map"]["value"] <= scores["map"]["high"]
    assert set(scores["auroc"]["per_class"]) == set(TAGS) == set(found["classes"])
    assert np.isfinite([scores["d_prime"][key] for key in ("value", "low", "high")]).all()
    assert (found["settings"]["loss"], found["settings"]["batches"]) == ("binary", "shuffled")
    assert "confusion" not in found
    assert max(row["score"] for row in found["history"]) > 0.9
    rows = {row["path"]: row for row in csv.DictReader((tmp_path / "c" / "split.csv").open())}
    assert rows["3.wav"]["label"] == "high;low"
    rooms = {row["group"]: row["part"] for row in rows.values()}
    assert all(rooms[row["group"]] == row["part"] for row in rows.values())

    model, classes = classifier.load(tmp_path / "c")
    assert model.several
    said = api.predict(tmp_path / "c", tables / "columns.csv", tmp_path / "p.parquet", label=list(TAGS), workers=0)
    table = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert list(table) == ["path", *classes]
    x = encoder.inputs.prepare(torch.from_numpy(sound(tables, model, "5.wav")))
    at = table["path"].index("5.wav")
    torch.testing.assert_close(
        torch.tensor([table[name][at] for name in classes]), model(x).sigmoid()[0].detach(), atol=1e-5, rtol=0
    )
    assert said["results"][0]["metric"] == "map"
    assert said["results"][0]["value"] > 0.9
    assert "accuracy" not in said
    assert "results" not in api.predict(tmp_path / "c", tables / "cells.csv", tmp_path / "q.csv", workers=0)
    with pytest.raises(UsageError, match="several labels a record"):
        classifier.right(tmp_path / "c", open_source(tables / "cells.csv", labels=["tags"]))


def sound(folder, model, name):
    record = open_source(folder / "cells.csv", labels=None)
    record = next(record.record(i, ("audio",)) for i in range(len(record)) if record.name(i) == name)["audio"]
    return record.crops([model.encoder.inputs.centre(*record.extent)])[0][None]


def test_columns_and_cells_are_the_same_labels(encoder, tables, tmp_path):
    """Names are in another order in the one table, so that weights of the first epoch would differ: here the split."""
    how = {"workers": 0, "set": ["epochs=1", "batch_size=8"]}
    api.finetune(encoder, tables / "cells.csv", tmp_path / "a", label="tags", group="room", **how)
    found = api.finetune(encoder, tables / "columns.csv", tmp_path / "b", label=list(TAGS), group="room", **how)
    assert found["classes"] == list(TAGS)
    of = [
        {row["path"]: set(row["label"].split(";")) for row in csv.DictReader((tmp_path / name / "split.csv").open())}
        for name in "ab"
    ]
    assert of[0] == of[1]


def test_a_teacher_of_several_labels_teaches_in_the_order_of_its_own(encoder, tables, tmp_path):
    how = {"group": "room", "workers": 0, "set": ["epochs=1", "batch_size=8"]}
    api.finetune(encoder, tables / "cells.csv", tmp_path / "t", label="tags", **how)
    found = api.finetune(
        encoder, tables / "columns.csv", tmp_path / "s", label=list(TAGS), teacher=tmp_path / "t", **how
    )
    assert found["classes"] == sorted(TAGS)
    with pytest.raises(UsageError, match=r"tells several labels a recording, and the data has one class"):
        api.finetune(encoder, tables / "columns.csv", tmp_path / "x", label="low", teacher=tmp_path / "t", **how)


def test_parts_hold_whole_rooms_and_every_label_is_taught():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 4)) < 0.3).astype(np.int8)
    groups = np.repeat(np.arange(40), 5)
    parts = parted(groups, labels, list("abcd"), (0.15, 0.15), seed=0)
    assert sorted(np.concatenate(parts)) == list(range(200))
    assert not set(groups[parts[0]]) & set(groups[parts[2]])
    check_taught([labels[rows] for rows in parts], list("abcd"))
    with pytest.raises(DataError, match="training part has c, so"):
        check_taught([labels[rows] * [1, 1, 0, 1] for rows in parts], list("abcd"))
    with pytest.raises(DataError, match="test part has any"):
        check_taught([labels, labels, -labels], list("abcd"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contrast": "supcon"}, "contrast = supcon: needs recordings of one class"),
        ({"set": ["loss=softmax"]}, "loss = softmax: recordings have several labels"),
        ({"set": ["batches=balanced"]}, "batches = balanced: recordings have several labels"),
    ],
)
def test_what_needs_one_class_is_refused(changes, said, encoder, tables, tmp_path):
    with pytest.raises(BadSettings, match=said):
        api.finetune(encoder, tables / "cells.csv", tmp_path / "c", label="tags", workers=0, **changes)
    assert not (tmp_path / "c").exists()
