import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from tacit.engine.lars import Lars
from tacit.errors import UsageError


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).float().view(*shape)


def trained(steps: int = 3, rates: tuple[float, ...] = (0.5,), **settings) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, a vector and a vector that starts at zero, after some steps."""
    w, b, z = wave(3, 4, phase=0.2), wave(3, phase=0.6), torch.zeros(2)
    optimiser = Lars([x.requires_grad_() for x in (w, b, z)], lr=rates[0], **settings)
    for k in range(steps):
        optimiser.param_groups[0]["lr"] = rates[min(k, len(rates) - 1)]
        w.grad, b.grad, z.grad = wave(3, 4, phase=1.0 + k), wave(3, phase=2.0 + k), 0.001 * wave(2, phase=3.0 + k)
        optimiser.step()
    return w.detach(), b.detach(), z.detach()


def test_the_golden_values_of_moco_v3():
    w, b, _ = trained(weight_decay=0.01)
    golden = torch.tensor([0.19671575725078583, 0.9467010498046875, -0.4406701922416687, -0.833145260810852])
    torch.testing.assert_close(w.flatten()[:4], golden, atol=1e-7, rtol=0)
    assert w.sum().item() == pytest.approx(0.11452388763427734, abs=1e-6)
    golden = torch.tensor([-0.4231182336807251, 2.6889028549194336, -0.2697823941707611])
    torch.testing.assert_close(b, golden, atol=1e-6, rtol=0)


def test_the_golden_values_of_larc():
    w, b, z = trained(weight_decay=0.01, larc=True, adapt_vectors=True)
    golden = torch.tensor([0.1967291682958603, 0.946688175201416, -0.44068029522895813, -0.8331297636032104])
    torch.testing.assert_close(w.flatten()[:4], golden, atol=1e-7, rtol=0)
    golden = torch.tensor([0.5636924505233765, 0.7477036714553833, -0.7563674449920654])
    torch.testing.assert_close(b, golden, atol=1e-7, rtol=0)
    golden = torch.tensor([-0.00019039293692912906, 0.0013549849390983582])
    torch.testing.assert_close(z, golden, atol=1e-8, rtol=0)


def by_hand(lr_inside: bool, rates: tuple[float, ...], decay: float) -> Tensor:
    w, v = wave(3, 4, phase=0.2).double(), torch.zeros(3, 4, dtype=torch.float64)
    for k, lr in enumerate(rates):
        g = wave(3, 4, phase=1.0 + k).double() + decay * w
        step = 1e-3 * w.norm() / g.norm() * g
        v = 0.9 * v + (lr * step if lr_inside else step)
        w = w - (v if lr_inside else lr * v)
    return w.float()


@pytest.mark.parametrize("lr_inside", [False, True])
def test_the_formula_when_the_rate_changes(lr_inside: bool):
    rates = (5.0, 50.0, 1.0)
    w, _, _ = trained(rates=rates, weight_decay=0.1, lr_inside=lr_inside)
    torch.testing.assert_close(w, by_hand(lr_inside, rates, 0.1), atol=1e-6, rtol=1e-5)
    other, _, _ = trained(rates=rates, weight_decay=0.1, lr_inside=not lr_inside)
    assert (w - other).abs().max() > 1e-3


def test_at_a_constant_rate_both_places_are_the_same():
    for inside, outside in zip(trained(lr_inside=True), trained(lr_inside=False), strict=True):
        torch.testing.assert_close(inside, outside)


@pytest.mark.parametrize("lr_inside", [False, True])
def test_without_adaptation_it_is_sgd(lr_inside: bool):
    found = trained(weight_decay=0.1, adapt=False, adapt_vectors=True, lr_inside=lr_inside)
    weights = [x.requires_grad_() for x in (wave(3, 4, phase=0.2), wave(3, phase=0.6), torch.zeros(2))]
    sgd = torch.optim.SGD(weights, lr=0.5, momentum=0.9, weight_decay=0.1)
    for k in range(3):
        gradients = (wave(3, 4, phase=1.0 + k), wave(3, phase=2.0 + k), 0.001 * wave(2, phase=3.0 + k))
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g
        sgd.step()
    for ours, theirs in zip(found, weights, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


def test_vectors_are_neither_adapted_nor_decayed_unless_asked():
    plain = wave(3, phase=0.6) - 0.5 * wave(3, phase=2.0)
    torch.testing.assert_close(trained(1, weight_decay=0.1)[1], plain)
    g = wave(3, phase=2.0) + 0.1 * wave(3, phase=0.6)
    adapted = wave(3, phase=0.6) - 0.5 * 1e-3 * wave(3, phase=0.6).norm() / g.norm() * g
    torch.testing.assert_close(trained(1, weight_decay=0.1, adapt_vectors=True)[1], adapted)


def test_a_group_may_go_unadapted_and_a_tensor_without_gradient_stays():
    a, b, c = (wave(2, 2, phase=i).requires_grad_() for i in range(3))
    before = [x.detach().clone() for x in (a, b, c)]
    optimiser = Lars([{"params": [a, c]}, {"params": [b], "adapt": False}], lr=1.0, weight_decay=0.1)
    a.grad, b.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimiser.step()
    torch.testing.assert_close((a.detach() - before[0]).norm(), 1e-3 * before[0].norm(), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(b.detach(), before[1] - (1 + 0.1 * before[1]))
    assert torch.equal(c.detach(), before[2])
    assert torch.equal(a.grad, torch.ones(2, 2))


@pytest.mark.parametrize("larc", [False, True])
def test_zero_weights_and_zero_gradients_take_a_ratio_of_one(larc: bool):
    zero, still = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    zero.grad, still.grad = torch.full((2, 2), 0.5), torch.zeros(2, 2)
    Lars([zero, still], lr=1.0, weight_decay=0.1, larc=larc).step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.5))
    # A gradient of zero: the decay alone moves the weights by the trusted share, but apex skips the tensor altogether.
    expected = torch.ones(2, 2) if larc else torch.full((2, 2), 1 - 1e-3)
    torch.testing.assert_close(still.detach(), expected)


def test_its_state_is_in_the_checkpoint():
    def run(optimiser: Lars, w: Tensor, first: int, last: int) -> None:
        for k in range(first, last):
            w.grad = wave(3, 4, phase=k)
            optimiser.step()

    a = wave(3, 4).requires_grad_()
    whole = Lars([a], lr=2.0)
    run(whole, a, 0, 2)
    b = a.detach().clone().requires_grad_()
    again = Lars([b], lr=9.0)
    again.load_state_dict(deepcopy(whole.state_dict()))
    run(whole, a, 2, 4)
    run(again, b, 2, 4)
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"lr": -1.0}, "lr"), ({"momentum": 1.0}, "momentum"), ({"trust": -1.0}, "trust"),
     ({"larc": True, "lr_inside": True}, "larc")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict, word: str):
    with pytest.raises(UsageError, match=word):
        Lars([torch.ones(2, requires_grad=True)], **{"lr": 1.0, **settings})
