"""Masked modelling: closed values, and nothing but the chosen positions counts."""

import math

import pytest
import torch

from tacit.objectives import feature_loss, token_loss


def test_closed_values():
    chosen = torch.tensor([[True, False]])
    assert float(token_loss(torch.zeros(1, 2, 8), torch.tensor([[3, 4]]), chosen)) == pytest.approx(math.log(8))
    told, truth = torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.tensor([[[0.0, 1.0], [float("nan")] * 2]])
    assert float(feature_loss(told, truth, chosen)) == 1.5


def test_only_chosen_positions_count():
    g = torch.Generator().manual_seed(0)
    chosen = torch.rand(4, 6, generator=g) < 0.4
    told, truth = torch.randn(4, 6, 5, generator=g), torch.randn(4, 6, 5, generator=g)
    logits, words = torch.randn(4, 6, 7, generator=g), torch.randint(7, (4, 6), generator=g)
    before = feature_loss(told, truth, chosen), token_loss(logits, words, chosen)
    other = torch.where(chosen[..., None], told, torch.randn(4, 6, 5, generator=g))
    elsewhere = torch.where(chosen[..., None], logits, torch.randn(4, 6, 7, generator=g))
    assert (feature_loss(other, truth, chosen), token_loss(elsewhere, words, chosen)) == before
    assert feature_loss(told, truth + chosen[..., None], chosen) != before[0]
    assert token_loss(logits, (words + chosen) % 7, chosen) != before[1]


def test_without_a_chosen_position_the_loss_is_0_with_gradients():
    none = torch.zeros(2, 3, dtype=torch.bool)
    told = torch.randn(2, 3, 4, requires_grad=True)
    loss = feature_loss(told, torch.full((2, 3, 4), float("nan")), none) + token_loss(
        told, torch.zeros(2, 3).long(), none
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert not told.grad.any()
