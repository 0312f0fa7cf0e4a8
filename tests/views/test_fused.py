"""The compiled photometry against the one in batches, which is tested against torchvision."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tacit.views import Crop, input_spec, rng
from tacit.views.dataset import _column, stack

fused = pytest.importorskip("tacit.views.fused", reason="needs numba")

EVERYTHING = {
    "jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 0.8, "gray_p": 0.2, "blur_p": 0.5, "solarize_p": 0.3,
}  # fmt: skip


def drawn(crop: Crop, records: int = 64) -> dict[str, torch.Tensor]:
    found = [crop.draw(rng(0, 0, i, 0), 40, 50) for i in range(records)]
    return {name: _column([one[name] for one in found]) for name in found[0]}


def pictures(channels: int, kind: torch.dtype, records: int = 64, size: int = 24) -> torch.Tensor:
    x = torch.rand(records, channels, size, size, generator=torch.Generator().manual_seed(0))
    x[0] = 0.25  # grey has no hue
    x[1] = (x[1] > 0.5).float()  # corners of the colour cube
    return (x * 255).byte() if kind == torch.uint8 else x


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("how", [{}, {"brightness_adds": True}, {"blur_reach": 3}])
def test_it_is_the_same_as_in_batches(channels, kind, how):
    crop = Crop(input_spec(24, channels), **EVERYTHING, **how)
    x, params = pictures(channels, kind), drawn(crop)
    before = x.clone()
    made = fused.crops(x, params, crop)
    torch.testing.assert_close(made, crop.photometry(x, params), atol=3e-5, rtol=0)
    assert torch.equal(x, before)
    assert made.is_contiguous()


@pytest.mark.parametrize("change", [{"jitter_p": 1.0}, {"gray_p": 1.0}, {"blur_p": 1.0}, {"solarize_p": 1.0}, {}])
def test_each_change_by_itself(change):
    crop = Crop(input_spec(24, 3), **{"jitter": (0.4, 0.4, 0.2, 0.1), **change})
    x, params = pictures(3, torch.uint8), drawn(crop)
    expected = crop.photometry(x, params)
    assert bool(change) != torch.equal(expected, crop.inputs.prepare(x))
    torch.testing.assert_close(fused.crops(x, params, crop), expected, atol=3e-5, rtol=0)


def test_threads_and_the_order_of_memory_change_no_bit():
    crop = Crop(input_spec(24, 3), **EVERYTHING)
    x, params, threads = pictures(3, torch.uint8), drawn(crop), torch.get_num_threads()
    made = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            made += [fused.crops(x, params, crop), fused.crops(x.to(memory_format=torch.channels_last), params, crop)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(made[0], other) for other in made[1:])


def test_a_large_picture_keeps_its_mean():
    crop = Crop(input_spec(1500, 3, mean=(0.0,) * 3, std=(1.0,) * 3), jitter=(0, 1, 0, 0), jitter_p=1.0)
    x = torch.full((1, 3, 1500, 1500), 0.3)
    x[..., ::2] = 0.1
    params = drawn(crop, 1)
    expected = 0.2 + (x - 0.2) * float(params["contrast"])
    torch.testing.assert_close(fused.crops(x, params, crop), expected, atol=3e-6, rtol=0)


def test_what_is_no_number_stays_none():
    crop = Crop(input_spec(24, 3), **EVERYTHING)
    x, params = pictures(3, torch.float32), drawn(crop)
    x[:, 1, 4, 5] = np.nan
    made = fused.crops(x, params, crop)
    kept = ~(params["jitter"] | params["gray"] | params["solarize"]) & (params["blur"] == 0)
    assert kept.any()
    assert made[kept][:, 1, 4, 5].isnan().all()


def test_a_view_takes_the_compiled_way_and_the_other_without_numba(monkeypatch):
    crop = Crop(input_spec(24, 3), **EVERYTHING)
    x, params = pictures(3, torch.uint8), drawn(crop)
    assert torch.equal(crop.finish(x, params)["image"], fused.crops(x, params, crop))
    monkeypatch.setattr("tacit.views.crop.has_compiler", lambda: False)
    assert torch.equal(crop.finish(x, params)["image"], crop.photometry(x, params))


def test_a_user_is_told_of_the_first_compilation_and_of_no_other(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), 20 * i, dtype=np.uint8)).save(data / f"{i}.png")
    said = []
    for turn in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "tacit", "pretrain", "vicreg", "--data", str(data), "--preset", "small", "--encoder",
             "vit_mini", "--steps", "1", "--batch-size", "4", "--set", "size=16", "--set", "hidden=16", "--set",
             "out=16", "--workers", "0", "--out", str(tmp_path / f"run{turn}")],
            capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}, check=True,
        )  # fmt: skip
        said.append("once on this machine" in done.stderr)
    assert said == [True, False]


def test_a_batch_keeps_its_channels_last_and_what_is_made_of_it_does_not():
    pixels = [np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8) for i in range(4)]
    x, crop = stack(pixels), Crop(input_spec(24, 3), **EVERYTHING)
    assert x.shape == (4, 3, 24, 24)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for made in (crop.photometry(x, drawn(crop, 4)), fused.crops(x, drawn(crop, 4), crop), crop.inputs.prepare(x)):
        assert made.is_contiguous()


def test_power_is_the_square_of_the_magnitude():
    spectrum = torch.randn(3, 5, 513, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    before = spectrum.clone()
    torch.testing.assert_close(fused.power(spectrum), spectrum.abs().square())
    assert torch.equal(spectrum, before)
    assert fused.power(spectrum[:, :0]).shape == (3, 0, 513)
