"""Vectors of frames and of whole recordings, by pieces."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tacit import api, encoders
from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.evaluation import choices, features
from tacit.evaluation.frames import frames_of, grid_of, of_bands, of_encoder, whole_features, wholes_of
from tacit.views import kaldi_inputs, mel_db_inputs

RATE = 8000


@pytest.fixture(scope="module")
def atst():
    torch.manual_seed(0)
    inputs = mel_db_inputs(101, rate=RATE, high=4000)  # a second, 25 frames
    how = {"class_token": False, "cut_positions": 200, **encoders.MEAN_PATCH}
    return encoders.build("vit_mini", inputs=inputs, patch=(4, 64), **how).eval()


@pytest.fixture(scope="module")
def asit():
    torch.manual_seed(0)
    return encoders.build("vit_mini", inputs=kaldi_inputs(96, 64, RATE), patch=8).eval()


def beeps(path, seconds: float, at: tuple[float, ...], rate: int = RATE):
    """Quiet noise, and a tone of 1,000 Hz for 0.2 s from each of these times on."""
    t = np.arange(int(seconds * rate)) / rate
    x = np.random.default_rng(0).normal(0, 1e-3, len(t))
    for begin in at:
        x += np.where((t >= begin) & (t < begin + 0.2), 0.5 * np.sin(2 * np.pi * 1000 * t), 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate)


def gathered(make, encoder, source, overlap=0.0, **how):
    found, bad = {}, []
    for index, first, x in frames_of(make, encoder, source, grid_of(encoder, overlap), bad, **how):
        assert first == sum(map(len, found.setdefault(index, [])))
        found[index].append(x)
    return {index: torch.cat(parts) for index, parts in found.items()}, bad


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_times_are_right_across_the_edges_of_pieces(atst, tmp_path, overlap, rate):
    at = (0.4, 0.92, 1.96, 7.0, 35.48)  # some lie over an edge; beyond 30 s only parts of a recording are decoded
    beeps(tmp_path / "a" / "x.wav", 36.1, at, rate)
    found, bad = gathered(of_bands(atst), atst, open_source(tmp_path / "a"), overlap)
    assert bad == []
    assert found[0].shape == (902, 64)
    frames = (np.arange(902) + 0.5) * 0.04
    band = int(found[0].std(0).argmax())
    heard = found[0][:, band] > found[0][:, band].amax() - 0.3
    wanted = np.any([(frames >= b) & (frames < b + 0.2) for b in at], axis=0)
    assert (heard.numpy() != wanted).sum() <= 2 * len(at)  # a frame at each end at most
    assert not (heard.numpy() & ~np.convolve(wanted, np.ones(3), "same").astype(bool)).any()


def test_a_frame_is_the_token_of_its_time_and_the_mean_over_bands(atst, asit, tones):
    source = open_source(tones)
    for encoder, frames in ((atst, 12), (asit, 6)):
        found, _ = gathered(of_encoder(encoder), encoder, source)
        (wave,) = source[3]["audio"].crops([encoder.inputs.centre(*source[3]["audio"].extent)])
        with torch.no_grad():
            tokens = encoder.tokens(encoder.inputs.prepare(torch.from_numpy(wave)[None]))[0]
        rows = encoder.inputs.frames // encoders.step(encoder)
        torch.testing.assert_close(found[3], tokens.unflatten(0, (rows, -1)).mean(1)[:frames])


def test_batches_and_workers_change_nothing(atst, tones):
    source = open_source(tones)
    one, _ = gathered(of_encoder(atst), atst, source, batch_size=1)
    many, _ = gathered(of_encoder(atst), atst, source, batch_size=7, workers=1)
    assert list(one) == list(many)
    for index in one:
        torch.testing.assert_close(one[index], many[index])


def test_a_whole_recording_is_the_mean_of_its_pieces_by_what_they_add(atst, tones, tmp_path):
    beeps(tmp_path / "a" / "x.wav", 2.4, (0.5,))
    source = open_source(tmp_path / "a")
    ((_, found),) = wholes_of(atst, atst, source, grid_of(atst), [])
    wave = torch.from_numpy(source[0]["audio"]._all())
    starts, added = (0, 25 * 320, 35 * 320), (25, 17, 18)
    with torch.no_grad():
        parts = atst(atst.inputs.prepare(torch.stack([wave[s : s + RATE] for s in starts])[:, None]))
    torch.testing.assert_close(found, (parts * torch.tensor(added)[:, None]).sum(0) / 60)
    short = open_source(tones)  # of half a second each: their middle is all there is
    every = torch.stack([x for _, x in wholes_of(atst, atst, short, grid_of(atst), [])])
    torch.testing.assert_close(every, features(atst, short).x)


def test_features_of_all_of_a_recording_are_the_means_over_its_pieces(asit, tones, tmp_path):
    beeps(tmp_path / "a" / "x.wav", 2.3, (0.5,))
    source, names = open_source(tmp_path / "a"), ("pooled", "mean", "blocks")
    found = whole_features(asit, source, names)
    grid = grid_of(asit)
    pieces = grid.pieces(grid.frames(*source[0]["audio"].extent))
    wave = torch.from_numpy(source[0]["audio"]._all())
    waves = torch.stack([wave[p.start * grid.frame :][: asit.inputs.samples] for p in pieces])[:, None]
    added = torch.tensor([p.stop - p.first for p in pieces]).float()
    with torch.no_grad():
        x = asit.inputs.prepare(waves)
        parts = choices.choose(asit, x, names)
    for name in names:
        torch.testing.assert_close(found.more[name], (added @ parts[name])[None] / added.sum())
    bands = torch.cat([x[:, 0].mean(1), x[:, 0].std(1, correction=0)], 1)
    torch.testing.assert_close(whole_features(asit, source, bands=True).x, (added @ bands)[None] / added.sum())


def test_an_evaluation_looks_at_all_of_a_recording_if_asked(asit, tmp_path, digits):
    """The class is told by a tone at the beginning, which the middle does not hold."""
    for part in ("train", "test"):
        for i in range(12):
            beeps(tmp_path / part / ("tone" if i % 2 else "none") / f"{i}.wav", 4.0, (0.1 + i / 100,) if i % 2 else ())
    how = {"protocol": "knn:k=1", "baselines": True, "workers": 0, "cache": False}
    both = [api.evaluate(asit, tmp_path, whole=way, **how) for way in (True, False)]
    assert both[0]["split"] == f"{both[1]['split']}, all of each recording"
    assert both[0]["split_hash"] != both[1]["split_hash"]
    whole, middle = ({r["of"]: r["value"] for r in found["results"]} for found in both)
    assert whole == {"run": 1.0, "random-init": 1.0, "raw-input": 1.0}
    assert max(middle.values()) < 1.0
    with pytest.raises(UsageError, match="Frames and whole recordings are of sounds"):
        api.evaluate("vit_mini:random", digits, whole=True, workers=0)


def test_parts_that_cannot_be_read_are_left_out_and_said(atst, tmp_path):
    folder = tmp_path / "a"
    beeps(folder / "good.wav", 1.0, ())
    (folder / "empty.wav").write_bytes(b"")
    x = np.random.default_rng(0).normal(0, 0.1, 40 * RATE).astype(np.float32)
    x[int(35.5 * RATE)] = np.nan
    soundfile.write(folder / "long.wav", x, RATE, subtype="FLOAT")
    source = open_source(folder)
    bad, names = [], []
    for index, first, part in frames_of(of_bands(atst), atst, source, grid_of(atst), bad):
        names += [(source.name(index), k) for k in range(first, first + len(part))]
    assert bad == [("empty.wav", "empty file"), ("long.wav", "from 35.0 s on: NaN or infinite values")]
    assert {k for name, k in names if name == "long.wav"} == set(range(1000)) - set(range(875, 900))
    for path in (folder / "good.wav", folder / "long.wav"):
        path.unlink()
    with pytest.raises(DataError, match=r"None of the 1 recordings can be read; the first: empty\.wav: empty file"):
        list(frames_of(of_bands(atst), atst, open_source(folder), grid_of(atst), []))


def test_embed_writes_frames_with_their_times(atst, tmp_path):
    encoders.save(atst, tmp_path / "encoder")
    beeps(tmp_path / "a" / "x.wav", 2.4, (0.5,))
    beeps(tmp_path / "a" / "y.wav", 0.5, ())
    seen = []
    said = api.embed(
        tmp_path / "encoder", tmp_path / "a", tmp_path / "x.parquet", frames=True, overlap=0.5, workers=0,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["path", "start", "end", "vector"]
    assert (said["rows"], said["frame"], len(table)) == (72, 0.04, 72)
    assert seen[-1] == ("embedding", 2, 2)
    assert table["path"].to_pylist() == ["x.wav"] * 60 + ["y.wav"] * 12
    np.testing.assert_allclose(table["start"].to_numpy()[:60], np.arange(60) * 0.04)
    np.testing.assert_allclose(table["end"].to_numpy() - table["start"].to_numpy(), 0.04)
    want, _ = gathered(of_encoder(atst), atst, open_source(tmp_path / "a"), 0.5)
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(vectors, torch.cat([want[0], want[1]]), atol=1e-5)
    assert api.embed(tmp_path / "encoder", tmp_path / "a", tmp_path / "w.npy", whole=True, workers=0)["rows"] == 2
    assert np.load(tmp_path / "w.npy").shape == (2, 128)
    json.dumps(said)


def test_what_cannot_be_asked_for_is_said(atst, tones, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.parquet"):
        api.embed(atst, tones, tmp_path / "x.npy", frames=True)
    with pytest.raises(UsageError, match="leave one out"):
        api.embed(atst, tones, tmp_path / "x.parquet", frames=True, whole=True)
    with pytest.raises(UsageError, match=r"--overlap 0\.5: is for --frames or --whole"):
        api.embed(atst, tones, tmp_path / "x.parquet", overlap=0.5)
    picture = encoders.build("vit_mini", size=16)
    with pytest.raises(UsageError, match="Frames and whole recordings are of sounds, and vit_mini looks at images"):
        api.embed(picture, tones, tmp_path / "x.parquet", frames=True)
    with pytest.raises(UsageError, match="whole recordings are of sounds"):
        api.embed(picture, tones, tmp_path / "x.parquet", whole=True)
    encoders.save(atst, tmp_path / "encoder")
    api.export(tmp_path / "encoder", "torch", tmp_path / "out")
    with pytest.raises(UsageError, match="gives one vector a sound and no tokens"):
        api.embed(tmp_path / "out", tones, tmp_path / "x.parquet", frames=True)
    assert not list(tmp_path.glob("x.*"))
