import pickle

import numpy as np
import pytest

from tacit.data import Batches, mix, open_source, unvisited
from tacit.data.batches import epoch_order, times_before
from tacit.errors import UsageError


def source(n: int = 22):
    return open_source(np.zeros((n, 4, 4), np.uint8))


def stream(**changes) -> list[list[tuple[int, int]]]:
    return list(Batches(source(), **{"batch_size": 8, "seed": 3, "total_steps": 7, **changes}))


def test_an_epoch_is_a_permutation_without_its_short_end():
    batches = stream()
    assert [b[0][0] for b in batches] == [0, 0, 1, 1, 2, 2, 3]
    first = [i for b in batches[:2] for _, i in b]
    assert len(set(first)) == 16
    assert [i for b in batches[2:4] for _, i in b] != first


def test_starting_later_gives_the_rest_of_the_same_stream():
    assert stream(start_step=3) == stream()[3:]
    assert len(Batches(source(), batch_size=8, seed=3, total_steps=7, start_step=3)) == 4


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 2)])
def test_a_step_holds_the_same_records_however_it_is_shared(world, accumulate):
    whole = stream()
    parts = [stream(world=world, rank=rank, accumulate=accumulate) for rank in range(world)]
    for step, batch in enumerate(whole):
        micro = [parts[r][step * accumulate + m] for m in range(accumulate) for r in range(world)]
        assert [item for part in micro for item in part] == batch


def test_another_seed_is_another_order():
    assert stream(seed=4) != stream()


def test_weights_are_the_shares_of_every_epoch():
    both = mix([source(10), source(30)], weights=[3, 1])
    order = epoch_order(both, seed=0, epoch=0)
    assert len(order) == 40
    assert (order < 10).sum() == 30
    assert np.bincount(order[order < 10]).tolist() == [3] * 10
    assert len(set(order[order >= 10])) == 10
    with pytest.raises(UsageError, match="one positive number for each"):
        mix([source(10), source(30)], weights=[1])


def test_a_record_that_comes_again_in_an_epoch_is_known_to():
    both = mix([source(4), source(12)], weights=[3, 1])  # each of the four comes three times
    keys = [key for b in Batches(both, batch_size=4, seed=1, total_steps=8) for key in b]
    assert len(set(keys)) == 32
    for at in (0, 1):
        seen = [(i, before) for e, i, before in keys if e == at]
        assert sorted(seen)[:12] == [(i, before) for i in range(4) for before in range(3)]
        assert {before for i, before in seen if i >= 4} == {0}
        first = {i: [before for j, before in seen if j == i] for i in range(4)}
        assert all(before == [0, 1, 2] for before in first.values())


@pytest.mark.parametrize("length", [0, 1, 2, 255, 256])
def test_times_before_are_counted_one_by_one(length):
    order = np.random.default_rng(0).integers(0, 20, length) * (1 << 40)
    assert times_before(order).tolist() == [int((order[:i] == x).sum()) for i, x in enumerate(order)]


def test_what_no_step_visits():
    seen = {i for b in stream(total_steps=2) for _, i in b}
    missing = unvisited(source(), batch_size=8, seed=3, total_steps=2)
    assert set(missing) == set(range(22)) - seen
    assert len(unvisited(source(), batch_size=8, seed=3, total_steps=40)) == 0


def test_the_sampler_travels_to_workers():
    batches = Batches(source(), batch_size=8, seed=3, total_steps=2)
    assert list(pickle.loads(pickle.dumps(batches))) == list(batches)
