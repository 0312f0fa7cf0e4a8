"""Which records the online k-NN asks, and which answer."""

from __future__ import annotations

import numpy as np

from tacit.data import open_source
from tacit.engine.online import OnlineNeighbours
from tacit.views import Inputs
from tests.conftest import write_digits

INPUTS = Inputs(size=16)


def test_labelled_data_is_both_questions_and_answers(digits):
    found = OnlineNeighbours.of(open_source(digits), None, INPUTS, seed=0)
    assert (len(found.bank), len(found.query), found.classes) == (160, 40, 10)
    assert not set(found.bank.indices) & set(found.query.indices)


def test_val_is_asked_for_with_its_classes_numbered_as_in_the_data(digits, tmp_path):
    folder = write_digits(tmp_path / "val", 60)
    for name in ("0", "1"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
    val = open_source(folder)
    assert val.labels.min() == 0
    found = OnlineNeighbours.of(open_source(digits), val, INPUTS, seed=0)
    assert (len(found.bank), len(found.query), found.classes) == (200, len(val), 10)
    record = found.query[0]
    assert val.classes[record["label"]] == val.name(int(found.query.indices[0])).split("/")[0]


def test_val_stands_alone_where_the_data_has_no_labels_or_others(digits, tmp_path):
    val = open_source(digits)
    plain = open_source(write_digits(tmp_path / "a", 50), labels=None)
    other = open_source(write_digits(tmp_path / "b", 50))
    other.classes = [f"class {c}" for c in other.classes]
    for source in (plain, other):
        found = OnlineNeighbours.of(source, val, INPUTS, seed=0)
        assert found.bank.dataset.source is found.query.dataset.source is val
        assert len(found.bank) + len(found.query) == 200
    assert OnlineNeighbours.of(plain, None, INPUTS, seed=0) is None
    assert np.unique(val.labels).size == 10
