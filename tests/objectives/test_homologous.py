"""The contrast of a mixture's images, against closed forms."""

import math

import pytest
import torch

from tacit.objectives import homologous_contrast, homologous_share


def test_tokens_that_are_all_alike_cost_the_logarithm_of_their_number():
    tokens = torch.ones(2, 16, 8) * torch.tensor([1.0, 5.0]).view(2, 1, 1)
    owners = torch.arange(16).remainder(4).expand(2, -1)
    assert homologous_contrast(tokens, owners, 0.25).item() == pytest.approx(math.log(15), rel=1e-6)


def test_images_that_are_told_apart_perfectly():
    """196 tokens, of one image 49: cosines of 1 to their own and of -1 to all others."""
    owners = torch.zeros(1, 196, dtype=torch.long)
    owners[0, ::4] = 1
    tokens = torch.where(owners == 1, 1.0, -1.0).unsqueeze(-1) * torch.ones(5)
    z = tokens[:, owners[0].argsort()]
    own = homologous_contrast(z, owners.sort().values, 0.25)
    few, many = math.log(48 + 147 * math.exp(-8)), math.log(146 + 49 * math.exp(-8))
    assert few == pytest.approx(3.8722, abs=1e-4)
    assert own.item() == pytest.approx((49 * few + 147 * many) / 196, rel=1e-6)


def test_by_hand_and_whatever_the_order_and_length():
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    owners = torch.tensor([[0, 1, 2, 2, 1, 0], [2, 2, 1, 1, 0, 0]])
    expected = 0.0
    for z, of in zip(torch.nn.functional.normalize(tokens, dim=-1), owners.tolist(), strict=True):
        for i in range(6):
            total = sum(math.exp(float(z[i] @ z[k]) / 0.5) for k in range(6) if k != i)
            (j,) = (j for j in range(6) if j != i and of[j] == of[i])
            expected -= math.log(math.exp(float(z[i] @ z[j]) / 0.5) / total) / 12
    found = homologous_contrast(tokens, owners, 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(homologous_contrast(3 * tokens[:, order], owners[:, order], 0.5), found)


def test_one_mixture_is_no_negative_of_another_and_one_alone_counts_as_nothing():
    a, b = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    owners = torch.tensor([[0, 0, 1, 1]])
    both = homologous_contrast(torch.cat([a, b]), owners.expand(2, -1), 0.25)
    torch.testing.assert_close(both, (homologous_contrast(a, owners, 0.25) + homologous_contrast(b, owners, 0.25)) / 2)
    z = a.requires_grad_()
    alone = homologous_contrast(z, torch.arange(4)[None], 0.25)
    alone.backward()
    assert alone == 0
    assert not z.grad.any()


def test_the_share_of_keys_of_the_own_image():
    owners = torch.tensor([[0, 0, 1, 1]])
    chosen = torch.tensor([[[[0, 1], [0, 2], [0, 1], [2, 3]]]])
    assert homologous_share(chosen, owners) == 5 / 8
    everything = torch.arange(4).expand(1, 2, 4, -1)
    assert homologous_share(everything, owners) == 0.5
