"""What an exam's answer depends on: which slices there are and where they lie, not how many zeros stand behind them."""

import pytest
import torch

from tacit.heads import Aggregator, padded
from tacit.heads.aggregator import bins, places


def made(**how) -> Aggregator:
    torch.manual_seed(0)
    return Aggregator(12, **{"depth": 2, "width": 24, "heads": 3, **how}).eval()


@pytest.fixture
def exams() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(n, 12, generator=g) for n in (5, 9, 2)]


@pytest.mark.parametrize("how", [{}, {"depth": 0}, {"depth": 0, "pool": "max"}])
def test_padding_says_nothing_whatever_stands_in_it(how, exams):
    model = made(**how)
    x, valid = padded(exams)
    with torch.no_grad():
        alone = torch.cat([model(e[None], torch.ones(1, len(e), dtype=torch.bool))[0] for e in exams])
        together = model(x, valid)[0]
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
        rubbish = torch.where(valid[:, :, None], x, torch.randn_like(x))
        torch.testing.assert_close(model(rubbish, valid)[0], together, atol=1e-6, rtol=0)
        swapped = rubbish[:, [*range(9)]].clone()
        swapped[0, 5:] = rubbish[0, [7, 8, 5, 6]]
        torch.testing.assert_close(model(swapped, valid)[0], together, atol=1e-6, rtol=0)
        more = torch.cat([x, torch.randn(3, 4, 12)], 1), torch.cat([valid, torch.zeros(3, 4, dtype=torch.bool)], 1)
        torch.testing.assert_close(model(*more)[0], together, atol=1e-6, rtol=0)


def test_the_order_of_slices_counts_where_they_have_places(exams):
    order = torch.tensor([3, 0, 4, 1, 2])
    x, valid = exams[0][None], torch.ones(1, 5, dtype=torch.bool)
    for how, moves in (
        ({}, True),
        ({"positions": False}, False),
        ({"depth": 0}, False),
        ({"depth": 0, "pool": "max"}, False),
    ):
        model = made(**how)
        with torch.no_grad():
            change = (model(x[:, order], valid)[0] - model(x, valid)[0]).abs()
        assert bool(change > 1e-4) is moves
    with torch.no_grad():  # and slices that keep their places are the same exam
        model = made()
        place = places(valid)
        torch.testing.assert_close(model(x[:, order], valid, place[:, order])[0], model(x, valid)[0], atol=1e-6, rtol=0)


def test_the_mean_is_that_of_the_slices_logits(exams):
    model = made(depth=0)
    model.standardise(torch.cat(exams) * 3 + 1)
    x, valid = padded(exams)
    each = [model.head((e - model.centre) / model.scale).mean() for e in exams]
    torch.testing.assert_close(model(x, valid)[0], torch.stack(each))


def test_the_maximum_is_of_features(exams):
    model = made(depth=0, pool="max")
    x, valid = padded([-e.abs() - 1 for e in exams])  # zeros behind would win
    expected = torch.stack([model.head((-e.abs() - 1).amax(0))[0] for e in exams])
    torch.testing.assert_close(model(x, valid)[0], expected)


def test_places_and_their_bins():
    valid = torch.tensor([[True] * 5, [True, True, True, False, False], [True] + [False] * 4])
    assert places(valid)[:, :3].tolist() == [[0, 0.25, 0.5], [0, 0.5, 1], [0, 0, 0]]
    assert bins(torch.tensor([0, 0.5, 1 - 1e-6, 1.0])).tolist() == [0, 32, 63, 63]
    assert made().pos_embed.shape == (64, 24)


def test_standardised_embeddings_are_the_start():
    model, x = made(), torch.randn(50, 12) * 4 + 3
    model.standardise(x)
    z = (x - model.centre) / model.scale
    torch.testing.assert_close(z.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(12))
    assert {"centre", "scale"} <= set(model.state_dict())
    for how in ({"pool": "sum"}, {"heads": 5}):
        with pytest.raises(ValueError, match="must be mean or max"):
            made(**how)
