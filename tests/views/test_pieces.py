import numpy as np
import pytest

from tacit.data import open_source
from tacit.errors import DataError, UsageError
from tacit.views import Grid, Lengths, Pieces, kaldi_inputs, mel_db_inputs
from tests.conftest import write_tones


@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 16, 23, 100])
def test_every_frame_is_taken_once_and_from_within_its_piece(frames, overlap):
    pieces = Grid(160, 16_000, 8, overlap).pieces(frames)
    assert [k for _, first, stop in pieces for k in range(first, stop)] == list(range(frames))
    for start, first, stop in pieces:
        assert start <= first < stop <= start + 8
        assert start + 8 <= max(frames, 8)


def test_what_a_short_recording_or_a_last_piece_gets():
    grid = Grid(160, 16_000, 8)
    assert grid.pieces(3) == [(0, 0, 3)]
    assert grid.pieces(16) == [(0, 0, 8), (8, 8, 16)]
    assert grid.pieces(10) == [(0, 0, 5), (2, 5, 10)]  # the second moves back, and they meet half way
    assert Grid(160, 16_000, 8, 4).pieces(16) == [(0, 0, 6), (4, 6, 10), (8, 10, 16)]


def test_frames_are_those_of_the_encoder():
    atst = Grid.of(mel_db_inputs(1001), 4)
    assert (atst.length, atst.seconds) == (250, 0.04)
    assert [atst.frames(n, 16_000) for n in (1, 639, 1279, 1280, 160_000)] == [1, 1, 1, 2, 250]
    assert atst.frames(80_000, 8000) == 250
    asit = Grid.of(kaldi_inputs(592, rate=32_000), 16, 0.5)
    assert (asit.length, asit.overlap, asit.seconds) == (37, 18, 0.16)
    assert Grid.of(kaldi_inputs(32), 32, 0.9).overlap == 0  # a piece of one frame shares none
    with pytest.raises(UsageError, match=r"overlap = 1\.5: must be a share"):
        Grid.of(mel_db_inputs(1001), 4, 1.5)


def test_pieces_are_cut_from_where_their_frames_lie(tmp_path, digits):
    inputs = mel_db_inputs(101, rate=8000, high=4000)
    source = open_source(write_tones(tmp_path, 2, seconds=2.5))
    grid = Grid.of(inputs, 4)
    assert Lengths(source, inputs, grid)[0] == (62, "")
    pieces = Pieces(source, inputs, grid, [0, 1], [7, 62])
    whole = source[1]["audio"]._all()
    assert [pieces.at(i) for i in range(len(pieces))] == [(0, (0, 0, 7)), *((1, piece) for piece in grid.pieces(62))]
    np.testing.assert_array_equal(pieces[2][1][0], whole[8000:16000])
    np.testing.assert_array_equal(pieces[3][1][0], whole[37 * 320 : 37 * 320 + 8000])
    batch = Pieces.collate([pieces[0], (1, None, "silence")])
    assert (batch["waves"].shape, batch["numbers"], batch["bad"]) == ((1, 1, 8000), [0], [(1, "silence")])
    with pytest.raises(DataError, match="holds images, and the encoder looks at sounds"):
        Lengths(open_source(digits), inputs, grid)
