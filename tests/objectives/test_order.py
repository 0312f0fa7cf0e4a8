import math
from itertools import permutations

import pytest
import torch

from tacit.objectives import ORDERS, arranged, order_accuracies, order_loss, preferred


def test_vectors_stand_in_the_order_that_is_asked():
    slots = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]]).expand(6, 3, 2)
    found = arranged(slots, torch.arange(6))
    assert found.shape == (6, 6)
    assert [tuple(row[::2].int().tolist()) for row in found] == list(permutations((1, 2, 3)))
    assert torch.equal(found[:, 1::2], 10 * found[:, ::2])


def test_what_a_head_without_knowledge_pays():
    order = torch.arange(6)
    assert float(order_loss(torch.zeros(6), order)) == pytest.approx(math.log(2))
    assert float(order_loss(torch.full((6,), math.log(5)), order)) == pytest.approx(0.450561, abs=1e-6)


def test_only_the_first_order_is_right():
    logits = torch.full((4, 6), 1.62)  # ln 5 = 1.609
    logits[:3, 0] = 1.6
    logits[0, 4] = 1.6
    assert order_accuracies(logits).tolist() == [0.75, 1, 1, 1, 0.75, 1]
    assert ORDERS.shape == (6, 3)


def test_of_two_orders_the_lower_logit_is_preferred():
    assert float(preferred(torch.tensor([0.0, 5.0, 1.0, 2.0]), torch.tensor([1.0, 6.0, 0.0, 2.0]))) == 0.625
