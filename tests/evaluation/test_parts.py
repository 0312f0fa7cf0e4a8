"""Parts that share no group: the regions and towns of the published set, speakers who say everything, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from tacit.errors import DataError
from tacit.evaluation.parts import parted

TOWNS = {
    "abr": 10, "bas": 14, "cal": 4, "eml": 3, "fvg": 28, "lig": 14, "lom": 25, "mol": 17, "pie": 24, "pug": 10,
    "sar": 19, "sic": 16, "tos": 10, "tre": 32, "umb": 14, "vda": 10, "ven": 35,
}  # fmt: skip


def vivaldi(each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    towns = [(f"{region}-{town}", n) for n, region in enumerate(TOWNS) for town in range(TOWNS[region])]
    return np.repeat([t for t, _ in towns], each), np.repeat([n for _, n in towns], each)


def test_towns_lie_in_one_part_and_every_region_in_all_three():
    groups, labels = vivaldi()
    parts = parted(groups, labels, list(TOWNS), (0.15, 0.15), seed=0)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    towns = [set(groups[rows]) for rows in parts]
    assert not (towns[0] | towns[1]) & towns[2]
    assert not towns[0] & towns[1]
    for rows in parts:
        assert set(labels[rows]) == set(range(17))
    sizes = [len(t) for t in towns]
    assert sum(sizes) == 285
    assert sizes[1] == sizes[2] == sum(max(round(0.15 * n), 1) for n in TOWNS.values())
    for n, (region, count) in enumerate(TOWNS.items()):
        tested = {t for t in towns[2] if t.startswith(region)}
        assert len(tested) == max(round(0.15 * count), 1), n


def test_the_parts_follow_from_the_seed():
    groups, labels = vivaldi(1)
    one, again, other = (parted(groups, labels, list(TOWNS), (0.15, 0.15), seed=s)[2].tolist() for s in (0, 0, 1))
    assert one == again
    assert one != other


def test_speakers_who_say_everything_are_dealt_whole():
    groups, labels = np.repeat(list("abcdef"), 50), np.tile(np.arange(10), 30)
    train, held, test = parted(groups, labels, [str(i) for i in range(10)], (0.15, 0.15), seed=0)
    assert [len(set(groups[rows])) for rows in (train, held, test)] == [4, 1, 1]


def test_records_may_stand_alone():
    train, test = parted(None, np.repeat([0, 1], 20), ["a", "b"], (0.2,), seed=0)
    assert (len(train), len(test)) == (32, 8)


@pytest.mark.parametrize(
    ("groups", "labels", "said"),
    [
        (["a", "b", "c", "d", "e"], [0, 0, 0, 1, 1], "rare: fewer than 3 groups"),
        (["a", "a", "b", "b", "c", "c"], [0, 1, 0, 0, 0, 0], "No group with rare is in the"),
    ],
)
def test_a_class_that_cannot_be_in_every_part_is_named(groups, labels, said):
    with pytest.raises(DataError, match=said):
        parted(groups, np.array(labels), ["common", "rare"], (0.15, 0.15), seed=0)
