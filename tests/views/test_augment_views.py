"""Crops with RandAugment and random erasing: the published chances and areas, drawn by the record."""

import numpy as np
import pytest
import torch

from tacit.data import open_source
from tacit.views import Crop, Inputs, Views, augmented_multi_crop, collate, finish

PLAIN = Inputs(16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_the_published_views():
    views = augmented_multi_crop(PLAIN, (2, 1), (8, 12))
    assert [v.inputs.size for v in views] == [16, 16, 8, 8, 12]
    for view in views:
        assert (view.augment, view.erasing, view.flip) == ("rand-m9-mstd0.5-inc1", 0.25, 0.5)
        assert (view.scale, view.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert (view.jitter, view.gray_p, view.blur_p, view.solarize_p) == (None, 0.0, 0.0, 0.0)
    assert len({v.name for v in views}) == 5


def test_they_belong_to_the_record_and_leave_generators_and_other_draws_alone(digits):
    source = open_source(digits)
    plain, changed = Crop(inputs=PLAIN), Crop(inputs=PLAIN, augment="rand-m9-mstd0.5-inc1", erasing=0.25)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, bare = Views(source, [changed], 0)[0, 3], Views(source, [plain], 0)[0, 3]
    (image,) = finish(collate([first]), [changed])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    (again,) = finish(collate([Views(source, [changed], 0)[0, 3]]), [changed])
    assert torch.equal(image["image"], again["image"])
    assert {k: first["params"][0][k] for k in bare["params"][0]} == bare["params"][0]
    data, none = Views(source, [changed], 0), Views(source, [plain], 0)
    differ = [not np.array_equal(data[0, i]["crops"][0], none[0, i]["crops"][0]) for i in range(40)]
    assert sum(differ) > 20
    assert len({data[e, 3]["params"][0]["augment"] for e in range(3)} | {data[0, 4]["params"][0]["augment"]}) == 4


def test_a_quarter_is_erased_after_the_normalisation():
    crop = Crop(inputs=PLAIN, erasing=0.25)
    count = 1200
    params = {k: torch.zeros(count, dtype=torch.bool) for k in ("gray", "jitter", "solarize")}
    params["erasing"] = torch.arange(count)
    whole = torch.full((count, 3, 16, 16), 255, dtype=torch.uint8)
    image = crop.finish(whole, params)["image"]
    gone = (image != 1.0).all(1)
    hit = gone.any(2).any(1)
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.04)
    noise = image[hit].transpose(0, 1)[:, gone[hit]]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_what_has_no_colours_is_left_and_said():
    crop = Crop(inputs=Inputs(16, channels=1, mean=(0.5,), std=(0.5,)), augment="rand-m9-mstd0.5-inc1")
    x = np.zeros((16, 16, 1), np.uint8)
    assert crop.change(x, {"augment": 1}) is x
    assert "RandAugment is left out" in crop.notes()[0]
