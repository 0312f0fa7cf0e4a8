import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tacit import api, encoders
from tacit.data import open_source, open_splits
from tacit.errors import DataError, UsageError
from tacit.evaluation import evaluate
from tacit.evaluation.features import features, raw
from tacit.evaluation.protocols import everything
from tacit.views import Inputs, kaldi_inputs

INPUTS = kaldi_inputs(frames=32, mels=16, rate=8000)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return encoders.build("vit_mini", inputs=INPUTS, patch=8).eval()


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    where = tmp_path_factory.mktemp("encoder")
    encoders.save(encoder, where)
    return where


def test_raw_sounds_are_means_and_deviations_over_time(tones):
    source = open_source(tones)
    found = raw(source, INPUTS)
    assert found.x.shape == (40, 32)
    (wave,) = source[5]["audio"].crops([INPUTS.centre(*source[5]["audio"].extent)])
    bands = INPUTS.prepare(torch.from_numpy(wave)[None])[0, 0].numpy()
    np.testing.assert_allclose(found.x[5], np.concatenate([bands.mean(0), bands.std(0)]), rtol=1e-4, atol=1e-5)


def test_an_encoder_of_sounds_is_what_it_was_when_it_is_loaded(encoder, folder, tones):
    again = encoders.load(folder)
    assert again.inputs == INPUTS
    source = open_source(tones)
    x = features(encoder, source).x
    assert x.shape == (40, encoder.width)
    torch.testing.assert_close(features(again, source).x, x)
    assert encoders.like(again).inputs == INPUTS


def test_tones_are_told_apart(folder, tones):
    found = api.evaluate(folder, tones, protocol="knn,linear", cache=False, workers=0)
    scores = {(r["protocol"], r["of"]): r["value"] for r in found["results"]}
    assert {of for _, of in scores} == {"run", "random-init", "raw-input"}
    assert scores["knn", "raw-input"] == scores["linear", "raw-input"] == 1.0
    assert scores["linear", "run"] > 0.8
    assert found["inputs"]["kind"] == "sound"
    assert found["notes"] == []
    json.dumps(found)


def test_all_protocols_that_there_are_for_sounds(encoder, tones):
    train, _ = open_splits(tones)
    chosen, skipped = everything("class", 2, encoder.inputs)
    assert set(chosen) == {"knn", "linear", "few_shot", "clinical", "retrieval", "label_free"}
    assert skipped["fine_tune"].startswith("it is for images, films and")
    assert skipped["correspondence"] == "it is for images"
    assert "correspondence" in everything("class", 2, Inputs(8, 3))[0]
    found = evaluate(encoder, train, None, ["label_free"], baselines=False)
    (measure,) = [r for r in found["results"] if r["metric"] == "rankme"]
    assert measure["settings"]["left_out"]["lidar"] == "its views are of images"


@pytest.mark.parametrize("protocol", ["fine_tune", "linear_sgd", "attentive", "correspondence", "segment", "attention"])
def test_protocols_of_images_are_refused_by_name(folder, tones, protocol):
    with pytest.raises(UsageError, match=rf"^{protocol} is for images,.* and the encoder looks at sounds"):
        api.evaluate(folder, tones, protocol=protocol, workers=0)


def test_verbs_of_images_are_refused(folder, tones):
    with pytest.raises(UsageError, match="exams is for images"):
        api.exams(folder, tones, "label")
    with pytest.raises(UsageError, match="not made anew for another size"):
        encoders.at_size(encoders.load(folder), 64)


def test_pictures_are_refused(folder, digits):
    with pytest.raises(DataError, match="holds images, and the encoder looks at sounds"):
        api.evaluate(folder, digits, workers=0)


def test_several_labels_a_record_by_audiosets_manifest(encoder, tones, tmp_path):
    rows = [
        {"wav": str(path), "labels": path.parent.name + (",odd" if i % 3 else "")}
        for i, path in enumerate(sorted(tones.rglob("*.wav")))
    ]
    (tmp_path / "set.json").write_text(json.dumps({"data": rows}))
    train, _ = open_splits(tmp_path / "set.json")
    found = evaluate(encoder, train, None, ["multi_label"], baselines=False)
    assert {r["n"] for r in found["results"]}
    assert any(r["value"] > 0.6 for r in found["results"])
    three = evaluate(encoder, train, None, ["multi_label:metric=audioset"], baselines=False)["results"]
    assert [row["metric"] for row in three] == ["map", "auroc", "d_prime"]
    assert three[0]["value"] == found["results"][0]["value"]
    assert all(np.isfinite([row["value"], row["low"], row["high"]]).all() for row in three)


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_embed(encoder, folder, tones, tmp_path, ending):
    out = tmp_path / f"vectors.{ending}"
    said = api.embed(folder, tones, out, workers=0)
    assert said["rows"] == 40
    want = features(encoder, open_source(tones)).x
    if ending == "npy":
        found = np.load(out)
    else:
        table = pq.read_table(out)
        assert table["path"][0].as_py() == "high/000.wav"
        found = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_other_rates_are_said(tones, tmp_path):
    other = encoders.build("vit_mini", inputs=kaldi_inputs(frames=32, mels=16, rate=16000), patch=8)
    encoders.save(other, tmp_path / "e")
    said = api.embed(tmp_path / "e", tones, tmp_path / "x.npy", workers=0)
    assert said["notes"][0].startswith("Sounds are resampled from 8,000 Hz to 16,000 Hz")


def test_export_takes_spectrograms(folder, tmp_path):
    made = api.export(folder, "torch", tmp_path / "out")
    assert made["difference"] < 1e-5
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "float32 [B, 1, 32, 16], made of a recording" in readme
    assert encoders.load(tmp_path / "out", foreign=True).inputs == INPUTS
    with pytest.raises(UsageError, match="timm has no words for how sounds"):
        api.export(folder, "timm", tmp_path / "timm")
