import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tacit.data import Batches, open_source
from tacit.errors import DataError
from tacit.views import Crop, Plain, Views, collate, finish, input_spec

SPEC = input_spec(16, channels=1)
VIEWS = [
    Crop(inputs=SPEC, name="a", blur_p=1.0, jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8),
    Crop(inputs=SPEC, name="b", solarize_p=0.5),
]


def epoch(folder, workers: int) -> list:
    source = open_source(folder, channels=1)
    batches = Batches(source, batch_size=32, seed=5, total_steps=8)
    loader = DataLoader(Views(source, VIEWS, 5), batch_sampler=batches, num_workers=workers, collate_fn=collate)
    return [(b["index"], finish(b, VIEWS)) for b in loader]


def test_any_number_of_workers_gives_the_same_views(digits):
    alone = epoch(digits, 0)
    for workers in (1, 3):
        for (index, views), (other, others) in zip(alone, epoch(digits, workers), strict=True):
            assert torch.equal(index, other)
            for view, again in zip(views, others, strict=True):
                assert torch.equal(view["image"], again["image"])


def test_the_two_views_and_the_next_epoch_differ(digits):
    data = Views(open_source(digits, channels=1), VIEWS, 0)
    first, second = data[(0, 7)], data[(1, 7)]
    assert first["params"] != second["params"]
    assert first["params"][0] != first["params"][1]
    assert first["index"] == 7
    assert first["label"] == 0


def test_a_record_is_not_seen_alike_when_it_comes_again_in_an_epoch(digits):
    data = Views(open_source(digits, channels=1), VIEWS, 0)
    first, again = data[(0, 7)], data[(0, 7, 1)]
    assert data[(0, 7, 0)]["params"] == first["params"]
    assert again["index"] == 7
    assert again["params"][0] != first["params"][0]
    assert again["params"][1] != first["params"][1]


def broken_copy(digits, tmp_path, bad: int):
    import shutil

    folder = shutil.copytree(digits, tmp_path / "copy")
    for path in sorted(folder.glob("*/*.png"))[:bad]:
        path.write_bytes(b"<html>")
    return open_source(folder, channels=1)


def test_an_unreadable_record_is_replaced_by_the_same_other_and_reported(digits, tmp_path):
    source = broken_copy(digits, tmp_path, bad=20)
    first, again = Views(source, VIEWS, 0)[(0, 3)], Views(source, VIEWS, 0)[(0, 3)]
    assert first["index"] == again["index"] >= 20
    np.testing.assert_array_equal(first["crops"][0], again["crops"][0])
    assert first["bad"][0] == (3, source.name(3), "not an image (looks like HTML or XML)")
    assert Views(source, VIEWS, 0)[(1, 3)]["index"] != first["index"]


def test_a_folder_of_nothing_but_trouble_stops(digits, tmp_path):
    source = broken_copy(digits, tmp_path, bad=200)
    with pytest.raises(DataError, match="20 records in a row"):
        Views(source, VIEWS, 0)[(0, 3)]


def test_plain_records_leave_the_unreadable_out(digits, tmp_path):
    source = broken_copy(digits, tmp_path, bad=2)
    plain = Plain(source, SPEC)
    batch = Plain.collate([plain[i] for i in range(5)])
    assert batch["index"].tolist() == [2, 3, 4]
    assert batch["image"].shape == (3, 1, 16, 16)
    assert [i for i, _ in batch["bad"]] == [0, 1]
    assert Plain.collate([plain[0]])["image"] is None
