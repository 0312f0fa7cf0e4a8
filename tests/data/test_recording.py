import io

import numpy as np
import pytest
import soundfile

from tacit.data import recording
from tacit.data.recording import Recording, Segment, length_at, resample
from tacit.errors import BadRecord, MissingExtra


def sweep(seconds: float, rate: int = 8000, low: float = 100, high: float = 1500) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (low + (high - low) * t / (2 * max(seconds, 1e-9))) * t)).astype(np.float32)


def encoded(x: np.ndarray, rate: int = 8000, **how) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, **{"format": "WAV", **how})
    return file.getvalue()


def in_container(path, x: np.ndarray, rate: int, container: str | None = None) -> bytes:
    av = pytest.importorskip("av")  # tests run with the extra; a bare installation reads no AAC
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream("aac", rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(x[None], format="fltp", layout="mono")
        frame.rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("how", [{}, {"format": "FLAC"}, {"format": "OGG"}, {"format": "AIFF"}, {"subtype": "FLOAT"}])
def test_a_segment_is_the_files_own_samples(how):
    x = sweep(1)
    data = encoded(x, **how)
    rec = Recording(data)
    assert rec.extent == (8000, 8000)
    assert rec.channels == 1
    whole = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    head, tail = rec.crops([Segment(1000, 500, 8000), Segment(7800, 400, 8000)])
    assert head.dtype == np.float32
    np.testing.assert_array_equal(head, whole[None, 1000:1500])
    np.testing.assert_array_equal(tail[0], np.concatenate([whole[7800:], np.zeros(200, np.float32)]))
    assert np.abs(whole - x).max() < (0.2 if how.get("format") == "OGG" else 1e-4)


def test_mp3_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sweep(2, 16000), 16000)
    rec = Recording(tmp_path / "a.mp3")
    assert rec.rate == 16000
    assert abs(rec.samples - 32000) < 2400
    assert np.abs(rec.crops([Segment(4000, 16000, 16000)])[0]).max() > 0.3


def test_channels_are_averaged_and_a_roll_comes_before_the_cut():
    x = np.stack([np.arange(10), np.arange(10) + 2], 1).astype(np.float32) / 100
    rec = Recording(encoded(x, 1000, subtype="FLOAT"))
    assert rec.channels == 2
    mean = x.mean(1)
    np.testing.assert_allclose(rec.crops([Segment(0, 10, 1000)])[0][0], mean, atol=1e-7)
    rolled = np.roll(mean, 3)
    for start, n in ((0, 10), (1, 4), (2, 6), (5, 9)):
        want = np.pad(rolled[start : start + n], (0, max(start + n - 10, 0)))
        np.testing.assert_allclose(rec.crops([Segment(start, n, 1000, 3)])[0][0], want, atol=1e-7)
    assert not rec.crops([Segment(20, 5, 1000)])[0].any()


def test_arrays_have_channels_first_and_integers_fill_their_range():
    x = np.array([[0, 16384, -32768], [0, 0, 0]], np.int16)
    rec = Recording(x, 100)
    assert rec.extent == (3, 100)
    np.testing.assert_allclose(rec.crops([Segment(0, 3, 100)])[0][0], [0, 0.25, -0.5])
    with pytest.raises(BadRecord, match=r"not a sound \(an array \[2, 2\] of <U1\)"):
        Recording(np.array([["a", "b"]] * 2), 100)
    with pytest.raises(BadRecord, match="no samples"):
        Recording(x)


@pytest.mark.parametrize(("rate", "other"), [(8000, 16000), (44100, 16000), (48000, 32000), (11025, 16000)])
def test_a_tone_keeps_its_height_and_strength_at_another_rate(rate, other):
    t = np.arange(rate) / rate
    y = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), rate, other)
    assert len(y) == length_at(rate, rate, other) == other
    assert y.dtype == np.float32
    middle = slice(other // 10, -other // 10)
    want = np.sin(2 * np.pi * 1000 * np.arange(other) / other)
    assert np.abs(y - want)[middle].max() < 2e-3


def test_what_another_rate_cannot_hold_is_gone():
    t = np.arange(32000) / 32000
    y = resample(np.sin(2 * np.pi * 4400 * t).astype(np.float32), 32000, 8000)
    assert np.abs(y[500:-500]).max() < 1e-3


@pytest.mark.parametrize(("rate", "other"), [(8000, 8000), (8000, 16000), (11025, 8000), (8000, 6000)])
@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_of_a_long_file_a_part_is_decoded_and_is_the_same(tmp_path, monkeypatch, rate, other, form):
    path = tmp_path / f"long.{form}"
    soundfile.write(path, sweep(6, rate), rate, format=form)
    cuts = [Segment(0, 300, other), Segment(12345, 1000, other), Segment(5 * other, 2 * other, other)]
    cuts += [Segment(100, 900, other, 600)]
    whole = Recording(path).crops(cuts)
    monkeypatch.setattr(recording, "SHORT", 1.0)
    rec, asked = Recording(path), []
    read = rec._reader.read
    rec._reader.read = lambda a, b: asked.append(b - a) or read(a, b)
    for a, b in zip(whole, rec.crops(cuts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert sum(asked) < 0.6 * 6 * rate


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, n).astype(np.float32)


def part(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


def square(n: int) -> np.ndarray:
    return np.where(np.arange(n) // 20 % 2, 1.0, -1.0).astype(np.float32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html></html>" * 9, r"not a sound \(looks like HTML or XML\)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), r"not a sound \(looks like a PNG image\)"),
        (b"words and words " * 9, r"not a sound \(looks like text\)"),
        (bytes(4000), r"not a sound \(zeros\)"),
        (b"fLaC" + bytes(99), r"damaged \(FLAC\)"),
        (encoded(np.zeros(0)), "no samples"),
        (encoded(np.zeros(800)), "silence"),
        (encoded(np.full(800, 0.25)), "silence"),
        (encoded(np.stack([noise(99), -noise(99)], 1), subtype="FLOAT"), "silence"),
        (encoded(np.array([0.1, np.nan, 0.2]), subtype="FLOAT"), "NaN or infinite values"),
        (encoded(np.array([0.1, np.inf, 0.2]), subtype="FLOAT"), "NaN or infinite values"),
        (encoded(square(800)), "clipped"),
        (part(encoded(noise(8000))), "truncated"),
        (part(encoded(noise(8000), format="AIFF")), "truncated"),
        (part(encoded(noise(80000), format="FLAC")), "truncated or damaged"),
        (part(encoded(noise(80000), format="OGG")), "truncated"),
        (part(encoded(noise(80000), format="MP3")), "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # bytes may hold the time they were written at
)
def test_what_is_wrong_with_a_file_is_said_in_a_word(data, reason):
    with pytest.raises(BadRecord, match=f"^{reason}"):
        Recording(data).check()


def test_a_pipe_that_did_not_know_its_length_is_no_broken_file():
    data = bytearray(encoded(noise(4000)))
    at = data.find(b"data")
    data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    Recording(bytes(data)).check()


def test_loud_sound_is_no_damage():
    Recording(encoded(np.clip(4 * sweep(1) * noise(8000), -1, 1))).check()


def test_a_long_recording_may_be_silent_for_a_while(monkeypatch):
    monkeypatch.setattr(recording, "SHORT", 1.0)
    quiet = np.zeros(40000, np.float32)
    with pytest.raises(BadRecord, match="silence"):
        Recording(encoded(quiet)).crops([Segment(100, 100, 8000)])
    quiet[-4000:] = sweep(0.5)
    assert not Recording(encoded(quiet)).crops([Segment(100, 100, 8000)])[0].any()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BadRecord, match="no such file"):
        Recording(tmp_path / "gone.wav")
    with pytest.raises(BadRecord, match="cannot be read"):
        Recording(tmp_path)


@pytest.mark.parametrize("name", ["a.m4a", "a.aac"])
def test_m4a_and_aac(tmp_path, monkeypatch, name):
    x = sweep(4, 16000)
    data = in_container(tmp_path / name, x, 16000, "adts" if name == "a.aac" else None)
    rec = Recording(tmp_path / name)
    late = 1024 if name == "a.aac" else 0  # frames by themselves begin with the encoder's delay, and say nothing of it
    assert rec.rate == 16000
    assert late <= rec.samples - len(x) <= 2048
    cuts = [Segment(8000 + late, 4000, 16000), Segment(40000 + late, 4000, 16000)]
    for cut, found in zip(cuts, rec.crops(cuts), strict=True):
        assert np.abs(found[0] - x[cut.start - late :][:4000]).max() < 0.02
    monkeypatch.setattr(recording, "SHORT", 1.0)
    for cut, found in zip(cuts, Recording(data).crops(cuts), strict=True):
        assert np.abs(found[0] - x[cut.start - late :][:4000]).max() < 0.02
    with pytest.raises(BadRecord):
        Recording(data[: len(data) // 2]).check()


def test_what_has_no_sound_in_it(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for packet in (*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)):
            out.mux(packet)
    with pytest.raises(BadRecord, match="no sound in it"):
        Recording(tmp_path / "a.mp4")


def test_a_missing_package_is_named(monkeypatch):
    import builtins

    data, real = encoded(sweep(0.1)), builtins.__import__

    def without(name, *rest):
        if name in ("soundfile", "av"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"soundfile.*pip install 'tacit\[audio\]'"):
        Recording(data)
    with pytest.raises(MissingExtra, match=r"'av'.*pip install 'tacit\[audio\]'"):
        Recording(b"\0\0\0\x1cftypM4A " + bytes(99))
