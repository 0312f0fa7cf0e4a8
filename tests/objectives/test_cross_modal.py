import math

import numpy as np
import pytest
import torch

from tacit.objectives import cross_modal_nce, recall_at_1

T = 0.07


def wave(*shape: int, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def published(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None, form: str) -> float:
    """The official AsymmetricNCE and SymmetricNCE of one replica, x being the video, loop by loop in float64."""
    x, y = x / np.linalg.norm(x, axis=-1, keepdims=True), y / np.linalg.norm(y, axis=-1, keepdims=True)
    count, losses = len(x), []
    for b in range(count):
        num = math.log(sum(math.exp(x[b] @ one / T) for one in y[b]))
        gone = [0.0 if mask is None else 1e9 * (1 - mask[c]) for c in range(count)]
        a = [x[b] @ one / T - gone[c] for c in range(count) for one in y[c]]
        z = [x[c] @ one / T - gone[b] for c in range(count) for one in y[b]]
        parts = [a + z] if form == "asymmetric" else [a, z]
        losses.append(sum(max(p) + math.log(sum(math.exp(v - max(p)) for v in p)) - num for p in parts))
    scale = np.ones(count) if mask is None else mask * count / mask.sum()
    return float((np.array(losses) * scale).mean())


@pytest.mark.parametrize("candidates", [1, 5])
def test_perfect_pairs_are_left_with_log_2_and_equal_ones_with_log_2b(candidates):
    x = torch.eye(8)
    bags = x[:, None].expand(-1, candidates, -1)
    assert cross_modal_nce(x, bags, T).item() == pytest.approx(0.6931516, abs=2e-6)
    same = torch.ones(8, 3)
    assert cross_modal_nce(same, same[:, None].expand(-1, candidates, -1), T).item() == pytest.approx(2.7725887)
    assert cross_modal_nce(x, x, T, form="symmetric").item() == pytest.approx(2 * 7 * math.exp(-1 / T), abs=1e-6)
    assert cross_modal_nce(same, same, T, form="symmetric").item() == pytest.approx(2 * math.log(8))


@pytest.mark.parametrize("form", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("mask", [None, [1, 0, 1, 1, 0, 1]])
def test_it_is_the_official_formula(form, mask):
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0) + 0.3 * wave(6, 1, 16, phase=4.0)
    valid = None if mask is None else torch.tensor(mask).bool()
    found = cross_modal_nce(x, y, T, valid_y=valid, form=form).item()
    expected = published(x.numpy(), y.numpy(), None if mask is None else np.array(mask, float), form)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(cross_modal_nce(7 * x, y / 3, T, valid_y=valid, form=form).item(), rel=1e-5)


def test_golden_numbers():
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0)
    found = [cross_modal_nce(x, y, T, form=form).item() for form in ("asymmetric", "symmetric")]
    assert found == pytest.approx([3.7073601, 5.0302119], abs=2e-5)  # of the loops above, in float64


@pytest.mark.parametrize("form", ["asymmetric", "symmetric"])
def test_what_is_missing_leaves_numerator_denominators_and_mean(form):
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0)
    here = torch.tensor([True, False, True, True, False, True])
    masked = cross_modal_nce(x, y, T, valid_y=here, form=form)
    junk = torch.where(here[:, None, None], y, 100 * wave(6, 5, 16, phase=2.0))
    torch.testing.assert_close(cross_modal_nce(x, junk, T, valid_y=here, form=form), masked)
    # A record without text is still a negative: with its video away as well, the loss is that of the others alone.
    alone = cross_modal_nce(x[here], y[here], T, form=form)
    assert abs(masked - alone) > 1e-3
    torch.testing.assert_close(cross_modal_nce(x, y, T, valid_x=here, valid_y=here, form=form), alone)
    assert abs(cross_modal_nce(x, y, T, form=form) - masked) > 1e-3


def test_where_nothing_is_there_the_loss_is_0_with_finite_gradients():
    x, y = wave(4, 8).requires_grad_(), wave(4, 5, 8, phase=1.0).requires_grad_()
    nobody = torch.zeros(4, dtype=torch.bool)
    for form in ("asymmetric", "symmetric"):
        for valid in ({"valid_y": nobody}, {"valid_x": nobody}, {"valid_y": nobody[:, None].expand(-1, 5)}):
            loss = cross_modal_nce(x, y, T, form=form, **valid)
            assert loss.item() == 0
            for gradient in torch.autograd.grad(loss, (x, y)):
                assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_candidate_without_words_is_left_out_of_its_bag():
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0)
    words = torch.ones(6, 5, dtype=torch.bool)
    words[:, 3:] = False
    torch.testing.assert_close(cross_modal_nce(x, y, T, valid_y=words), cross_modal_nce(x, y[:, :3], T))


def test_bags():
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0)
    torch.testing.assert_close(cross_modal_nce(x, y[:, :1], T), cross_modal_nce(x, y[:, 0], T))
    torch.testing.assert_close(cross_modal_nce(x, y[:, [3, 0, 4, 1, 2]], T), cross_modal_nce(x, y, T))
    # With all else far away, what is left of one record's loss is its numerator: a further candidate cannot lower it.
    one = torch.eye(8)[:1]
    near, junk = one[:, None] + 0.1 * torch.eye(8)[None, 1:2], torch.eye(8)[None, 5:6]
    num = [float((torch.einsum("bd,bld->bl", one, bag) / T).logsumexp(1)) for bag in (near, torch.cat([near, junk], 1))]
    assert num[1] >= num[0]
    # Of one record alone the denominator is twice the numerator's sum, whatever is in its bag.
    for bag in (near, torch.cat([near, junk], 1), torch.cat([near, near, junk], 1)):
        assert cross_modal_nce(one, bag, T).item() == pytest.approx(math.log(2))


def test_it_is_float32_inside_an_autocast_region():
    x, y = wave(6, 16), wave(6, 5, 16, phase=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = cross_modal_nce(x, y, T)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, cross_modal_nce(x, y, T), rtol=0, atol=0)


def test_recall():
    eye = torch.eye(4)
    assert recall_at_1(eye, eye).item() == 1
    assert recall_at_1(eye, eye[[1, 0, 2, 3]]).item() == 0.5
    # Without record 1 the first query is as far from all three keys.
    valid = torch.tensor([True, False, True, True])
    assert recall_at_1(eye, eye[[1, 0, 2, 3]], valid).item() == pytest.approx((1 / 3 + 2) / 3)
    assert recall_at_1(torch.ones(4, 2), torch.ones(4, 2)).item() == 0.25  # told apart by nothing
    assert recall_at_1(eye, eye, torch.zeros(4, dtype=torch.bool)).item() == 0
    with pytest.raises(ValueError, match="asymmetric, symmetric"):
        cross_modal_nce(eye, eye, T, form="both")
