"""Stochastic depth that leaves rows out."""

import torch

from tacit import encoders


def vit(**changes) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build("vit_mini", **{"size": 16, "depth": 2, **changes})


def test_at_high_rates_a_branch_is_computed_for_some_rows_and_scaled():
    encoder = encoders.uniform_drop_path(vit(depth=1), 0.4)
    block, x = encoder.trunk.blocks[0], torch.randn(10, 5, 128)
    block.eval()
    branch = block.ls1(block.attn(block.norm1(x)))
    whole = block(x)
    torch.testing.assert_close(whole, x + branch + block.ls2(block.mlp(block.norm2(x + branch))))
    block.train()
    block.mlp = torch.nn.Identity()
    block.ls2 = torch.nn.Identity()
    block.norm2 = _Zero()
    torch.manual_seed(0)
    added = block(x) - x
    kept = added.abs().sum((1, 2)) > 0
    assert int(kept.sum()) == 6  # int(10 x .6)
    torch.testing.assert_close(added[kept], branch[kept] * 10 / 6, rtol=1e-4, atol=1e-5)


class _Zero(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_at_low_rates_every_block_drops_by_row_alike():
    encoder = encoders.uniform_drop_path(vit(), 0.05)
    rates = [block.drop_path1.drop_prob for block in encoder.trunk.blocks]
    assert rates == [0.05, 0.05]
    assert type(encoders.uniform_drop_path(vit(), 0.0).trunk.blocks[0].drop_path1) is torch.nn.Identity
