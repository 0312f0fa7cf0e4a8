"""`events` asked for like every other protocol."""

import json

import numpy as np
import pytest
import soundfile
import torch

import tacit
from tacit import encoders
from tacit.errors import DataError, UsageError
from tacit.evaluation.scenes.events import best_cuts
from tacit.views import mel_db_inputs

RATE = 8000


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    inputs = mel_db_inputs(101, rate=RATE, high=4000)
    how = {"class_token": False, "cut_positions": 200, **encoders.MEAN_PATCH}
    return encoders.build("vit_mini", inputs=inputs, patch=(4, 64), **how).eval()


def write_events(folder, count: int, seed: int):
    """Recordings of 3.5 s with a low tone and a high one of 0.4 to 0.9 s each, but for the last, in which is none."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), ["filename\tonset\toffset\tevent_label"]
    t = np.arange(int(3.5 * RATE)) / RATE
    for i in range(count):
        x = rng.normal(0, 1e-3, len(t))
        for name, pitch in (("low", 400), ("high", 2500)) if i + 1 < count else ():
            onset = rng.uniform(0, 2.5)
            offset = onset + rng.uniform(0.4, 0.9)
            x += np.where((t >= onset) & (t < offset), 0.3 * np.sin(2 * np.pi * pitch * t), 0)
            rows.append(f"{i}.wav\t{onset:.3f}\t{offset:.3f}\t{name}")
        soundfile.write(folder / f"{i}.wav", x, RATE)
    (folder / "events.tsv").write_text("\n".join([*rows, f"{count - 1}.wav\t\t\t"]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("events")
    write_events(root / "train", 12, 0)
    write_events(root / "test", 6, 1)
    return root


def test_events_are_found_beside_both_baselines(encoder, folder):
    result = tacit.evaluate(encoder, folder, protocol="events,events:threshold=half:median=0.01:points=9", workers=0)
    rows = {(r["protocol"], r["metric"], r["of"]): r for r in result["results"]}
    assert {of for _, _, of in rows} == {"run", "random-init", "raw-input"}
    f1 = {"segment_f1", "segment_f1_macro", "event_f1", "event_f1_macro"}
    assert {m for _, m, _ in rows} == f1 | {"psds1", "psds2"}
    for metric in ("segment_f1", "event_f1_macro", "psds1", "psds2"):
        row = rows["events", metric, "raw-input"]  # tones are bands
        assert row["value"] > 0.9
        assert row["low"] <= row["value"] <= row["high"] <= 1
    row = rows["events", "event_f1", "run"]
    assert row["n"] == 6
    assert set(row["settings"]["per_class"]) == {"low", "high"}
    assert row["settings"]["frame"] == 0.04
    row = rows["events", "psds1", "run"]
    assert row["n"] == 6
    assert set(row["settings"]["per_class"]) == {"low", "high"}
    assert (row["settings"]["points"], row["settings"]["dtc"]) == (50, 0.7)
    half = "events:threshold=half:median=0.01:points=9"
    assert rows[half, "event_f1", "run"]["settings"]["thresholds"]["low"] == 0.5
    assert rows[half, "psds2", "run"]["settings"]["points"] == 9
    json.dumps(result)


def test_recordings_that_cannot_be_read_are_left_out_and_listed(encoder, folder, tmp_path):
    write_events(tmp_path / "test", 4, 2)
    (tmp_path / "test" / "0.wav").write_bytes(b"")
    result = tacit.evaluate(encoder, folder / "train", tmp_path / "test", "events", baselines=False, workers=0)
    assert result["results"][0]["n"] == 3
    assert result["bad_files"] == [("0.wav", "empty file")]


def test_thresholds_are_those_of_the_best_f1():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.3], [0.3, 0.1], [0.1, 0.8]])
    targets = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], np.int8)
    np.testing.assert_array_equal(best_cuts(probabilities, targets), [0.4, 0.5])


def test_what_cannot_be_asked_for_is_said(encoder, folder, digits, tmp_path):
    with pytest.raises(UsageError, match=r"events is for sounds, and the encoder looks at images\. There is: knn"):
        tacit.evaluate(encoders.build("vit_mini", size=16), folder, protocol="events")
    with pytest.raises(UsageError, match=r"has no train/ and test/\. events needs train/ and test/"):
        tacit.evaluate(encoder, folder / "train", protocol="events")
    with pytest.raises(UsageError, match="no threshold 'third'"):
        tacit.evaluate(encoder, folder, protocol="events:threshold=third")
    with pytest.raises(UsageError, match=r"overlap = 2: must be a share"):
        tacit.evaluate(encoder, folder, protocol="events:overlap=2")
    with pytest.raises(DataError, match="holds no table"):
        tacit.evaluate(encoder, digits, digits, "events")
