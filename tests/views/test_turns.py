"""Small turns: what stays, where a point goes, what comes in at the corners, and that angles are the record's."""

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.views import Crop, Tilted, Views, collate, finish, input_spec, rng
from tacit.views.turns import tilt


def test_none_is_none_and_a_quarter_is_torchs():
    x = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(tilt(x, torch.zeros(2)), x)
    torch.testing.assert_close(tilt(x, torch.full((2,), 90.0)), x.rot90(-1, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(41, 41), (41, 81)])
def test_a_point_turns_clockwise_at_its_distance(size):
    x = torch.zeros(1, 1, *size)
    row, col = size[0] // 2, size[1] // 2
    x[0, 0, row, col + 15] = 1  # right of the middle
    y = tilt(x, torch.tensor([10.0]))[0, 0]
    rows, cols = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    mean = ((rows * y).sum() / y.sum() - row, (cols * y).sum() / y.sum() - col)
    assert mean[0] == pytest.approx(15 * np.sin(np.radians(10)), abs=0.2)
    assert mean[1] == pytest.approx(15 * np.cos(np.radians(10)), abs=0.2)


def test_corners_are_mirrored_and_not_black():
    assert tilt(torch.ones(1, 1, 16, 16), torch.tensor([10.0])).min() > 0.999


def test_angles_are_drawn_evenly_after_the_crops_own_numbers():
    spec = input_spec(8)
    plain, tilted = Crop(spec), Tilted(Crop(spec), 10.0)
    drawn = [tilted.draw(rng(0, 0, i, 0), 9, 9) for i in range(400)]
    angles = np.array([d["tilt"] for d in drawn])
    assert np.abs(angles).max() <= 10
    assert np.abs(angles).mean() == pytest.approx(5, abs=0.5)
    assert {**drawn[3], "tilt": None} == {**plain.draw(rng(0, 0, 3, 0), 9, 9), "tilt": None}
    pixels = np.random.default_rng(0).integers(0, 255, (2, 9, 9), dtype=np.uint8)
    how = [[Crop(spec)], [Tilted(Crop(spec), 0.0)]]
    a, b = (finish(collate([Views(open_source(pixels), v, 0)[(0, i)] for i in range(2)]), v)[0]["image"] for v in how)
    assert torch.equal(a, b)
