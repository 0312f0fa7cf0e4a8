"""Mixing within a batch: what an image becomes, how much of it is left, and how shares are distributed."""

import pytest
import torch

from tacit.views import mixed


def flat(count: int = 4, side: int = 8) -> torch.Tensor:
    """Image i is i everywhere."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(count, 3, side, side).clone()


def test_without_both_nothing_changes_and_nothing_is_drawn():
    state, x = torch.get_rng_state(), flat()
    (same,), shares = mixed([x], 0.0, 0.0)
    assert same is x
    assert shares is None
    assert torch.equal(state, torch.get_rng_state())


def test_mixup_blends_with_the_mirrored_place_by_a_share_of_each_view():
    torch.manual_seed(0)
    x = flat()
    views, shares = mixed([x, x[..., :4, :4]], 0.8, 0.0)
    assert torch.equal(x, flat())
    assert shares[0] != shares[1]
    for view, share in zip(views, shares, strict=True):
        expected = torch.tensor([share * i + (1 - share) * (3 - i) for i in range(4)])
        torch.testing.assert_close(view, expected.view(-1, 1, 1, 1).expand_as(view))


def test_cutmix_pastes_a_rectangle_and_says_how_much_is_left():
    sizes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        (view,), (share,) = mixed([flat(side=16)], 0.0, 1.0)
        pasted = view[0, 0] == 3
        assert set(view[1].unique().tolist()) <= {1.0, 2.0}
        assert pasted.float().mean().item() == pytest.approx(1 - share)
        high, wide = pasted.any(1).sum().item(), pasted.any(0).sum().item()
        assert high * wide == pasted.sum().item()
        assert torch.equal(pasted, view[1, 2] == 2)  # the same rectangle of all
        sizes.add((high, wide))
    assert len(sizes) > 20


@pytest.mark.parametrize("alpha", [0.8, 1.0])
def test_shares_are_of_the_beta_distribution(alpha):
    torch.manual_seed(0)
    found = torch.tensor(mixed([flat(2, 2)] * 3000, alpha, 0.0)[1])
    assert found.mean().item() == pytest.approx(0.5, abs=0.02)
    assert found.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.006)


def test_both_take_turns():
    torch.manual_seed(0)
    views, _ = mixed([flat(2)] * 1000, 0.8, 1.0)
    blended = sum(not set(v[0].unique().tolist()) <= {0.0, 1.0} for v in views)
    assert 440 < blended < 560
