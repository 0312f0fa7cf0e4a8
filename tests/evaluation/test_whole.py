from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tacit.data import Picture
from tacit.errors import BadRecord, DataError
from tacit.evaluation.whole import Pictures, fitted, pictures_in, scaled, shrunk, square, vectors
from tacit.views import Inputs

HALVES = Inputs(8, mean=(0.0,) * 3, std=(1.0,) * 3)


def picture(height: int, width: int) -> Picture:
    return Picture(np.zeros((height, width, 3), np.uint8))


def test_sides_go_to_the_nearest_multiple_by_hand():
    assert fitted(375, 500, 1.0, 16) == (368, 496)  # 23.4 and 31.25 patches
    assert fitted(375, 500, 0.5, 16) == (192, 256)  # 11.7 and 15.6
    assert fitted(5, 500, 1.0, 16) == (16, 496)  # never none
    assert scaled(picture(375, 500), 0, short=0, unit=8, how="bicubic").size == (376, 496)
    assert scaled(picture(60, 30), 0, short=16, unit=8, how="bicubic").size == (32, 16)
    assert square(picture(60, 30), 0, size=32, how="bicubic") == (0, 0, 60, 30, (32, 32), "bicubic", False)


def test_a_query_is_its_box_at_the_scale_of_the_whole():
    of = partial(shrunk, picture(768, 1024), long=512, unit=16, how="bilinear")
    assert of(0)[:5] == (0, 0, 768, 1024, (384, 512))
    assert of(1, boxes=[None, (100, 200, 356, 520)])[:5] == (200, 100, 320, 256, (160, 128))
    assert of(0, boxes=[(-10, 700, 90, 900)])[:5] == (700, 0, 68, 90, (32, 48))  # no more than there is
    assert shrunk(picture(96, 64), 0, long=512, unit=16, how="bilinear").size == (96, 64)  # nothing is enlarged
    with pytest.raises(BadRecord, match=r"\(1100, 0, 1200, 50\) holds no pixel of 1024 x 768"):
        of(0, boxes=[(1100, 0, 1200, 50)])


def test_vectors_are_in_order_and_what_is_left_out_is_said(tmp_path):
    for i, value in enumerate((0, 51, 255)):
        path = tmp_path / "in" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8 + 8 * i, 3), value, np.uint8)).save(path)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"")
    paths = (*pictures_in(tmp_path), Path(tmp_path / "lost.png"))
    assert [path.name for path in paths] == ["broken.png", "0.png", "1.png", "2.png", "lost.png"]
    told = []
    made = Pictures(paths, partial(scaled, short=0, unit=8, how="bilinear"), 3)
    sizes = lambda x: torch.stack([x.mean((1, 2, 3)), torch.full((len(x),), float(x.shape[3]))], 1)  # noqa: E731
    x, index, bad = vectors(sizes, made, HALVES, progress=lambda *n: told.append(n))
    torch.testing.assert_close(x, torch.tensor([[0.0, 8.0], [0.2, 16.0], [1.0, 24.0]]))
    assert (index, told[-1]) == ([1, 2, 3], (5, 5))
    assert bad == [(0, "empty file"), (4, "No such file or directory")]
    squares = Pictures(paths, partial(square, size=16, how="bilinear"), 3)
    x, _, _ = vectors(sizes, squares, HALVES, batch_size=2)
    assert x[:, 1].tolist() == [16, 16, 16]
    with pytest.raises(DataError, match=r"0\.png are not numbers"):
        vectors(lambda x: x.mean((2, 3)) / 0, made, HALVES)
    with pytest.raises(DataError, match=r"None of 1 pictures can be read; .*empty file"):
        vectors(sizes, Pictures(paths[:1], made.cut, 3), HALVES)
