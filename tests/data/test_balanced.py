"""Batches of P classes x K records: closed under (seed, step), of different groups where possible."""

from __future__ import annotations

import numpy as np

from tacit.data import Balanced

LABELS = np.repeat([0, 1, 2, 3], [12, 12, 12, 2])
GROUPS = np.array([f"{label}-{i % 4}" for label in range(3) for i in range(12)] + ["x", "x"])


def batches(**changes):
    how = {"classes": 3, "each": 4, "seed": 0, "steps": 50, **changes}
    return list(Balanced(LABELS, GROUPS, **how))


def test_a_batch_has_so_many_classes_and_of_each_so_many_records_of_as_many_groups():
    for step, batch in enumerate(batches()):
        assert {at for at, _ in batch} == {step}
        rows = np.array([row for _, row in batch])
        assert len(set(rows)) == len(rows)
        found, counts = np.unique(LABELS[rows], return_counts=True)
        assert len(found) == 3
        for label, count in zip(found, counts, strict=True):
            assert count == (2 if label == 3 else 4)
            if label != 3:
                assert len({GROUPS[row] for row in rows if LABELS[row] == label}) == 4


def test_a_fifth_record_of_four_groups_is_the_second_of_one():
    rows = np.array([row for _, row in batches(classes=4, each=5)[0]])
    for label in range(3):
        _, counts = np.unique(GROUPS[rows[LABELS[rows] == label]], return_counts=True)
        assert sorted(counts) == [1, 1, 1, 2]


def test_every_class_and_record_has_its_turn():
    rows = [row for batch in batches(steps=200) for _, row in batch]
    assert set(rows) == set(range(len(LABELS)))
    per_class = np.bincount(LABELS[rows]) / [4, 4, 4, 2]  # batches in which the class was
    assert per_class.min() > 200 * 0.75 * 0.85  # each is in three of four


def test_batches_follow_from_seed_and_step():
    assert batches() == batches()
    assert batches()[:20] == batches(steps=20)
    assert batches() != batches(seed=1)


def test_without_groups_records_stand_alone_and_there_are_no_more_classes_than_there_are():
    (batch,) = Balanced(LABELS, None, classes=9, each=3, seed=0, steps=1)
    assert len(batch) == 3 + 3 + 3 + 2
