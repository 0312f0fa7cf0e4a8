import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop

from tacit.views import Crop, Inputs, equal_multi_crop, input_spec, multi_crop, rng
from tacit.views.crop import clipped_area, random_area

SPEC = input_spec(16)
FULL = Crop(
    inputs=SPEC,
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_p=0.8,
    gray_p=0.2,
    blur_p=0.1,
    solarize_p=0.2,
    blur_sigma=(0.1, 2.0),
)


def draws(view: Crop, count: int = 2000, height: int = 60, width: int = 80) -> list[dict]:
    return [view.draw(rng(0, 0, i, 1), height, width) for i in range(count)]


def column(params: list[dict]) -> dict[str, torch.Tensor]:
    made = {name: torch.tensor([p[name] for p in params]) for name in params[0]}
    return {n: v.float() if v.is_floating_point() else v for n, v in made.items()}


def test_the_four_numbers_are_all_there_is_to_a_draw():
    base = FULL.draw(rng(1, 2, 3, 4), 50, 60)
    assert FULL.draw(rng(1, 2, 3, 4), 50, 60) == base
    for other in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)):
        assert FULL.draw(rng(*other), 50, 60) != base


def test_how_often_things_happen():
    params = draws(FULL)
    for name, share in (("flip", 0.5), ("jitter", 0.8), ("gray", 0.2), ("solarize", 0.2)):
        assert np.mean([p[name] for p in params]) == pytest.approx(share, abs=0.03)
    blurred = [p["blur"] for p in params if p["blur"]]
    assert len(blurred) / 2000 == pytest.approx(0.1, abs=0.02)
    assert 0.1 <= min(blurred) <= max(blurred) <= 2.0
    for name, width in (("brightness", 0.4), ("contrast", 0.4), ("saturation", 0.2)):
        values = [p[name] for p in params]
        assert 1 - width <= min(values) <= 1 - 0.95 * width
        assert 1 + 0.95 * width <= max(values) <= 1 + width
    assert len({p["order"] for p in params}) == 24


def test_areas_and_shapes_follow_torchvision():
    ours = np.array([random_area(np.random.default_rng(i), 60, 80, (0.08, 1.0), (3 / 4, 4 / 3)) for i in range(3000)])
    torch.manual_seed(0)
    make = RandomResizedCrop(16, scale=(0.08, 1.0))
    image = torch.zeros(3, 60, 80)
    theirs = np.array([[v for _, v in sorted(make.make_params([image]).items())] for _ in range(3000)])
    h, w = theirs[:, 0], theirs[:, 3]
    area, their_area = ours[:, 2] * ours[:, 3] / 4800, h * w / 4800
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(their_area, [0.1, 0.5, 0.9]), abs=0.04)
    shape = np.log(ours[:, 3] / ours[:, 2])
    assert abs(shape).max() <= math.log(4 / 3) + 0.1
    assert np.std(shape) == pytest.approx(np.std(np.log(w / h)), rel=0.1)
    assert (ours[:, 0] + ours[:, 2]).max() <= 60
    assert (ours[:, 1] + ours[:, 3]).max() <= 80


@pytest.mark.parametrize(("size", "expected"), [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10))])
def test_extreme_shapes_fall_back_to_the_centre(size, expected):
    assert random_area(np.random.default_rng(0), *size, (0.9, 1.0), (3 / 4, 4 / 3)) == expected


def test_finish_changes_each_record_by_its_own_parameters_whatever_its_batch():
    params = draws(FULL, 24)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = FULL.finish(images, column(params))["image"]
    for i in range(24):
        alone = FULL.finish(images[i : i + 1], column(params[i : i + 1]))["image"]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_plain_crop_is_only_normalised():
    plain = Crop(inputs=SPEC)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(SPEC.std).view(3, 1, 1)
    torch.testing.assert_close(plain.finish(images, column(draws(plain, 4)))["image"], expected)


def test_notes_say_what_colour_cannot_be_changed():
    assert FULL.notes() == []
    (note,) = Crop(inputs=input_spec(16, channels=5), jitter=(0.4, 0.4, 0.2, 0.1), name="T1").notes()
    assert note.startswith("T1: 5 channels")


def test_inputs_travel_as_plain_data():
    spec = input_spec(224, channels=2, interpolation="bicubic")
    assert Inputs.from_dict(spec.to_dict()) == spec
    assert len(spec.mean) == 2
    assert spec.crop == 0.875
    cut = spec.centre(300, 400)
    assert (cut.top, cut.left, cut.height, cut.width) == (18.75, 68.75, 262.5, 262.5)
    assert input_spec(32).crop == 1.0


def test_a_clipped_crop_is_drawn_once_and_never_larger_than_the_picture():
    drawn = [clipped_area(rng(0, 0, i, 0), 40, 90, (0.08, 1.0), (3 / 4, 4 / 3)) for i in range(2000)]
    assert all(0 < h <= 40 and 0 < w <= 90 and 0 <= t <= 40 - h and 0 <= left <= 90 - w for t, left, h, w in drawn)
    # An area of more than 40 x 40 x 4/3 cannot fit: then the height is the picture's, and it is not drawn again.
    again = [random_area(rng(0, 0, i, 0), 40, 90, (0.08, 1.0), (3 / 4, 4 / 3)) for i in range(2000)]
    assert sum(h == 40 for _, _, h, _ in drawn) > 2 * sum(h == 40 for _, _, h, _ in again)


def test_brightness_may_be_added():
    view = Crop(
        inputs=input_spec(8, mean=(0, 0, 0), std=(1, 1, 1)), jitter=(0.4, 0, 0, 0), jitter_p=1.0, brightness_adds=True
    )
    params = [view.draw(rng(0, 0, i, 0), 8, 8) for i in range(500)]
    assert min(p["brightness"] for p in params) == pytest.approx(-0.4, abs=0.01)
    assert max(p["brightness"] for p in params) == pytest.approx(0.4, abs=0.01)
    batch = {k: torch.from_numpy(np.array([p[k] for p in params])) for k in params[0]}
    batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    x = view.finish(torch.full((500, 3, 8, 8), 0.5), batch)["image"]
    torch.testing.assert_close(x[:, 0, 0, 0], 0.5 + batch["brightness"], atol=1e-5, rtol=0)


def test_a_blur_may_be_cut_off_sooner():
    spec = input_spec(16, mean=(0, 0, 0), std=(1, 1, 1))
    dot = torch.zeros(1, 3, 16, 16)
    dot[:, :, 8, 8] = 1
    params = Crop(inputs=spec, blur_p=1.0, blur_sigma=(2.0, 2.0)).draw(rng(0, 0, 0, 0), 16, 16)
    batch = {k: torch.tensor([v]) for k, v in params.items()} | {"blur": torch.tensor([2.0])}
    seen = Crop(inputs=spec, blur_p=1.0, blur_sigma=(2.0, 2.0), blur_reach=2).finish(dot.clone(), batch)["image"]
    assert int((seen[0, 0] > 0).sum()) == 25


def test_small_crops_come_after_the_large_and_are_smaller():
    views = multi_crop(input_spec(32), 3, 16, (0.4, 1.0), (0.05, 0.4))
    assert [v.name for v in views] == ["global 1", "global 2", "local 1", "local 2", "local 3"]
    assert [v.inputs.size for v in views] == [32, 32, 16, 16, 16]


def test_crops_of_swav_differ_in_size_and_area_alone():
    views = equal_multi_crop(input_spec(32), 2, 16, (0.14, 1.0), (0.05, 0.14), jitter_strength=0.5)
    assert [v.name for v in views] == ["global 1", "global 2", "local 1", "local 2"]
    assert [v.inputs.size for v in views] == [32, 32, 16, 16]
    assert [v.scale for v in views] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 2
    assert {(v.jitter, v.blur_p, v.solarize_p) for v in views} == {((0.4, 0.4, 0.4, 0.1), 0.5, 0.0)}
    assert equal_multi_crop(input_spec(32), 0, 16, (0.14, 1.0), (0.05, 0.14))[0].jitter == (0.8, 0.8, 0.8, 0.2)


def test_large_crops_of_dino_blur_and_solarise_differently():
    views = multi_crop(input_spec(32), 1, 16, (0.4, 1.0), (0.05, 0.4))
    assert [(v.blur_p, v.solarize_p, v.scale) for v in views] == [
        (1.0, 0.0, (0.4, 1.0)), (0.1, 0.2, (0.4, 1.0)), (0.5, 0.0, (0.05, 0.4)),
    ]  # fmt: skip
