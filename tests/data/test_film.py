import shutil

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.made_clips import write_clips, write_film
from tacit.data import Recording
from tacit.data.film import Film, FilmCut
from tacit.errors import BadRecord


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Eight seconds at 10 a second, a key frame each second; the red of frame k is 3 k, and the sound gets louder."""
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    frames = np.zeros((80, 32, 48, 3), np.uint8)
    frames[..., 0] = 3 * np.arange(80)[:, None, None]
    frames[:, :16, :24, 1] = 200
    t = np.arange(8 * 16_000) / 16_000
    write_film(path, frames, 10, (np.sin(2 * np.pi * 440 * t) * t / 10).astype(np.float32), 16_000)
    return path


def whole(path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return np.array([t for t, _ in frames]), np.stack([x for _, x in frames])


def full(film: Film, times) -> np.ndarray:
    return film.crops([FilmCut(times, 0, 0, film.height, film.width, (film.height, film.width))])[0]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".ts"])
def test_frames_are_those_of_decoding_all(film, tmp_path, ending):
    path = tmp_path / f"b{ending}"
    with av.open(str(film)) as source, av.open(str(path), "w") as target:  # the same packets in another container
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    times, frames = whole(path)
    times = times - times[0]
    for start in (0.0, 0.53, 3.97, 7.2):
        wanted = start + np.arange(7) / 9
        found = full(Film(path), wanted)
        at = [max(np.searchsorted(times, t % Film(path).seconds + 1e-3, side="right") - 1, 0) for t in wanted]
        np.testing.assert_array_equal(found, frames[at])


def test_no_more_is_decoded_than_is_needed(film):
    piece = Film(film)
    assert piece.extent == (80, 10.0, 32, 48)
    full(piece, 6.05 + np.arange(5) / 10)
    assert piece.decoded <= 8  # from the key frame at 6.0, and one that shows where the last one ends
    ends = Film(film)
    full(ends, [0.0, 7.0])
    assert ends.decoded <= 4  # what lies between is jumped over


def test_a_film_shorter_than_the_piece_comes_round_again(film):
    x = full(Film(film), [7.8, 7.9, 8.0, 8.1])
    np.testing.assert_array_equal(x[2:], full(Film(film), [0.0, 0.1]))


def test_cuts_are_resized_flipped_and_alike_in_all_frames(film):
    one = Film(film)
    left = FilmCut([1.0, 1.5], 0, 0, 16, 24, (8, 8))
    plain, flipped = one.crops([left, left._replace(left=12, flip=True)])
    assert plain.shape == flipped.shape == (2, 8, 8, 3)
    assert plain[..., 1].min() > 120  # all of it is green, but for the blur of colours at its edges
    assert flipped[:, :, 6:, 1].mean() > 150 > 60 > flipped[:, :, :2, 1].mean()


def test_a_piece_of_a_longer_file_is_a_film_and_a_sound(film):
    piece = Film(film, start=2.0, end=5.0)
    assert (piece.frames, piece.seconds) == (30, 3.0)
    np.testing.assert_array_equal(full(piece, [0.5, 3.5]), full(Film(film), [2.5, 2.5]))
    sound, all_of_it = Recording(film, start=2.0, end=5.0), Recording(film)
    assert sound.samples == 3 * sound.rate
    np.testing.assert_array_equal(sound._all(), all_of_it._all()[2 * sound.rate : 5 * sound.rate])
    with pytest.raises(BadRecord, match="ends before 9 s"):
        Film(film, start=9.0)


def test_the_rate_may_vary(tmp_path):
    path, times = tmp_path / "v.mp4", np.cumsum([0, *np.tile([1, 2, 5], 8)])
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=20)
        stream.height = stream.width = 32
        for k, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * k, np.uint8), format="rgb24")
            frame.pts = int(t)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    wanted = np.arange(50) / 20
    found = full(Film(path), wanted)[:, 16, 16, 0] / 9
    np.testing.assert_allclose(found, np.searchsorted(times / 20, wanted + 1e-3, side="right") - 1, atol=0.3)


def test_a_film_that_is_shown_turned_is_turned_after_the_cut(tmp_path):
    path, x = tmp_path / "r.mp4", np.zeros((32, 48, 3), np.uint8)
    x[:, 24:] = 200
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width = 32, 48
        stream.set_display_rotation(90)
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(x, format="rgb24")))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == 90  # counter-clockwise, so that the right side is on top
    (found,) = Film(path).crops([FilmCut([0.2], 0, 0, 32, 48, (16, 16))])
    assert found[0, :7].mean() > 150 > 50 > found[0, 9:].mean()


def test_frames_in_a_folder_have_the_rate_that_is_said(tmp_path):
    for k in range(12):
        Image.fromarray(np.full((20, 24, 3), 10 * k, np.uint8)).save(tmp_path / f"f{k}.png")
    film = Film(tmp_path, 4.0)
    assert film.extent == (12, 4.0, 20, 24)
    assert full(film, [0.0, 2.49, 2.5, 3.25])[:, 0, 0, 0].tolist() == [0, 90, 100, 10]
    assert film.decoded == 4
    with pytest.raises(BadRecord, match="frames without a rate"):
        Film(tmp_path)


def test_trouble_has_short_reasons(film, tmp_path):
    data = film.read_bytes()
    reasons = {
        "cut.mp4": (data[: len(data) // 2], "truncated or damaged"), "page.mp4": (b"<html>no such film</html>", "HTML"),
        "empty.mp4": (b"", "empty file"), "picture.mp4": (b"\xff\xd8\xff\xe0" + bytes(300), "JPEG"),
        "list.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "looks like text"),
    }  # fmt: skip
    for name, (content, reason) in reasons.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadRecord, match=reason):
            full(Film(tmp_path / name), [0.0])
    with pytest.raises(BadRecord, match="no such file"):
        Film(tmp_path / "nothing.mp4")


def test_a_film_that_breaks_off_is_read_as_far_as_it_goes(film, tmp_path):
    path = tmp_path / "t.ts"
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    mkv = tmp_path / "t.mkv"
    with av.open(str(path)) as source, av.open(str(mkv), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    data = mkv.read_bytes()
    mkv.write_bytes(data[: len(data) * 6 // 10])
    full(Film(mkv), [0.0, 1.0])
    with pytest.raises(BadRecord, match="truncated"):
        full(Film(mkv), [7.5])


def test_the_sound_track_is_a_recording_read_in_part(film, tmp_path):
    track = Recording(film)
    assert track.rate == 16_000
    assert abs(track.samples / 16_000 - 8) < 0.1
    loud = [np.abs(track._read(s * 16_000, (s + 1) * 16_000)).max() for s in range(7)]
    np.testing.assert_allclose(loud, (np.arange(7) + 1) / 10, atol=0.05)  # the sample is where its time is
    write_film(tmp_path / "mute.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, None, 0)
    with pytest.raises(BadRecord, match="no sound in it"):
        Recording(tmp_path / "mute.mp4")


def test_made_clips_are_the_same_whatever_their_number(tmp_path):
    write_clips(tmp_path / "a", 2, size=32, seconds=(0.5, 0.7))
    write_clips(tmp_path / "b", 3, size=32, seconds=(0.5, 0.7))
    assert (tmp_path / "a" / "00001.srt").read_text() == (tmp_path / "b" / "00001.srt").read_text()
    for name in ("00000.mp4", "00001.mp4"):
        np.testing.assert_array_equal(whole(tmp_path / "a" / name)[1], whole(tmp_path / "b" / name)[1])
    shutil.rmtree(tmp_path / "b")
